"""Geometry: from stage positions to pixels of the camera frame. Pure."""

import math

Point = tuple[float, float]
"""x, y."""


def stage_to_pixel(stage_nm: Point, pixel_size_nm: Point, angle_deg: float) -> Point:
    """Return the position of a tile in level-0 pixels of the camera frame, relative to the stage's origin.

    In this frame the columns of a montage run along +x and its rows along +y.

    Parameters
    ----------
    stage_nm : stage (x, y), nanometres; may be negative.
    pixel_size_nm : nanometres per pixel for stage motion in x and y, both above zero.
    angle_deg : rotation from stage to camera, degrees.

    >>> stage_to_pixel((3500.0, -7000.0), (3.5, 3.5), 0.0)
    (1000.0, -2000.0)

    Source: metafile fields stage_pos, pixel_size_x_move, pixel_size_y_move, angle. The operations have the order of
    asap-modules, so that positions truncated to integers are equal.
    """
    angle = math.radians(angle_deg)
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = stage_nm[0] / pixel_size_nm[0], stage_nm[1] / pixel_size_nm[1]
    return x * cosine + y * sine, -x * sine + y * cosine
