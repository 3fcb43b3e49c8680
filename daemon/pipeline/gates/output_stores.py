"""Check object stores of mipmaps: whether one can be used, and whether it is the one that was used before.

A store does not report free space. Like a directory, it has a marker: an object that each check reads.
"""

from daemon.pipeline.health import Disk
from handlers.errors import ImageChanging, StorageFault, StoreFault
from handlers.place import ObjectPlace
from handlers.stores.bucket import BucketStore

MARKER = ".temwatch"
"""Name of the marker in a directory or store to which mipmaps were written."""
_CONTENT = b"temwatch writes mipmaps beside this object, and stops if it is gone.\n"
"""Content of the marker. It is not empty, so that truncated responses are detected. An operator may put an empty
one."""
_MARKER_TYPE = "text/plain"


def mark_store(directory: ObjectPlace) -> None:
    """Write the marker. Raises StoreFault. Blocking."""
    BucketStore(directory.bucket).write(directory / MARKER, _CONTENT, _MARKER_TYPE)


def has_object_marker(directory: ObjectPlace) -> bool:
    """Whether a store has the marker there. Raises StoreFault. Blocking."""
    return BucketStore(directory.bucket).stat(directory / MARKER) is not None


def require_object_marker(directory: ObjectPlace) -> None:
    """Raise StorageFault if the store cannot be reached or has no marker there. Blocking."""
    if not has_object_marker(directory):
        raise StorageFault(str(directory), _missing(directory), "work resumes automatically")


def check_store(directory: ObjectPlace, needed_bytes: int, *, used: bool, is_tried: bool) -> Disk:
    """Return the state of a directory in a store. Blocks as long as the store does not respond.

    Parameters
    ----------
    used : whether mipmaps were written to it before; then it must have the marker.
    is_tried : whether the marker is written again, to prove that the store accepts objects.
    """
    del needed_bytes
    try:
        if used:
            is_whole = _read_marker(directory) == _CONTENT
            if is_tried or not is_whole:
                mark_store(directory)
        elif is_tried:
            mark_store(directory)  # a query does not show whether the bucket exists
        else:
            BucketStore(directory.bucket).stat(directory / MARKER)
    except StoreFault as fault:
        return Disk(str(directory), None, 0, f"cannot be used: {fault.problem} ({fault.hint})")
    except StorageFault as fault:
        return Disk(str(directory), None, 0, fault.problem)
    return Disk(str(directory), None, 0)


def _read_marker(directory: ObjectPlace) -> bytes:
    """Return the marker's content, which proves that the store's responses are complete. Raises StorageFault."""
    try:
        with BucketStore(directory.bucket).open(directory / MARKER) as file:
            return file.read()
    except FileNotFoundError:
        raise StorageFault(str(directory), _missing(directory), "work resumes automatically") from None
    except ImageChanging:
        return _CONTENT  # another daemon is writing it now


def _missing(directory: ObjectPlace) -> str:
    return (
        f"lacks the marker object {MARKER}, so it is probably another bucket: correct output_dir; "
        f"if it is the right one, put an empty object {directory / MARKER}"
    )
