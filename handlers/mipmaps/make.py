"""Running the job of one tile: read level 0, reduce it to levels, put these in place.

`make_mipmaps` runs in a worker process. It takes a job and returns a report, which contains any fault of input or disk.
"""

import time
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from handlers.container import Container
from handlers.errors import Fault, SettingsFault, WorkerFault
from handlers.images.decode import read_image
from handlers.images.digest import FileContent
from handlers.images.level0 import FileLevel0, Level0File, OpenLevel0
from handlers.images.pixels import FULL_RANGE
from handlers.images.read_ahead import read_ahead
from handlers.mipmaps.buffers import reduced
from handlers.mipmaps.extract import container_here, extract_level0
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.kept_levels import valid_levels
from handlers.mipmaps.measure import Measured, Measurement
from handlers.mipmaps.overlap import LEVEL
from handlers.mipmaps.put import ReducedLevel, put_levels
from handlers.mipmaps.report import FaultReport, MadeLevel, MipmapReport
from handlers.place import ObjectPlace


def make_mipmaps(job: MipmapJob) -> MipmapReport:
    """Make and verify the levels of a job. A fault of input or disk is in the report and not raised."""
    read_ahead(job.upcoming)
    if not isinstance(job.level0, ObjectPlace):
        return _made(job)
    from handlers.objects.files import reading_once

    with reading_once():
        return _made(job)


def _made(job: MipmapJob) -> MipmapReport:
    started = time.perf_counter()
    made: list[MadeLevel] = []
    kept: tuple[MadeLevel, ...] = ()
    level0: OpenLevel0 | None = None
    of_stack: FileContent | None = None
    fault: Fault | None = None
    measured: Measured | None = None
    try:
        job.require_possible()
        of_stack = extract_level0(job) if job.stack else None
        level0 = open_level0(job)
        kept = () if job.force else tuple(valid_levels(job, level0))
        wanted = {level for level, _ in job.outputs} - {level.level for level in kept}
        measurement = Measurement(level0.bits, job.neighbours) if job.measure else None
        if wanted:
            with _reduced(job, wanted, level0, measurement) as levels:
                put_levels(levels, job, level0, made, measurement)
        measured = _measured(job, level0, (*made, *kept), measurement) if measurement else None
    except Fault as found:
        fault = found
    except MemoryError:
        fault = WorkerFault(
            str(job.level0),
            f"needs more memory than a worker may have, for {job.width}x{job.height} pixels",
            "check the image; largest_image_megapixels sets the limit",
        )
    finally:
        if level0:
            level0.close()
    return MipmapReport(
        job.tile_id,
        tuple(made),
        time.perf_counter() - started,
        FaultReport.of(fault) if fault else None,
        tuple(_notes(job, level0)) if level0 else (),
        kept,
        level0.bits if level0 else None,
        (of_stack or level0.content) if level0 and not fault else None,
        measured,
    )


def open_level0(job: MipmapJob) -> OpenLevel0:
    """Open level 0 and compare its header with the job. Raises a Fault if it cannot be used."""
    level0 = _level0_of(job, Level0File(job.level0, job.width, job.height, _root_of(job), job.is_mask))
    job.level_bits(level0.bits)  # raises if the format cannot store them
    return level0


def _level0_of(job: MipmapJob, file: Level0File) -> OpenLevel0:
    if job.source is None:
        return FileLevel0(file)
    if job.source.bits == 16 and not job.convert_to_8bit:
        raise SettingsFault(
            "mipmaps.method",
            f"render-ws serves 8 of the 16 bits of {job.level0}",
            "set mipmaps.convert_to_8bit = true, or another method",
        )
    from handlers.images.served_level0 import ServedLevel0  # imports http and pydantic, which few jobs need

    return ServedLevel0(file, job.source, job.to_8bit or FULL_RANGE)


def _root_of(job: MipmapJob) -> Container | None:
    """Return the container of the image, as this machine resolves it; None: any directory."""
    return container_here(job.container if job.stack else job.root)


@contextmanager
def _reduced(
    job: MipmapJob, levels: AbstractSet[int], level0: OpenLevel0, measurement: Measurement | None
) -> Iterator[Iterable[ReducedLevel]]:
    """Context with the levels, lowest first. Their memory is reused after the context."""
    # The pixels that render-ws serves differ from those of the file, so they are not measured.
    grey_range = measurement.level0 if measurement and not job.source else None
    size, numbers = (job.width, job.height), tuple(sorted(levels))
    with reduced(level0, *size, numbers, job.to_8bit, job.reduction, grey_range) as pages:
        yield pages.items()


def _measured(job: MipmapJob, level0: OpenLevel0, levels: Iterable[MadeLevel], measurement: Measurement) -> Measured:
    """Return the numbers of an image. Files are read for numbers that are missing because levels were kept."""
    if not measurement.level0.pixels and not job.source:
        measurement.level0.add(level0.pixels())
        level0.require_unchanged()
    for made in levels:
        if made.digest:
            measurement.see_file(made.level, made.digest)
        if made.level == LEVEL and not measurement.has_sharpness:
            measurement.see_level(made.level, read_image(made.path, made.width, made.height)[0])
    return measurement.result([level for level, _ in job.outputs])


def _notes(job: MipmapJob, level0: OpenLevel0) -> Iterator[str]:
    if level0.has_more_pages:
        yield f"{job.level0} holds more than one image; the first one was used"
    brightest = job.maximum_intensity
    is_wrong = brightest is not None and (level0.bits == 16) != (brightest > 255)
    if is_wrong and not job.is_mask and job.source is None:
        shown = "white" if level0.bits == 16 else "black"
        yield (
            f"{job.level0} has {level0.bits} bits, but the maximum intensity of its tile spec is {brightest:g}: "
            f"render-ws shows it nearly {shown}"
        )
