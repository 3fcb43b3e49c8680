"""Images whose rows are decoded one after the other while their file is read."""

from handlers.images.digest import HashedFile
from handlers.images.formats.png_rows import PngRows
from handlers.images.formats.tiff_bands import DecodedRows
from handlers.images.header import ImageInfo
from handlers.images.opened import Opened
from handlers.ranged_file import Ranged


def decoded_rows(image: Opened, info: ImageInfo) -> Ranged | None:
    """Return the decoded rows of an open image, from the first to the last; None if it must be decoded whole."""
    if info.bits == 1:
        return None
    content = HashedFile(image) if isinstance(image, int) else image
    if info.png and PngRows.can_do(info.png):
        return PngRows(content, info.png)
    return DecodedRows(content, info.layout) if info.layout else None
