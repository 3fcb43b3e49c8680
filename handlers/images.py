"""Making the mipmap files of one tile: level 0 is read, each level is written whole or not at all, and read back.

`make_mipmaps` runs in a worker process. It takes a job and returns a report; what input or disk can cause is in the
report, never an exception.
"""

import errno
import functools
import hashlib
import io
import itertools
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from handlers import errors
from handlers.errors import Fault, ImageFault, ImagesMissing, SettingsFault, StorageFault, WorkerFault, storage_fault
from handlers.imageheader import UNREADABLE, ImageInfo, decoder, inspect_image, opened, read_header
from handlers.mipmaps import FULL_RANGE, METHODS, Grey, IntensityRange, level_size, reduce_levels

__all__ = ["FORMATS", "FaultReport", "ImageInfo", "MadeLevel", "MipmapJob", "MipmapReport", "inspect_image"]
__all__ += ["make_mipmaps", "verify_level"]

STALE_S = 3600.0
"""A temporary file that has not changed for this long is nobody's, whoever made it."""


@dataclass(frozen=True, slots=True)
class Format:
    """What a file format can hold, and how Pillow is asked for it."""

    pillow_name: str
    depths: frozenset[int]
    """Bits per pixel."""
    lossless: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        # Uncompressed, in one strip: what every reader of TIFF reads, ImageJ's among them.
        "tif": Format("TIFF", frozenset({8, 16})),
        "png": Format("PNG", frozenset({8, 16})),
        "jpg": Format("JPEG", frozenset({8}), lossless=False, options={"quality": 95}),
    }
)
"""By extension."""


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
    method: str = "mean"
    """A key of METHODS. "min" is the one for masks: with it the image may have one bit per pixel, and not 16."""
    extension: str = "tif"
    """A key of FORMATS."""
    convert_to_8bit: bool = True
    """Whether levels of a 16-bit image have 8 bits. 8-bit images stay as they are."""
    intensity_range: IntensityRange | None = None
    """The 16-bit values that become 0 and 255; None is 0 and 65535."""
    root: Path | None = None
    """Directory that the image may not lie outside of when links are followed."""

    @property
    def is_mask(self) -> bool:
        """Whether the levels are those of a mask."""
        return self.method == "min"


@dataclass(frozen=True, slots=True)
class MadeLevel:
    """A level that was written and verified."""

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
    """Levels that are in place and verified; with a fault those that came before it."""
    seconds: float = 0.0
    fault: FaultReport | None = None
    notes: tuple[str, ...] = ()
    """What a person may want to know of the image, though its levels were made."""


def make_mipmaps(job: MipmapJob) -> MipmapReport:
    """Makes, and verifies, the levels of a job. Raises nothing that input or disk can cause: that is reported."""
    started = time.perf_counter()
    made: list[MadeLevel] = []
    notes: tuple[str, ...] = ()
    fault: Fault | None = None
    try:
        image, notes = _level0(job)
        to_8bit = (job.intensity_range or FULL_RANGE) if job.convert_to_8bit else None
        paths = dict(job.outputs)
        for level, reduced in reduce_levels(image, paths, job.method, to_8bit):
            made.append(_publish(level, paths[level], reduced, FORMATS[job.extension]))
    except Fault as found:
        fault = found
    except MemoryError:
        fault = WorkerFault(
            str(job.level0), "did not fit into memory", f"an image of {job.width}x{job.height}: use fewer workers"
        )
    report = FaultReport.of(fault) if fault else None
    return MipmapReport(job.tile_id, tuple(made), time.perf_counter() - started, report, notes)


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


def _level0(job: MipmapJob) -> tuple[Grey, tuple[str, ...]]:
    """The image that the job is about, and notes on it. What cannot be done is refused before it is decoded."""
    _require_sense(job)

    def check(info: ImageInfo) -> None:
        bits = 16 if info.bits == 16 and not job.convert_to_8bit else 8
        if bits not in FORMATS[job.extension].depths:
            raise SettingsFault(
                "mipmaps.format",
                f"{job.extension} cannot hold the 16 bits of {job.level0}",
                "set mipmaps.convert_to_8bit = true, or another format",
            )

    pixels, info = _read(job.level0, job.width, job.height, root=job.root, mask=job.is_mask, check=check)
    note = f"{job.level0} holds more than one image; the first one was used"
    return pixels, (note,) if info.has_more_pages else ()


def _require_sense(job: MipmapJob) -> None:
    """Returns if the job can be done, as far as its own words tell."""
    levels = [level for level, _ in job.outputs]
    if job.method not in METHODS:
        raise SettingsFault("mipmaps.method", f"{job.method!r} is not one of {', '.join(METHODS)}")
    if job.extension not in FORMATS:
        raise SettingsFault("mipmaps.format", f"{job.extension!r} is not one of {', '.join(FORMATS)}")
    if job.is_mask and not FORMATS[job.extension].lossless:
        raise SettingsFault("mipmaps.format", f"{job.extension} blurs the masks", "use tif or png")
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


def _read(
    path: Path,
    width: int,
    height: int,
    *,
    root: Path | None = None,
    mask: bool = False,
    check: Callable[[ImageInfo], None] = lambda info: None,
) -> tuple[Grey, ImageInfo]:
    """Pixels and header of an image of a given size; the header is compared with it, and given to `check`, first."""
    try:
        with opened(path, root) as file:
            info = read_header(file, path, mask=mask)
            if (info.width, info.height) != (width, height):
                raise ImageFault(
                    str(path),
                    f"is {info.width}x{info.height} pixels, not {width}x{height}",
                    "see which of the two is right",
                )
            check(info)
            with warnings.catch_warnings():  # of oddities in metadata, nobody reads them
                warnings.simplefilter("ignore")
                return _pixels(decoder(file), info, path), info
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
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    pixels: Grey = np.asarray(image)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16, copy=False)


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


def _publish(level: int, path: Path, pixels: Grey, form: Format) -> MadeLevel:
    """Writes a level beside its place, reads it back, and puts it into its place, where the header is read again."""
    height, width = pixels.shape
    mode = "L" if pixels.dtype == np.uint8 else "I;16"
    content = _encoded(pixels, form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary = path.with_name(_temporary_name(path.name))
        try:
            _write_durably(temporary, content)
            _require_same(path, verify_level(temporary, width, height, mode), pixels, form)
            temporary.replace(path)
        finally:
            _remove(temporary)
        _sync(path.parent)
        found = inspect_image(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SettingsFault("mipmaps.output_dir", f"makes names too long for the disk: {path}") from error
        raise storage_fault(str(path), f"write level {level}", error) from error
    except (ImageFault, ImagesMissing) as fault:
        raise _reads_differently(path, str(fault)) from fault
    if (found.width, found.height, found.mode, found.file_bytes) != (width, height, mode, len(content)):
        raise _reads_differently(path, f"{found}")
    return MadeLevel(level, path, width, height, mode, len(content))


def _encoded(pixels: Grey, form: Format) -> bytes:
    """The file's content. Pillow, writing to a file itself, would not notice that a disk took only a part."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form.pillow_name, **form.options)
    return buffer.getvalue()


def _require_same(path: Path, found: Grey, pixels: Grey, form: Format) -> None:
    if form.lossless and not np.array_equal(found, pixels):
        raise _reads_differently(path, "its pixels differ")


def _reads_differently(path: Path, how: str) -> StorageFault:
    return StorageFault(str(path), f"reads back differently from what was written: {how}", "look at the disk's health")


def _write_durably(path: Path, content: bytes) -> None:
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
    return f".{short}.{_maker(os.getpid())}-{next(_counter)}.tmp"


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
