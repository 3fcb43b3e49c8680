"""Making the mipmap files of one tile: level 0 is read, each level is written whole or not at all, and read back.

`make_mipmaps` runs in a worker process. It takes a job and returns a report; what input or disk can cause is in the
report, never an exception.
"""

import errno
import functools
import hashlib
import itertools
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from handlers import errors
from handlers.areamean import unbiased
from handlers.errors import Fault, ImageFault, ImagesMissing, SettingsFault, StorageFault, WorkerFault, storage_fault
from handlers.formats import PLAIN_START_BYTES, PLAIN_TIFF, Encoding, Page
from handlers.greyvalues import FULL_RANGE, Grey, IntensityRange
from handlers.imageheader import UNREADABLE, ImageInfo, decoder, inspect_image, opened, read_header
from handlers.mipmaps import reduce_levels
from handlers.reduction import MEAN, Reduction, level_size
from handlers.workbench import Kind, Workbench, bench_for

if TYPE_CHECKING:
    from handlers.sourceimages import RenderSource

__all__ = ["Encoding", "FaultReport", "ImageInfo", "MadeLevel", "MipmapJob", "MipmapReport", "Reduction"]
__all__ += ["inspect_image", "make_mipmaps", "verify_level"]

READ_BACK_BYTES = 128 * 1024
"""At once: what was read is compared while it is in the cache."""
ROWS_OF_PILLOW = 256
"""Handed over at once: of a whole image there would be two more copies for a moment."""
STALE_S = 3600.0
"""A temporary file that has not changed for this long is nobody's, whoever made it."""


@dataclass(frozen=True, slots=True)
class MipmapJob:
    """The levels to be made of one image."""

    tile_id: str
    level0: Path
    outputs: tuple[tuple[int, Path], ...]
    """(level, its file), in any order. The directories are made."""
    width: int
    """Of level 0, as its metafile says; an image of another size is refused before it is decoded."""
    height: int
    reduction: Reduction = MEAN
    encoding: Encoding = PLAIN_TIFF
    convert_to_8bit: bool = True
    """Whether levels of a 16-bit image have 8 bits. 8-bit images stay as they are."""
    intensity_range: IntensityRange | None = None
    """The 16-bit values that become 0 and 255; None is 0 and 65535."""
    root: Path | None = None
    """Directory that the image may not lie outside of when links are followed."""
    is_mask: bool = False
    """Whether the image is a mask: it may then have one bit per pixel, and not 16."""
    force: bool = True
    """Whether levels that are there and valid are made all the same: valid ones decode, have the right size, mode and
    format, and are newer than the file of level 0. What they show is not compared."""
    maximum_intensity: float | None = None
    """What its tile spec shows white; a note tells if it does not suit the bits of the image."""
    source: "RenderSource | None" = None
    """Where render-ws serves level 0, which is then asked of it rather than read; the method "render" needs one."""

    @property
    def to_8bit(self) -> IntensityRange | None:
        """The range that 16-bit values are scaled from, if they are."""
        return (self.intensity_range or FULL_RANGE) if self.convert_to_8bit else None


@dataclass(frozen=True, slots=True)
class MadeLevel:
    """A level that is in place and was verified."""

    level: int
    path: Path
    width: int
    height: int
    mode: str
    """L for 8 bits, I;16 for 16."""
    bytes: int


@dataclass(frozen=True, slots=True)
class FaultReport:
    """A fault as it travels between processes."""

    kind: str
    """Name of its class in `errors`."""
    subject: str
    problem: str
    hint: str

    @classmethod
    def of(cls, fault: Fault) -> "FaultReport":
        """The report of a fault; one of a class that `errors` lacks is that of the nearest one above."""
        kind = next(base for base in type(fault).__mro__ if getattr(errors, base.__name__, None) is base)
        return cls(kind.__name__, fault.subject, fault.problem, fault.hint)

    def to_fault(self) -> Fault:
        """The fault again."""
        kind: type[Fault] = getattr(errors, self.kind)
        return kind(self.subject, self.problem, self.hint)


@dataclass(frozen=True, slots=True)
class MipmapReport:
    """What became of a job."""

    tile_id: str
    made: tuple[MadeLevel, ...] = ()
    """Levels that were written; with a fault those that came before it."""
    seconds: float = 0.0
    fault: FaultReport | None = None
    notes: tuple[str, ...] = ()
    """What a person may want to know of the image, though its levels were made."""
    kept: tuple[MadeLevel, ...] = ()
    """Levels that were there and valid, and were not to be made all the same."""
    level0_bits: int | None = None
    """Bits per pixel of level 0, if it came to be looked at."""


def make_mipmaps(job: MipmapJob) -> MipmapReport:
    """Makes, and verifies, the levels of a job. Raises nothing that input or disk can cause: that is reported."""
    started = time.perf_counter()
    made: list[MadeLevel] = []
    kept: tuple[MadeLevel, ...] = ()
    original: _Original | None = None
    fault: Fault | None = None
    try:
        _require_sense(job)
        original = _look_at(job)
        kept = () if job.force else tuple(_valid_levels(job, original))
        paths = dict(job.outputs)
        wanted = paths.keys() - {level.level for level in kept}
        if wanted:
            with _pages(job, wanted, original) as pages:
                made.extend(_publish(level, paths[level], page, job.encoding) for level, page in pages)
    except Fault as found:
        fault = found
    except MemoryError:
        fault = WorkerFault(
            str(job.level0), "did not fit into memory", f"an image of {job.width}x{job.height}: use fewer workers"
        )
    return MipmapReport(
        job.tile_id,
        tuple(made),
        time.perf_counter() - started,
        FaultReport.of(fault) if fault else None,
        original.notes if original else (),
        kept,
        original.bits if original else None,
    )


def verify_level(path: Path, width: int, height: int, mode: str) -> Grey:
    """The pixels of a level's file, which decodes and is of the size and mode wanted.

    Raises
    ------
    ImageFault
        If it is not.
    ImagesMissing
        If it is not there.
    StorageFault
        If it cannot be read.
    """
    pixels, info = _read(path, width, height)
    if info.mode != mode:
        raise ImageFault(str(path), f"has mode {info.mode}, not {mode}", "have the mipmaps made again")
    return pixels


@dataclass(frozen=True, slots=True)
class _Original:
    """Level 0 before it is decoded."""

    bits: int
    mtime_ns: int | None
    """None if only render-ws can reach the file."""
    notes: tuple[str, ...] = ()


def _require_sense(job: MipmapJob) -> None:
    """Returns if the job can be done, as far as its own words tell."""
    levels = [level for level, _ in job.outputs]
    if job.is_mask and not job.encoding.lossless:
        raise SettingsFault("mipmaps.format", f"{job.encoding.extension} blurs the masks", "use tif or png")
    if job.reduction.method == "render" and job.source is None:
        raise SettingsFault("mipmaps.method", "render: nothing says where render-ws serves the image")
    if len(set(levels)) < len(levels) or min(levels, default=1) < 1:
        raise SettingsFault("mipmaps.levels", f"{levels} are not levels from 1 on, each once")
    if any(path == job.level0 for _, path in job.outputs):
        raise SettingsFault("mipmaps.output_dir", f"a level would replace the image {job.level0}")
    low, high = job.intensity_range or FULL_RANGE
    if not 0 <= low < high <= 65535:
        raise SettingsFault("mipmaps.range_16bit", f"{low}, {high} are not ascending values from 0 to 65535")
    if 0 in level_size(job.width, job.height, max(levels, default=0)):
        raise ImageFault(
            str(job.level0), f"is {job.width}x{job.height} pixels: level {max(levels)} is empty", "make fewer levels"
        )


def _look_at(job: MipmapJob) -> _Original:
    """What is known of level 0 before it is decoded. Raises a Fault for what cannot be done with it."""
    original = _original_of_source(job, job.source) if job.source else _original_of_file(job)
    bits = 16 if original.bits == 16 and not job.convert_to_8bit else 8
    if bits not in job.encoding.depths:
        raise SettingsFault(
            "mipmaps.format",
            f"{job.encoding.extension} cannot hold the 16 bits of {job.level0}",
            "set mipmaps.convert_to_8bit = true, or another format",
        )
    return original


def _original_of_file(job: MipmapJob) -> _Original:
    with _told(job.level0), opened(job.level0, job.root) as file:
        info = read_header(file, job.level0, mask=job.is_mask)
        _require_size(info, job.level0, job.width, job.height)
        return _Original(info.bits, os.fstat(file.fileno()).st_mtime_ns, tuple(_notes(job, info)))


def _notes(job: MipmapJob, info: ImageInfo) -> Iterator[str]:
    if info.has_more_pages:
        yield f"{job.level0} holds more than one image; the first one was used"
    brightest = job.maximum_intensity
    if brightest is not None and not job.is_mask and (info.bits == 16) != (brightest > 255):
        shown = "white" if info.bits == 16 else "black"
        yield (
            f"{job.level0} has {info.bits} bits, but the maximum intensity of its tile spec is {brightest:g}: "
            f"render-ws shows it nearly {shown}"
        )


def _original_of_source(job: MipmapJob, source: "RenderSource") -> _Original:
    if source.bits == 16 and not job.convert_to_8bit:
        raise SettingsFault(
            "mipmaps.method",
            f"render-ws serves 8 of the 16 bits of {job.level0}",
            "set mipmaps.convert_to_8bit = true, or another method",
        )
    try:
        mtime_ns = job.level0.stat().st_mtime_ns
    except OSError:
        mtime_ns = None
    return _Original(source.bits, mtime_ns)


def _valid_levels(job: MipmapJob, original: _Original) -> Iterator[MadeLevel]:
    """The levels that need not be made. Whatever is wrong with one, it is made again, and the disk has its say then."""
    for level, path in job.outputs:
        width, height = level_size(job.width, job.height, level)
        mode = "I;16" if original.bits == 16 and not job.convert_to_8bit else "L"
        try:
            # Of an equal age it may have been made of what the file held before: clocks of file systems tick slowly.
            if original.mtime_ns is None or path.stat().st_mtime_ns <= original.mtime_ns:
                continue
            _, info = _read(path, width, height)
        except (Fault, OSError):
            continue
        if (info.mode, info.format) == (mode, job.encoding.extension):
            yield MadeLevel(level, path, width, height, mode, info.file_bytes)


@contextmanager
def _pages(job: MipmapJob, levels: AbstractSet[int], original: _Original) -> Iterator[Iterator[tuple[int, Page]]]:
    """Each of the levels with its file's content, lowest first; in memory that is used again after the context."""
    if job.reduction.function != MEAN.function:
        reduced = reduce_levels(_level0(job), levels, job.reduction, job.to_8bit)
        yield ((level, job.encoding.page(pixels)) for level, pixels in reduced)
        return
    image = None if job.source is None else _level0(job)
    bits = max(8, original.bits) if image is None else image.itemsize * 8
    with bench_for(Kind(job.width, job.height, bits, tuple(sorted(levels)), job.to_8bit)) as bench:
        yield _mean_pages(job, bench, image, original)


def _mean_pages(
    job: MipmapJob, bench: Workbench, image: Grey | None, original: _Original
) -> Iterator[tuple[int, Page]]:
    biased = _fill_from_file(job, bench, original) if image is None else bench.fill(image)
    for level, page in bench.pages.items():
        if level in biased:
            image = _level0(job) if image is None else image
            page.pixels[...] = unbiased(image, level, job.to_8bit if image.dtype == np.uint16 else None)
        yield level, page if job.encoding.is_plain else job.encoding.page(page.pixels)


def _fill_from_file(job: MipmapJob, bench: Workbench, original: _Original) -> list[int]:
    """Fills the bench, out of the file itself if its pixels lie there as they are; its levels that are biased."""
    with _told(job.level0), opened(job.level0, job.root) as file:
        info = read_header(file, job.level0, mask=job.is_mask, with_runs=True)
        _require_size(info, job.level0, job.width, job.height)
        if info.bits != original.bits:
            raise ImageFault(str(job.level0), f"had {original.bits} bits, now {info.bits}", "let it be written once")
        if info.runs:
            return bench.fill_from_file(file.fileno(), info.runs)
    return bench.fill(_level0(job))


def _level0(job: MipmapJob) -> Grey:
    """The pixels of the image that the job is about."""
    if job.source is None:
        return _read(job.level0, job.width, job.height, root=job.root, mask=job.is_mask)[0]
    from handlers.sourceimages import fetch_level0  # the few that need it wait for http and pydantic

    return fetch_level0(job.source, job.width, job.height, job.to_8bit or FULL_RANGE)


def _read(
    path: Path, width: int, height: int, *, root: Path | None = None, mask: bool = False
) -> tuple[Grey, ImageInfo]:
    """Pixels and header of an image of a given size; the header is compared with it before anything is decoded."""
    with _told(path), opened(path, root) as file:
        info = read_header(file, path, mask=mask)
        _require_size(info, path, width, height)
        with warnings.catch_warnings():  # of oddities in metadata, nobody reads them
            warnings.simplefilter("ignore")
            return _pixels(decoder(file), info, path), info


def _require_size(info: ImageInfo, path: Path, width: int, height: int) -> None:
    if (info.width, info.height) != (width, height):
        raise ImageFault(
            str(path), f"is {info.width}x{info.height} pixels, not {width}x{height}", "see which of the two is right"
        )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Makes a Fault of what reading an image may raise."""
    try:
        yield
    except UNREADABLE as error:
        raise _broken(path, error) from error
    except FileNotFoundError as error:
        raise _absent(path, error) from error
    except OSError as error:
        if error.errno is None:  # Pillow's way of saying that the content is wrong
            raise _broken(path, error) from error
        raise storage_fault(str(path), "read the image", error) from error


def _pixels(image: Image.Image, info: ImageInfo, path: Path) -> Grey:
    if image.size != (info.width, info.height):
        raise ImageFault(str(path), f"is {image.size} for Pillow, but its header says {info}", "acquire it again")
    # Given its memory, Pillow does not hold the size against a large camera; it was compared with the one expected.
    image.im = Image.new(image.mode, image.size, None).im
    image.load()
    grey = image.convert("L") if image.mode == "1" else image
    pixels = np.empty((grey.height, grey.width), np.uint16 if info.bits == 16 else np.uint8)
    for top in range(0, grey.height, ROWS_OF_PILLOW):
        rows = grey.crop((0, top, grey.width, min(top + ROWS_OF_PILLOW, grey.height)))
        pixels[top : top + ROWS_OF_PILLOW] = np.asarray(rows)
    return pixels


def _broken(path: Path, error: Exception) -> ImageFault:
    return ImageFault(str(path), f"cannot be decoded: {error}", "copy or acquire the image again")


def _absent(path: Path, error: OSError) -> Fault:
    """One file gone is an image missing; with its directory gone, or empty, it is the mount."""
    try:
        if any(path.parent.iterdir()):
            return ImagesMissing(str(path), "is not there", "copy it there again")
    except OSError as worse:
        return storage_fault(str(path.parent), "look into the directory of the image", worse)
    return storage_fault(str(path.parent), "find any file in the directory of the image", error)


def _publish(level: int, path: Path, page: Page, encoding: Encoding) -> MadeLevel:
    """Writes a level beside its place, reads it back, and puts it into its place, where the header is read again."""
    height, width = page.pixels.shape
    mode = "L" if page.pixels.dtype == np.uint8 else "I;16"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary = path.with_name(_temporary_name(path.name))
        try:
            _write_durably(temporary, page.content)
            _require_same(path, temporary, page, encoding)
            temporary.replace(path)
        except BaseException:
            _remove(temporary)
            raise
        _sync(path.parent)
        _require_in_place(path, page, encoding)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SettingsFault("mipmaps.output_dir", f"makes names too long for the disk: {path}") from error
        raise storage_fault(str(path), f"write level {level}", error) from error
    except (ImageFault, ImagesMissing) as fault:
        raise _reads_differently(path, str(fault)) from fault
    return MadeLevel(level, path, width, height, mode, len(page.content))


def _require_same(path: Path, temporary: Path, page: Page, encoding: Encoding) -> None:
    """Returns if what was written for a path reads back.

    A plain file holds the very pixels, so its bytes are compared; any other is decoded.
    """
    if encoding.is_plain:
        if not _holds(temporary, page.content):
            raise _reads_differently(path, "its bytes differ")
        return
    height, width = page.pixels.shape
    found = verify_level(temporary, width, height, "L" if page.pixels.dtype == np.uint8 else "I;16")
    if encoding.lossless and not np.array_equal(found, page.pixels):
        raise _reads_differently(path, "its pixels differ")


def _require_in_place(path: Path, page: Page, encoding: Encoding) -> None:
    """Returns if the file at its final place is of the length, and has the header, of the one that was read back."""
    height, width = page.pixels.shape
    if encoding.is_plain:
        with opened(path) as file:
            start = os.pread(file.fileno(), PLAIN_START_BYTES, 0)
            is_same = start == page.content[:PLAIN_START_BYTES]
            file_bytes = os.fstat(file.fileno()).st_size
        found = f"{file_bytes} bytes that begin with {start[:16]!r}"
    else:
        info = inspect_image(path)
        is_same = (info.width, info.height, info.bits) == (width, height, page.pixels.itemsize * 8)
        file_bytes, found = info.file_bytes, f"{info}"
    if not is_same or file_bytes != len(page.content):
        raise _reads_differently(path, found)


def _holds(path: Path, content: bytes | bytearray) -> bool:
    """Whether a file consists of these bytes."""
    piece, expected, offset = bytearray(min(READ_BACK_BYTES, len(content) + 1)), memoryview(content), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            found = piece if count == len(piece) else piece[:count]
            if found != expected[offset : offset + count]:  # a bytearray compares by memcmp, a memoryview does not
                return False
            offset += count
    return offset == len(content)


def _reads_differently(path: Path, how: str) -> StorageFault:
    return StorageFault(str(path), f"reads back differently from what was written: {how}", "look at the disk's health")


def _write_durably(path: Path, content: bytes | bytearray) -> None:
    with path.open("xb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Makes a rename survive a power cut: the journal is about to say that the level is there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    """Removes a temporary file; where that fails it is left to `_sweep`, and the fault under way is the one told."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return


_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.(?P<maker>[0-9a-f]{8}-(?P<pid>\d+)-\d+)-\d+\.tmp")


def _temporary_name(name: str) -> str:
    """A name beside the final one, which says who writes; no other writer has it."""
    short = name if len(os.fsencode(name)) <= 180 else hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{short}.{_own_name(os.getpid())}-{next(_counter)}.tmp"


@functools.lru_cache(maxsize=1)
def _own_name(pid: int) -> str | None:
    """`_maker` of this process; asked once, but again after a fork."""
    return _maker(pid)


def _maker(pid: int) -> str | None:
    """Machine, process id and start time: a process as no other was or will be. None if there is no such process."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    return f"{_machine()}-{pid}-{start}"


@functools.cache
def _machine() -> str:
    """Where a process id means what it means here: this host, this process namespace."""
    text = f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@functools.lru_cache(maxsize=4096)
def _sweep(directory: Path) -> None:
    """Removes what writers who are dead left in a directory.

    Once for each process and directory: a directory may hold all tiles of a section, and after the death of a worker
    the pool is made of new processes.
    """
    with os.scandir(directory) as entries:
        leftovers = [entry for entry in entries if entry.name.startswith(".") and _is_leftover(entry)]
    for entry in leftovers:
        _remove(Path(entry.path))


def _is_leftover(entry: os.DirEntry[str]) -> bool:
    match = _TEMPORARY.fullmatch(entry.name)
    if match is None:
        return False
    if match["maker"].startswith(f"{_machine()}-"):
        return _maker(int(match["pid"])) != match["maker"]
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_S
    except OSError:
        return False
