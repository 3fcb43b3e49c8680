"""Image files: looks at level 0, writes levels atomically, verifies them. `make_mipmaps` is what a worker process runs.

Imports numpy and Pillow, nothing of the daemon: it is loaded once in every worker.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from handlers import errors
from handlers.errors import Fault, ImageFault, StorageFault, storage_fault
from handlers.mipmaps import FULL_RANGE, Grey, level_size, reduce_levels

LARGEST_SIDE_PX = 65_536
"""A camera frame is smaller; what claims to be larger is not decoded."""
# Pillow's own guess at what is a bomb lies below a large camera's frame. Here sizes are bounded before decoding.
Image.MAX_IMAGE_PIXELS = LARGEST_SIDE_PX**2
_BITS = {"L": 8, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 16}
"""Pillow's names of the modes that are taken. Mode I is what some 16-bit files open as; its values are checked."""
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_SAVE = {
    "tif": ("TIFF", {}),
    "png": ("PNG", {"compress_level": 1}),
    "jpg": ("JPEG", {"quality": 85}),
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says."""

    width: int
    """Pixels."""
    height: int
    bits: int
    """8 or 16."""
    file_bytes: int


@dataclass(frozen=True, slots=True)
class MipmapJob:
    """The levels to be made of one image; everything a worker needs to know."""

    tile_id: str
    level0: Path
    outputs: tuple[tuple[int, Path], ...]
    """(level, file)."""
    width: int
    """What the image must be, in pixels."""
    height: int
    method: str = "mean"
    extension: str = "tif"
    convert_to_8bit: bool = True
    intensity_range: tuple[int, int] = FULL_RANGE
    """The 16-bit values that become 0 and 255."""
    root: Path | None = None
    """Directory that the image may not lead out of."""


@dataclass(frozen=True, slots=True)
class FaultReport:
    """A fault as it crosses the process border."""

    kind: str
    """Class name."""
    subject: str
    problem: str
    hint: str

    @classmethod
    def of(cls, fault: Fault) -> "FaultReport":
        """The report of a fault."""
        return cls(type(fault).__name__, fault.subject, fault.problem, fault.hint)

    def to_fault(self) -> Fault:
        """The fault again."""
        kind = getattr(errors, self.kind, Fault)
        fault: Fault = kind(self.subject, self.problem, self.hint)
        return fault


@dataclass(frozen=True, slots=True)
class MadeLevel:
    """A level that was written and read back."""

    level: int
    path: Path
    width: int
    height: int
    bits: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MipmapReport:
    """What came of a job: all levels, or a fault."""

    tile_id: str
    made: tuple[MadeLevel, ...]
    seconds: float
    fault: FaultReport | None = None


# --- level 0


def inspect_image(path: Path, root: Path | None = None) -> ImageInfo:
    """Size and depth of an image by its header, after seeing that the file is long enough to hold all of it.

    Parameters
    ----------
    root : directory that the file may not lead out of, through symbolic links or otherwise.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ImageFault
        If it is not a grey image of 8 or 16 bits, is cut short, or leads out of `root`.
    StorageFault
        If the disk or mount does not let it be read.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise ImageFault(
            str(path), f"leads out of {root}", "what lies elsewhere is not read; copy the image itself there"
        )
    with _opened(path) as (image, file_bytes):
        return _info(path, image, file_bytes)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """The image, its header read, and the file's length in bytes."""
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            yield _header(path, file), file_bytes
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:
        raise ImageFault(str(path), _not_an_image(path), "see what wrote it") from None
    except (IsADirectoryError, Image.DecompressionBombError) as error:
        raise ImageFault(str(path), f"is not an image: {error}", "see what wrote it") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own, for what it finds in the file
            raise ImageFault(str(path), f"cannot be decoded: {error}", "it may be cut short; copy it again") from None
        raise storage_fault(str(path), "read the image", error) from error
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, MemoryError, OverflowError) as error:
        # Pillow's decoders answer damaged files with these.
        raise ImageFault(str(path), f"cannot be decoded: {error}", "it is damaged; copy it again") from None


def _header(path: Path, file: BinaryIO) -> Image.Image:
    image = Image.open(file, formats=("TIFF", "PNG", "JPEG"))
    if max(image.size) > LARGEST_SIDE_PX:
        raise ImageFault(str(path), f"claims {image.size[0]}x{image.size[1]} pixels", "no camera makes such frames")
    return image


def _not_an_image(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(16)
        if not start:
            return "is empty"
        if not start.strip(b"\0"):
            return "begins with zeros: it may still be on its way"
    return "is not an image (TIFF, PNG or JPEG)"


def _info(path: Path, image: Image.Image, file_bytes: int) -> ImageInfo:
    bits = _BITS.get(image.mode)
    if bits is None:
        raise ImageFault(str(path), f"is of mode {image.mode}, not grey of 8 or 16 bits", "level 0 must be grey")
    needed = _needed_bytes(image)
    if needed is not None and file_bytes < needed:
        raise ImageFault(str(path), f"is cut short: {file_bytes} of {needed} bytes", "copy it again")
    return ImageInfo(image.size[0], image.size[1], bits, file_bytes)


def _needed_bytes(image: Image.Image) -> int | None:
    """How long the file must be to hold what a TIFF's header points at; None for other formats."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    tags = image.tag_v2
    offsets = tags.get(_STRIP_OFFSETS) or tags.get(_TILE_OFFSETS)
    lengths = tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES)
    if not offsets or not lengths or len(offsets) != len(lengths):
        return None
    return max(int(offset) + int(length) for offset, length in zip(offsets, lengths, strict=True))


def read_level0(path: Path, width: int, height: int, root: Path | None = None) -> Grey:
    """The image as an array, (H, W), uint8 or uint16. Of a file with several pages, the first.

    Raises
    ------
    ImageFault
        If it is missing, cut short, not grey, or of another size.
    StorageFault
        If the disk or mount does not let it be read.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise ImageFault(
            str(path), f"leads out of {root}", "what lies elsewhere is not read; copy the image itself there"
        )
    try:
        with _opened(path) as (image, file_bytes):
            info = _info(path, image, file_bytes)
            if (info.width, info.height) != (width, height):
                raise ImageFault(
                    str(path), f"is {info.width}x{info.height} pixels, not {width}x{height}", "see what wrote it"
                )
            return _array(path, image, info.bits)
    except FileNotFoundError:
        raise ImageFault(str(path), "is missing", "copy it there again, then replay the montage") from None


def _array(path: Path, image: Image.Image, bits: int) -> Grey:
    pixels = np.asarray(image)
    if bits == 8:
        return pixels
    if pixels.dtype != np.uint16 and (pixels.min() < 0 or pixels.max() > 65535):
        raise ImageFault(str(path), "has values that do not fit 16 bits", "level 0 must be grey of 8 or 16 bits")
    return pixels.astype(np.uint16, copy=False)


# --- levels


def make_mipmaps(job: MipmapJob) -> MipmapReport:
    """Makes every level of the job, each written beside its place, synced, renamed and read back.

    Never raises for what a file or a disk can cause: that is in the report. A fault leaves no partial file behind.
    """
    started = time.monotonic()
    made: list[MadeLevel] = []
    try:
        image = read_level0(job.level0, job.width, job.height, job.root)
        bits = 8 if image.dtype == np.uint8 or job.convert_to_8bit else 16
        del bits
        outputs = dict(job.outputs)
        for level, reduced in reduce_levels(
            image, list(outputs), job.method, job.intensity_range if job.convert_to_8bit else None
        ):
            made.append(_make_level(job, level, outputs[level], reduced))
    except Fault as fault:
        return MipmapReport(job.tile_id, tuple(made), time.monotonic() - started, FaultReport.of(fault))
    except MemoryError:
        scarce = StorageFault(str(job.level0), "needs more memory than there is", "run fewer workers")
        return MipmapReport(job.tile_id, tuple(made), time.monotonic() - started, FaultReport.of(scarce))
    return MipmapReport(job.tile_id, tuple(made), time.monotonic() - started)


def _make_level(job: MipmapJob, level: int, path: Path, reduced: Grey) -> MadeLevel:
    width, height = level_size(job.width, job.height, level)
    bits = reduced.dtype.itemsize * 8
    write_atomically(path, encoded(reduced, job.extension))
    return MadeLevel(level, path, width, height, bits, verify_level(path, width, height, bits))


def encoded(image: Grey, extension: str) -> bytes:
    """The image as a file of this extension: uncompressed TIFF, PNG, or JPEG of quality 85."""
    format_name, options = _SAVE[extension]
    file = BytesIO()
    Image.fromarray(image).save(file, format_name, **options)
    return file.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that its name never shows less than all of it, not even after a power cut.

    Raises
    ------
    StorageFault
        If the disk refuses; nothing is left behind then.
    """
    # One name for every writer of this file: what a killed process left is overwritten by the one that makes it again.
    part = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise storage_fault(str(path), "write the mipmap level", error) from error


def verify_level(path: Path, width: int, height: int, bits: int) -> int:
    """Length in bytes of a level that decodes and is of this size and depth.

    Raises
    ------
    StorageFault
        If it is not what was written: the disk lost or changed it.
    """
    try:
        with _opened(path) as (image, file_bytes):
            info = _info(path, image, file_bytes)
            image.load()
    except (FileNotFoundError, ImageFault) as error:
        raise StorageFault(str(path), f"cannot be read back after writing: {error}", "see the disk's health") from error
    if (info.width, info.height, info.bits) != (width, height, bits):
        raise StorageFault(
            str(path),
            f"reads back as {info.width}x{info.height} of {info.bits} bits, not {width}x{height} of {bits}",
            "another program may write there",
        )
    return file_bytes
