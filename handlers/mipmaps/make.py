"""Making the mipmap files of one tile: level 0 is read, each level is written whole or not at all, and read back.

`make_mipmaps` runs in a worker process. It takes a job and returns a report; what input or disk can cause is in the
report, never an exception.
"""

import os
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from handlers import errors
from handlers.errors import Fault, ImageChanging, ImageFault, SettingsFault, StorageFault, WorkerFault
from handlers.identity import FileIdentity
from handlers.images.decode import read_hashed, read_image, require_size, translate_errors, verify_level
from handlers.images.digest import FileContent, RunningDigest, content_of, settled_identity
from handlers.images.encode import PLAIN_TIFF, Encoding, Page, set_description
from handlers.images.header import ImageInfo, inspect_image, open_image, read_header
from handlers.images.pixels import FULL_RANGE, Grey, IntensityRange
from handlers.images.provenance import pixels_match, provenance, read_provenance, recipe_of, with_pixels, without_pixels
from handlers.images.reduction import MEAN, Reduction, level_size
from handlers.images.tiff_header import Run
from handlers.mipmaps.area_mean import unbiased
from handlers.mipmaps.atomic_write import put_in_place, sync_directories
from handlers.mipmaps.buffers import Kind, LevelBuffers, buffers_for
from handlers.mipmaps.reduce import reduce_levels

if TYPE_CHECKING:
    from handlers.images.source import RenderSource

__all__ = ["Encoding", "FaultReport", "ImageInfo", "MadeLevel", "MipmapJob", "MipmapReport", "Reduction"]
__all__ += ["inspect_image", "make_mipmaps", "verify_level"]


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
    format, and say that they were made of the bytes that level 0 holds now, in this way."""
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
    replaced: bool = False
    """Whether its place held a file before."""


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
    level0: FileContent | None = None
    """The file of level 0 as the levels show it; None with a fault, or if only render-ws can reach it."""


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
                _write(pages, paths, job.encoding, made)
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
        original.content if original and not fault else None,
    )


def _write(
    pages: Iterator[tuple[int, Page]], paths: Mapping[int, Path], encoding: Encoding, made: list[MadeLevel]
) -> None:
    """Puts the files of the levels into their places, and adds to `made` what is there to stay."""
    try:
        for level, page in pages:
            replaced = os.path.lexists(paths[level])
            put_in_place(level, paths[level], page, encoding)
            height, width = page.pixels.shape
            made.append(MadeLevel(level, paths[level], width, height, page.mode, len(page.content), replaced))
    finally:
        try:
            sync_directories({level.path.parent for level in made})
        except StorageFault:
            made.clear()
            raise


@dataclass(slots=True)
class _Original:
    """Level 0, as far as it was read."""

    bits: int
    identity: FileIdentity | None = None
    """Of the file, from before anything of it was read; None if only render-ws can reach it."""
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    """Where its rows lie in the file; empty if they have to be decoded."""
    has_size: bool = True
    """Whether its size was compared with the one expected."""
    digest: bytes | None = None
    """Of the file's bytes, once all of them were read."""

    @property
    def content(self) -> FileContent | None:
        """The file as it was read."""
        return None if self.identity is None or self.digest is None else FileContent(self.identity, self.digest)


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
    if _level_bits(job, original) not in job.encoding.depths:
        raise SettingsFault(
            "mipmaps.format",
            f"{job.encoding.extension} cannot hold the 16 bits of {job.level0}",
            "set mipmaps.convert_to_8bit = true, or another format",
        )
    return original


def _original_of_file(job: MipmapJob) -> _Original:
    with translate_errors(job.level0), open_image(job.level0, job.root) as file:
        identity = settled_identity(file.fileno())
        with _unless_changing(job, identity):
            info = read_header(file, job.level0, mask=job.is_mask, with_layout=True)
            require_size(info, job.level0, job.width, job.height)
    return _Original(info.bits, identity, tuple(_notes(job, info)), info.runs)


@contextmanager
def _unless_changing(job: MipmapJob, before: FileIdentity | None) -> Iterator[None]:
    """Reads level 0 in the context: a file that cannot be used is no bad image if it changed meanwhile."""
    try:
        yield
    except ImageFault:
        _require_same(job, before)
        raise


def _require_same(job: MipmapJob, before: FileIdentity | None) -> None:
    """Returns if the file of level 0 is what it was.

    It is opened anew: that makes the client of a file server ask for its attributes, and finds one that was replaced.
    """
    if before is None:
        return
    with translate_errors(job.level0), open_image(job.level0, job.root) as file:
        now = FileIdentity.of(os.fstat(file.fileno()))
    if now != before:
        hint = "see what writes it; it is read again by itself"
        raise ImageChanging(str(job.level0), "changed while it was read", hint)


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
    info, content = _seen_here(job)
    if info is not None:
        require_size(info, job.level0, job.width, job.height)
    if content is None:
        return _Original(source.bits, has_size=info is not None)
    return _Original(source.bits, content.identity, has_size=info is not None, digest=content.digest)


def _seen_here(job: MipmapJob) -> tuple[ImageInfo | None, FileContent | None]:
    """What this machine sees of a file that render-ws serves: header and content, None for what cannot be read."""
    content = None
    try:
        with open_image(job.level0, job.root) as file:
            content = content_of(file.fileno())
            return read_header(file, job.level0, mask=job.is_mask), content
    except OSError:
        return None, None
    except ImageFault:  # of a kind that render-ws may read
        return None, content


def _valid_levels(job: MipmapJob, original: _Original) -> Iterator[MadeLevel]:
    """The levels that need not be made. Whatever is wrong with one, it is made again, and the disk has its say then."""
    for level, path in job.outputs:
        text = _text_in(path)
        said = without_pixels(text or "")
        if text is None or not said.endswith(f" {_how(job, original, level)}") or not _digest(job, original):
            continue
        made = _valid_level(job, original, level, path, text) if said == _text(job, original, level) else None
        if made is not None:
            yield made


def _text_in(path: Path) -> str | None:
    try:
        return read_provenance(path)
    except (Fault, OSError):
        return None


def _valid_level(job: MipmapJob, original: _Original, level: int, path: Path, text: str) -> MadeLevel | None:
    width, height = level_size(job.width, job.height, level)
    mode = "I;16" if _level_bits(job, original) == 16 else "L"
    try:
        pixels, info = read_image(path, width, height)
    except (Fault, OSError):
        return None
    if (info.mode, info.format) != (mode, job.encoding.extension) or not pixels_match(text, pixels):
        return None
    return MadeLevel(level, path, width, height, mode, info.file_bytes)


def _digest(job: MipmapJob, original: _Original) -> bytes | None:
    """The digest of level 0, for which the file is read if it was not yet; None if it is out of reach."""
    if original.digest is None and original.identity is not None:
        with translate_errors(job.level0), open_image(job.level0, job.root) as file:
            original.digest = RunningDigest(file.fileno()).digest()
        _require_same(job, original.identity)
    return original.digest


def _level_bits(job: MipmapJob, original: _Original) -> int:
    return 16 if original.bits == 16 and not job.convert_to_8bit else 8


def _how(job: MipmapJob, original: _Original, level: int) -> str:
    return recipe_of(
        level,
        job.reduction,
        _level_bits(job, original),
        scaled_from=job.to_8bit if original.bits == 16 else None,
        quality=job.encoding.jpeg_quality,
        is_mask=job.is_mask,
    )


def _text(job: MipmapJob, original: _Original, level: int) -> str:
    """What the file of a level says of how it was made; of what, only where that was read."""
    return provenance(original.digest, _how(job, original, level)) if original.digest else ""


def _own_text(job: MipmapJob, original: _Original, level: int, pixels: Grey) -> str:
    """The text that the file of a level gets; with the digest of its pixels, which a JPEG would not keep."""
    text = _text(job, original, level)
    return text if job.encoding.jpeg_quality else with_pixels(text, pixels)


@contextmanager
def _pages(job: MipmapJob, levels: AbstractSet[int], original: _Original) -> Iterator[Iterator[tuple[int, Page]]]:
    """Each of the levels with its file's content, lowest first; in memory that is used again after the context."""
    if job.reduction.function != MEAN.function:
        with _unless_changing(job, original.identity):
            image = _level0(job, original)
        _require_same(job, original.identity)
        reduced = reduce_levels(image, levels, job.reduction, job.to_8bit)
        yield ((level, job.encoding.page(pixels, _own_text(job, original, level, pixels))) for level, pixels in reduced)
        return
    with _unless_changing(job, original.identity):
        decoded = _level0(job, original) if job.source or not original.runs else None
    bits = max(8, original.bits) if decoded is None else decoded.itemsize * 8
    with buffers_for(Kind(job.width, job.height, bits, tuple(sorted(levels)), job.to_8bit)) as bench:
        with _unless_changing(job, original.identity):
            _fill(job, bench, original, decoded)
        _require_same(job, original.identity)
        yield (_mean_page(job, original, level, page) for level, page in bench.pages.items())


def _mean_page(job: MipmapJob, original: _Original, level: int, page: Page) -> tuple[int, Page]:
    text = _own_text(job, original, level, page.pixels)
    if not job.encoding.is_plain:
        return level, job.encoding.page(page.pixels, text)
    set_description(page, text)
    return level, page


def _fill(job: MipmapJob, bench: LevelBuffers, original: _Original, decoded: Grey | None) -> None:
    """Fills the bench, out of the file itself if its pixels lie there as they are."""
    image = decoded
    for level in _fill_from_file(job, bench, original) if image is None else bench.fill(image):
        image = _level0(job, original) if image is None else image
        to_8bit = job.to_8bit if image.dtype == np.uint16 else None
        bench.pages[level].pixels[...] = unbiased(image, level, to_8bit)


def _fill_from_file(job: MipmapJob, bench: LevelBuffers, original: _Original) -> list[int]:
    with translate_errors(job.level0), open_image(job.level0, job.root) as file:
        digest = RunningDigest(file.fileno())
        biased = bench.fill_from_file(file.fileno(), original.runs, digest.take)
        original.digest = digest.digest()
    return biased


def _level0(job: MipmapJob, original: _Original) -> Grey:
    """The pixels of the image that the job is about."""
    if job.source is None:
        if original.digest is not None:
            return read_image(job.level0, job.width, job.height, root=job.root, mask=job.is_mask)[0]
        image, original.digest = read_hashed(job.level0, job.width, job.height, root=job.root, mask=job.is_mask)
        return image
    from handlers.images.source import (  # the few that need it wait for http and pydantic
        fetch_level0,
        require_served_size,
    )

    pixels = fetch_level0(job.source, job.width, job.height, job.to_8bit or FULL_RANGE)
    if not original.has_size:
        require_served_size(job.source, job.width, job.height)
    return pixels
