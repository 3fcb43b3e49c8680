"""Content and identity of a section inside a file, for each kind of file. Blocking."""

from pathlib import Path

from handlers.acquisition.formats.sbemimage_log import section_content as slice_content
from handlers.acquisition.formats.sbemimage_log import section_identity as slice_identity
from handlers.acquisition.formats.serialem_file import montage_content, montage_identity
from handlers.acquisition.section_path import montage_in
from handlers.container import Container
from handlers.identity import FileIdentity


def section_content(path: Path, root: Container | None = None) -> bytes:
    """Return the lines of a section.

    Parameters
    ----------
    root : directory that must contain the file; None: any.

    Raises
    ------
    NotRegular, NotContained, OSError
        If the file cannot be read, or has no such section.
    """
    return montage_content(path, root) if montage_in(path) else slice_content(path, root)


def section_identity(path: Path) -> FileIdentity | None:
    """Return the identity of a section; None if its file has no such section now. Raises NotRegular, OSError."""
    return montage_identity(path) if montage_in(path) else slice_identity(path)
