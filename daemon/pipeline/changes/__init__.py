"""Changes after a step: images that change, tiles that are uploaded late, the changed file of a FAILED montage."""
