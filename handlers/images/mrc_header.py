"""Headers of MRC files, which contain a stack of images: size, depth, and whether a section is complete. Blocking.

The daemon inspects MRC files with this module. It reads 1,024 bytes, and compares their values with limits and with the
length of the file before any pixel is read. numpy and mrcfile are imported only when a header is parsed, since plans
and jobs import this module to name sections.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from handlers.container import Container
from handlers.errors import InvalidImage
from handlers.file_status import status_of
from handlers.identity import FileIdentity
from handlers.images.header import ImageInfo, open_descriptor

if TYPE_CHECKING:
    import numpy as np

HEADER_BYTES: Final = 1024
_MAX_SIDE: Final = 65536
_MAX_SECTIONS: Final = 1 << 24
_MAX_EXTENDED_BYTES: Final = 1 << 26
_BITS: Final = {0: 8, 1: 16, 6: 16}
"""Mode of the header -> bits of a pixel."""
_IMOD_STAMP: Final = 1146047817
_HINT: Final = "have SerialEM save integers of 8 or 16 bits, or one TIFF for each image"


@dataclass(frozen=True, slots=True)
class StackSection:
    """A section of an MRC file."""

    path: Path
    number: int
    """Number of the section in the file, from 0."""

    def __str__(self) -> str:
        return f"section {self.number} of {self.path}"


@dataclass(frozen=True, slots=True)
class StackHeader:
    """Header of an MRC file."""

    width: int
    height: int
    sections: int
    bits: int
    dtype: "np.dtype[Any]"
    """Type of a stored pixel, with its byte order and sign."""
    start: int
    """First byte of section 0."""

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        return self.width * self.height * self.dtype.itemsize


def read_stack_header(descriptor: int) -> StackHeader:
    """Return the header of an open MRC file. Reads 1,024 bytes.

    Raises
    ------
    InvalidImage
        If it is not an MRC file, or one of an unsupported kind.
    """
    head = os.pread(descriptor, HEADER_BYTES, 0)
    if len(head) < HEADER_BYTES:
        raise InvalidImage(f"has {len(head)} bytes, an MRC file has a header of {HEADER_BYTES}", "copy it again")
    header, order = _parsed(head)
    sides = {name: int(header[key]) for name, key in (("columns", "nx"), ("rows", "ny"))}
    for name, value in sides.items():
        if not 1 <= value <= _MAX_SIDE:
            raise InvalidImage(f"should have 1 to {_MAX_SIDE} {name} by its header, has {value}")
    sections, extended, mode = int(header["nz"]), int(header["nsymbt"]), int(header["mode"])
    if not 0 <= sections <= _MAX_SECTIONS:
        raise InvalidImage(f"should have up to {_MAX_SECTIONS} sections by its header, has {sections}")
    if not 0 <= extended <= _MAX_EXTENDED_BYTES:
        raise InvalidImage(f"should have an extended header of up to {_MAX_EXTENDED_BYTES} bytes, has {extended}")
    if mode not in _BITS:
        raise InvalidImage(f"has pixels of MRC mode {mode}; 0, 1 and 6 are read", _HINT)
    if (axes := [int(header[key]) for key in ("mapc", "mapr", "maps")]) not in ([1, 2, 3], [0, 0, 0]):
        raise InvalidImage(f"should have the axes 1, 2, 3 by its header, has {', '.join(map(str, axes))}", _HINT)
    dtype = _dtype_of(mode, header).newbyteorder(order)
    return StackHeader(sides["columns"], sides["rows"], sections, _BITS[mode], dtype, HEADER_BYTES + extended)


def _parsed(head: bytes) -> tuple[Any, Any]:
    """Return the fields of a header, and its byte order."""
    import numpy as np
    from mrcfile.dtypes import HEADER_DTYPE
    from mrcfile.utils import byte_order_from_machine_stamp

    found = np.frombuffer(head, HEADER_DTYPE)[0]
    if bytes(head[208:211]) != b"MAP":
        raise InvalidImage("is not an MRC file: bytes 209 to 211 should be MAP", "copy it again")
    try:
        order = byte_order_from_machine_stamp(found["machst"])
    except ValueError:
        raise InvalidImage(f"has the machine stamp {found['machst'].tobytes().hex()}, which is unknown") from None
    return np.frombuffer(head, HEADER_DTYPE.newbyteorder(order))[0], order


def _dtype_of(mode: int, header: Any) -> "np.dtype[Any]":
    """Return the type of a pixel. Bytes are signed, unless the header has IMOD's stamp and its flags say unsigned."""
    import numpy as np
    from mrcfile.utils import dtype_from_mode

    order = header.dtype["mode"].byteorder
    stamp, flags = np.frombuffer(header["extra2"].tobytes(), np.dtype(np.int32).newbyteorder(order), 2, 40)
    if mode == 0 and stamp == _IMOD_STAMP and not flags & 1:
        return np.dtype(np.uint8)
    found: np.dtype[Any] = dtype_from_mode(mode)
    return found


def section_info(descriptor: int, number: int) -> tuple[ImageInfo, StackHeader]:
    """Return size and depth of a section that an open file contains completely, and the file's header.

    Raises
    ------
    InvalidImage
        As `read_stack_header`, or if the file lacks the section.
    """
    header = read_stack_header(descriptor)
    if number >= header.sections:
        problem = f"has {header.sections} sections by its header: section {number} is not there yet"
        raise InvalidImage(problem, "copy it again, or end the acquisition")
    size, needed = status_of(descriptor).st_size, header.start + (number + 1) * header.section_bytes
    if size < needed:
        raise InvalidImage(f"is truncated: has {size} bytes, section {number} ends at {needed}", "copy it again")
    return ImageInfo(header.width, header.height, header.bits, "mrc", header.section_bytes), header


def inspect_section(section: StackSection, root: Container | None = None) -> tuple[ImageInfo, FileIdentity]:
    """Return size and depth of a section, and the identity of its file. Reads only the header.

    Parameters
    ----------
    root : directory that must contain the file after all links are followed; None: any.

    Raises
    ------
    ImageFault
        If the file is not supported, or lacks the section.
    OSError
        If the file cannot be read.
    """
    with open_descriptor(section.path, root) as descriptor:
        try:
            return section_info(descriptor, section.number)[0], FileIdentity.of(status_of(descriptor))
        except InvalidImage as error:
            raise error.fault(section.path) from error
