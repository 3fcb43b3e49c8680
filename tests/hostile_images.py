"""Images that are made to cost a reader much time and memory. Sparse files take no space on the disk."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
FRAME = np.arange(WIDTH * HEIGHT, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint8)
GIB = 2**30


def encoded(form: str, **options: object) -> bytes:
    """Return FRAME as a file that Pillow writes."""
    made = io.BytesIO()
    Image.fromarray(FRAME).save(made, form, **options)
    return made.getvalue()


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """Return FRAME as a PNG file, with more bytes before and after the chunk with its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in FRAME)
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", zlib.compress(rows)) + after + png_chunk(b"IEND")


def sparse(path: Path, pieces: dict[int, bytes]) -> None:
    """Write pieces at offsets; the rest of the file takes no space."""
    with path.open("wb") as file:
        for offset, piece in pieces.items():
            file.seek(offset)
            file.write(piece)


def png_with_a_text_chunk_of_a_gigabyte(path: Path) -> None:
    whole = png()
    sparse(path, {0: whole[:33] + struct.pack(">I4s", GIB, b"tEXt"), 33 + 12 + GIB: whole[33:]})


def png_with_empty_chunks_before_its_pixels(path: Path) -> None:
    path.write_bytes(png(before=png_chunk(b"tEXt") * 500_000))


def png_of_a_gigabyte(path: Path) -> None:
    whole = png()
    sparse(path, {0: whole, GIB: whole[-12:]})


def jpeg_with(path: Path, inserted: bytes) -> None:
    whole = encoded("JPEG")
    path.write_bytes(whole[:2] + inserted + whole[2:])


def jpeg_with_fill_bytes(path: Path) -> None:
    jpeg_with(path, b"\xff" * 4_000_000)


def jpeg_with_comments(path: Path) -> None:
    jpeg_with(path, b"\xff\xfe\0\2" * 1_000_000)


def jpeg_of_a_gigabyte(path: Path) -> None:
    sparse(path, {0: encoded("JPEG"), GIB: b"\xff\xd9"})


def tiff_of_a_gigabyte(path: Path) -> None:
    sparse(path, {0: encoded("TIFF"), GIB: b"\0"})


def tiff_with_too_many_jpeg_tiles(path: Path) -> None:
    count, stream = 320 * 320, encoded("JPEG")
    tags = [
        (256, 4, 5000),
        (257, 4, 5120),
        (258, 3, 8),
        (259, 3, 7),
        (262, 3, 1),
        (277, 3, 1),
        (322, 3, 16),
        (323, 3, 16),
    ]
    offsets = struct.pack("<I", 8) * count
    lengths = struct.pack("<I", len(stream)) * count
    directory = 8 + len(stream) + len(offsets) + len(lengths)
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    entries.append(struct.pack("<HHII", 324, 4, count, 8 + len(stream)))
    entries.append(struct.pack("<HHII", 325, 4, count, 8 + len(stream) + len(offsets)))
    head = struct.pack("<4sI", b"II*\0", directory) + stream + offsets + lengths
    body = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(head + body + bytes(count * len(stream)))


HOSTILE_IMAGES = [
    png_with_a_text_chunk_of_a_gigabyte,
    png_with_empty_chunks_before_its_pixels,
    png_of_a_gigabyte,
    jpeg_with_fill_bytes,
    jpeg_with_comments,
    jpeg_of_a_gigabyte,
    tiff_of_a_gigabyte,
    tiff_with_too_many_jpeg_tiles,
]
"""Functions that write a file each. It must be refused when its header is read."""
