"""Reading one section of an MRC file as the TIFF that render-ws reads. Blocking.

Only the bytes of the section are read, so the cost does not depend on the length of the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xxhash

from handlers.container import Container
from handlers.errors import ImageChanging, ImageFault
from handlers.file_status import status_of
from handlers.identity import FileIdentity
from handlers.images.decode import require_size, translate_errors
from handlers.images.digest import FileContent
from handlers.images.encode import PLAIN_TIFF, Page
from handlers.images.header import open_descriptor
from handlers.images.mrc_header import StackHeader, StackSection, section_info
from handlers.images.pixels import Grey


def read_section(
    section: StackSection, size: tuple[int, int] | None = None, root: Container | None = None
) -> tuple[Page, FileContent]:
    """Return a section as the TIFF that render-ws reads, with the identity of the MRC file and the digest of the TIFF.

    The same section always gives the same bytes. Rows are reversed: the first row of MRC is the lowest, that of TIFF
    the uppermost. 128 is added to signed bytes; negative 16-bit values become 0.

    Parameters
    ----------
    size : expected width and height; None: any.
    root : as for `inspect_section`.

    Raises
    ------
    ImageFault
        If the file is not supported, lacks the section, or has another size.
    ImageChanging
        If the section changes while it is read.
    ImagesMissing, StorageFault
        If the file cannot be read.
    """
    with _opened(section, root) as descriptor:
        identity = FileIdentity.of(status_of(descriptor))
        info, header = section_info(descriptor, section.number)
        if size is not None:
            require_size(info, section.path, *size)
        raw = _raw(descriptor, header, section)
    with _opened(section, root) as descriptor:  # a file that grows changes its identity, but not this section
        now = FileIdentity.of(status_of(descriptor))
        if now != identity and _raw(descriptor, header, section) != raw:
            problem = f"section {section.number} changed while it was read"
            raise ImageChanging(str(section.path), problem, "find the program that writes it; it is read again")
    page = PLAIN_TIFF.page(_grey(raw, header))
    return page, FileContent(now, xxhash.xxh3_128_digest(page.content))


@contextmanager
def _opened(section: StackSection, root: Container | None) -> Iterator[int]:
    with translate_errors(section.path), open_descriptor(section.path, root) as descriptor:
        yield descriptor


def _raw(descriptor: int, header: StackHeader, section: StackSection) -> bytes:
    at, left, pieces = header.start + section.number * header.section_bytes, header.section_bytes, []
    while left and (piece := os.pread(descriptor, left, at)):
        pieces.append(piece)
        at, left = at + len(piece), left - len(piece)
    if left:
        raise ImageFault(str(section.path), f"is truncated within section {section.number}", "copy it again")
    return b"".join(pieces)


def _grey(raw: bytes, header: StackHeader) -> Grey:
    stored = np.frombuffer(raw, header.dtype).reshape(header.height, header.width)[::-1]
    if header.bits == 8:
        shift = 0 if header.dtype.kind == "u" else 128
        grey: Grey = (stored.astype(np.int16) + shift).astype(np.uint8)
    else:
        grey = np.maximum(stored, 0).astype(np.uint16)
    return grey
