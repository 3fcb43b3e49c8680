"""Resolve a watched directory once, at its first use."""

from pathlib import Path

from handlers.container import Container, Containers
from handlers.errors import reading_fault


def watch_root(directory: Path, containers: Containers) -> Container:
    """Return the container of a watched directory. Raises StorageFault if it cannot be accessed. Blocking."""
    try:
        return containers.of(directory)
    except OSError as error:
        raise reading_fault(str(directory), "access the watched directory", error) from error
