"""Object stores that mipmaps are written to: whether one can be used, and whether it is the one that was used before.

A store has no free space to check. As a directory does, it carries an empty object as marker.
"""

from daemon.pipeline.health import Disk
from handlers.errors import StorageFault, StoreFault
from handlers.place import ObjectPlace
from handlers.stores.bucket import BucketStore

MARKER = ".temwatch"
"""Name of the empty marker file in a directory that mipmaps were written to."""
_MARKER_TYPE = "application/octet-stream"


def mark_store(directory: ObjectPlace) -> None:
    """Put the marker. Raises StoreFault. Blocking."""
    BucketStore(directory.bucket).write(directory / MARKER, b"", _MARKER_TYPE)


def require_object_marker(directory: ObjectPlace) -> None:
    """Raise StorageFault if the store cannot be asked or has no marker there. Blocking."""
    if BucketStore(directory.bucket).stat(directory / MARKER) is None:
        raise StorageFault(str(directory), _missing(directory), "work resumes by itself")


def check_store(directory: ObjectPlace, needed_bytes: int, *, used: bool, is_tried: bool) -> Disk:
    """Return the state of a directory in a store. Blocks for as long as the store does not answer.

    Parameters
    ----------
    used : whether mipmaps were written to it before, so that it must carry the marker.
    is_tried : whether the marker is written again, to prove that the store takes objects.
    """
    del needed_bytes
    try:
        if used:
            require_object_marker(directory)
            if is_tried:
                mark_store(directory)
        else:
            BucketStore(directory.bucket).stat(directory / MARKER)
    except StoreFault as fault:
        return Disk(str(directory), None, 0, f"cannot be used: {fault.problem} ({fault.hint})")
    except StorageFault as fault:
        return Disk(str(directory), None, 0, fault.problem)
    return Disk(str(directory), None, 0)


def _missing(directory: ObjectPlace) -> str:
    return (
        f"lacks the marker object {MARKER}, so it is probably another bucket: correct output_dir, "
        f"or, if it is the right one, put an empty object {directory / MARKER}"
    )
