"""Level 0 that render-ws serves. Its file is also checked and hashed if this machine can read it.

This module imports http and pydantic, so only jobs that need it import it.
"""

from collections.abc import Callable
from typing import NoReturn

from handlers.errors import ImageFault
from handlers.identity import FileIdentity
from handlers.images.decode import require_size
from handlers.images.digest import FileContent, RunningDigest, settled_identity
from handlers.images.header import MAX_BYTES_PER_PIXEL_BYTE, MAX_EXTRA_BYTES, ImageInfo, open_content, read_header
from handlers.images.level0 import Level0File, require_same_file
from handlers.images.opened import Opened, size_of
from handlers.images.pixels import Grey, IntensityRange
from handlers.images.render_source import RenderSource
from handlers.images.source import fetch_level0, require_served_size

BYTES_PER_PIXEL = 4
"""Largest pixel of the kinds of images that only render-ws reads: four channels of 8 bits."""


class ServedLevel0:
    """Level 0 that render-ws serves.

    Parameters
    ----------
    file : the file that render-ws reads.
    window : the 16-bit values that become 0 and 255.

    Raises
    ------
    ImageFault
        If this machine can read the file, and it has another size.
    """

    has_more_pages = False
    runs = ()

    def __init__(self, file: Level0File, source: RenderSource, window: IntensityRange) -> None:
        self._file, self._source, self._window = file, source, window
        self.bits = source.bits
        info, self.digest, self._identity = _read_here(file)
        self._has_known_size = info is not None
        if info is not None:
            require_size(info, file.path, file.width, file.height)

    @property
    def content(self) -> FileContent | None:
        """Identity and digest of the file; None if this machine cannot read it, or it is an object."""
        return FileContent(self._identity, self.digest) if self._identity and self.digest else None

    def known_digest(self) -> bytes | None:
        """Return `digest`: the file was read already, or cannot be read."""
        return self.digest

    def pixels(self) -> Grey:
        """Return the pixels, (H, W), uint8.

        Raises
        ------
        RenderFault, ImageFault
            As `fetch_level0` and `require_served_size`.
        ImageChanging
            Instead of ImageFault if the file has changed meanwhile.
        """
        file = self._file
        try:
            pixels = fetch_level0(self._source, file.width, file.height, self._window)
            if not self._has_known_size:
                require_served_size(self._source, file.width, file.height)
        except ImageFault:
            self.require_unchanged()
            raise
        return pixels

    def stream(self, read: Callable[[Opened, RunningDigest], object]) -> NoReturn:
        """Raise ValueError, since there are no runs."""
        raise ValueError(f"{self._source.url} has no runs")

    def begin_comparing(self) -> None:
        """Do nothing: `require_unchanged` compares."""

    def require_unchanged(self) -> None:
        """Raise ImageChanging if the file has changed since it was read; return if this machine cannot read it."""
        if self._identity is not None:
            require_same_file(self._file, self._identity)

    def close(self) -> None:
        """Do nothing: no file is open."""


def _is_too_long(file: Level0File, size: int) -> bool:
    """Whether a file is too long for its pixels: a sparse file of any length takes no space on the disk."""
    return size > MAX_BYTES_PER_PIXEL_BYTE * BYTES_PER_PIXEL * file.width * file.height + MAX_EXTRA_BYTES


def _read_here(file: Level0File) -> tuple[ImageInfo | None, bytes | None, FileIdentity | None]:
    """Return header, digest and identity; each is None if this machine cannot read it within bounds."""
    digest, identity = None, None
    try:
        with open_content(file.path, file.root) as image:
            if _is_too_long(file, size_of(image)):
                return None, None, None
            identity = settled_identity(image) if isinstance(image, int) else None
            digest = RunningDigest(image).digest()
            return read_header(image, file.path, mask=file.is_mask), digest, identity
    except OSError:
        return None, None, None
    except ImageFault:  # render-ws may read images of this kind
        return None, digest, identity
