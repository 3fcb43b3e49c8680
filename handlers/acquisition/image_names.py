"""Names of a montage's images: pyTEMCA's form, and paths that stay in the metafile's directory. Pure."""

import re
from pathlib import Path
from typing import Final

from handlers.errors import MetafileFault
from handlers.text import excerpt

IMAGE_NAME: Final = re.compile(r"(\d{17})_(.+)\.[A-Za-z0-9]+", re.DOTALL)
"""Form of pyTEMCA's image names: the time to milliseconds, then session, grid, region, column and row."""
_PLAIN_NAME: Final = re.compile(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f]+")


def image_path(directory: Path, img_path: str) -> Path:
    """Return the path of the image that a tile record names, in the metafile's directory or below it.

    A symbolic link below the directory can still lead elsewhere; the function that opens the file checks that.

    Raises
    ------
    MetafileFault
        If img_path is absolute or leads out of the directory.

    >>> image_path(Path("/data/001050/0"), "a_88_0.tif")
    PosixPath('/data/001050/0/a_88_0.tif')
    """
    require_contained(img_path, directory)
    return directory / img_path


def require_contained(img_path: str, directory: Path) -> None:
    """Raise MetafileFault if the name of an image is absolute or leads out of the directory."""
    require_relative(img_path, "img_path", str(directory))


def require_relative(img_path: str, key: str, subject: str) -> None:
    """Raise MetafileFault unless every part of the path is a plain name.

    Parameters
    ----------
    key : key of the path in the metafile, for the fault's text.
    subject : subject of the fault.
    """
    if _PLAIN_NAME.fullmatch(img_path) is not None:
        return
    if img_path.startswith("/") or "\\" in img_path or re.match("[A-Za-z]:", img_path):
        problem = "is absolute or has a backslash; a name relative to the metafile's directory is expected"
    elif ".." in img_path.split("/"):
        problem = "leads out of the metafile's directory"
    elif not all(_PLAIN_NAME.fullmatch(part) for part in img_path.split("/")):
        problem = "is not a path of plain names"
    else:
        return
    raise MetafileFault(subject, f"{key}: {excerpt(img_path)} {problem}")
