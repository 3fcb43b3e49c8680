"""Pixels of PNG files. The number of their chunks is bounded."""

from typing import BinaryIO, cast

from PIL import PngImagePlugin

from handlers.images.digest import HashedFile
from handlers.images.formats.pillow_pixels import array_of
from handlers.images.formats.png_header import ChunkLimit, PngHeader, require_few_chunks
from handlers.images.formats.png_rows import PngRows, png_rows
from handlers.images.opened import opened, pread
from handlers.images.pixels import Grey
from handlers.ranged_file import Ranged, RangedFile


def png_pixels(file: BinaryIO, header: PngHeader, file_bytes: int) -> Grey:
    """Return the pixels of a grey PNG, (H, W). The file is at its beginning.

    Raises
    ------
    InvalidImage
        If it is damaged, or has so many small chunks that decoding takes excessive time.
    OSError, SyntaxError
        And other errors of Pillow, if it cannot be decoded.
    """
    image = opened(file)
    if PngRows.can_do(header):
        return png_rows(HashedFile(image) if isinstance(image, int) else image, header)
    if isinstance(image, int):
        require_few_chunks(lambda offset, length: pread(image, length, offset), file_bytes)
        return array_of(PngImagePlugin.PngImageFile(file))
    counted = cast("BinaryIO", _Counted(image, file_bytes))
    return array_of(PngImagePlugin.PngImageFile(counted))


class _Counted(RangedFile):
    """A PNG whose chunks are counted as the decoder reads them: to count them first would need each range twice."""

    def __init__(self, content: Ranged, file_bytes: int) -> None:
        super().__init__(content)
        self._limit = ChunkLimit(lambda offset, length: content.pread(length, offset), file_bytes)

    def read(self, size: int | None = -1) -> bytes:
        """Return bytes. Raises InvalidImage if there are too many chunks up to their end."""
        piece = super().read(size)
        self._limit.passed(self.tell())
        return piece
