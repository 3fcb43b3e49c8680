"""Files that this process holds open."""

from contextlib import suppress
from pathlib import Path


def descriptors_of(path: Path) -> list[str]:
    """Return the names of the open files of this process that begin with `path`."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this listing
            names.append(str(descriptor.readlink()))
    return [name for name in names if name.startswith(str(path))]
