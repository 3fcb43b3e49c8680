"""TIFF files of every kind for tests. Pillow compresses the pixels; this module writes all the rest."""

import io
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COMPRESSORS = {
    1: None,
    5: "tiff_lzw",
    8: "tiff_adobe_deflate",
    32773: "packbits",
    32946: "tiff_adobe_deflate",
    34925: "lzma",
    50000: "zstd",
}
"""Number of each lossless compression that can be read -> its name in Pillow."""
REVERSED = bytes(sum(((byte >> bit) & 1) << (7 - bit) for bit in range(8)) for byte in range(256))
Pixels = npt.NDArray[Any]


def packed(rows: npt.NDArray[np.uint8], compression: int) -> bytes:
    """Return rows of bytes as one compressed strip or tile."""
    compressor = COMPRESSORS[compression]
    if compressor is None:
        return rows.tobytes()
    made = io.BytesIO()
    Image.fromarray(rows).save(made, "TIFF", compression=compressor, tiffinfo={278: len(rows)})
    made.seek(0)
    with Image.open(made) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        ((offset,), (length,)) = tags[273], tags[279]
    return made.getvalue()[offset : offset + length]


@dataclass(frozen=True)
class Kind:
    """How a TIFF is written."""

    order: str = "<"
    big: bool = False
    compression: int = 1
    predictor: int = 1
    reversed_bits: bool = False
    piece: tuple[int, int] | None = None
    """Width and height of tiles; None for strips."""
    rows: int = 1000
    """Rows of each strip."""
    tags: Mapping[int, tuple[int, Collection[int]]] = field(default_factory=dict)
    """Tags that are added or replaced: number -> (type, values)."""
    without: Collection[int] = ()
    """Tags that are omitted."""

    def file(self, pixels: Pixels) -> bytes:
        """Return a file with these pixels: (H, W) of 8 or 16 bits, or of booleans for one bit."""
        return self.file_of([self._piece(part) for part in self._parts(pixels)], pixels)

    def file_of(self, pieces: list[bytes], pixels: Pixels) -> bytes:
        """Return a file with these strips or tiles."""
        height, width = pixels.shape
        bits = 1 if pixels.dtype == bool else pixels.itemsize * 8
        at, body = [], bytearray(16 if self.big else 8)
        for piece in pieces:
            at.append(len(body))
            body += piece
        body += bytes(len(body) % 2)
        lengths = [len(piece) for piece in pieces]
        tags: dict[int, tuple[int, Collection[int]]] = {
            256: (4, [width]),
            257: (4, [height]),
            258: (3, [bits]),
            259: (3, [self.compression]),
            262: (3, [1]),
            266: (3, [2 if self.reversed_bits else 1]),
            277: (3, [1]),
            **({317: (3, [self.predictor])} if self.predictor != 1 else {}),
        }
        if self.piece is None:
            tags |= {273: (4, at), 278: (4, [self.rows]), 279: (4, lengths)}
        else:
            tags |= {322: (3, [self.piece[0]]), 323: (3, [self.piece[1]]), 324: (4, at), 325: (4, lengths)}
        tags |= self.tags
        return self._with_directory(body, {tag: tags[tag] for tag in sorted(tags.keys() - set(self.without))})

    def _parts(self, pixels: Pixels) -> list[Pixels]:
        height, width = pixels.shape
        if self.piece is None:
            return [pixels[top : top + self.rows] for top in range(0, height, self.rows)]
        across, down = self.piece
        filled = np.pad(pixels, ((0, -height % down), (0, -width % across)), mode="reflect")
        return [
            filled[top : top + down, left : left + across]
            for top in range(0, height, down)
            for left in range(0, width, across)
        ]

    def _piece(self, part: Pixels) -> bytes:
        if part.dtype == bool:
            rows = np.packbits(part, axis=1)
        else:
            values = part.copy()
            if self.predictor == 2:
                values[:, 1:] -= part[:, :-1]
            rows = values.astype(part.dtype.newbyteorder(self.order)).view(np.uint8)
        content = packed(np.ascontiguousarray(rows), self.compression)
        return content.translate(REVERSED) if self.reversed_bits else content

    def _with_directory(self, body: bytearray, tags: dict[int, tuple[int, Collection[int]]]) -> bytes:
        letters = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}
        count, word, word_bytes = ("Q", "Q", 8) if self.big else ("H", "I", 4)
        directory_bytes = (8 if self.big else 2) + len(tags) * (20 if self.big else 12) + word_bytes
        entries, behind = b"", b""
        for tag, (kind, values) in tags.items():
            value = struct.pack(f"{self.order}{len(values)}{letters[kind]}", *values)
            if len(value) > word_bytes:
                where = len(body) + directory_bytes + len(behind)
                value, behind = struct.pack(self.order + word, where), behind + value
            entries += struct.pack(f"{self.order}HH{word}", tag, kind, len(values)) + value.ljust(word_bytes, b"\0")
        mark = b"II" if self.order == "<" else b"MM"
        start = (
            struct.pack(f"{self.order}HHHQ", 43, 8, 0, len(body))
            if self.big
            else struct.pack(f"{self.order}HI", 42, len(body))
        )
        body[: len(mark + start)] = mark + start
        return bytes(body) + struct.pack(self.order + count, len(tags)) + entries + bytes(word_bytes) + behind
