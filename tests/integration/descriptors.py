"""Files that this process holds open."""

from contextlib import suppress
from pathlib import Path


def descriptors_of(path: Path) -> list[str]:
    """Open files of this process whose names begin with `path`."""
    held = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the others
            held.append(str(descriptor.readlink()))
    return [name for name in held if name.startswith(str(path))]
