"""The three import commands: read parameters, call the handler, write the result.

Exit codes: 0 done, 1 failed, 2 invalid input, 130 stopped. A handler is imported only when it is called, so that --help
and errors in parameters appear at once.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.commands.imports.arguments import UsageError, parse
from daemon.commands.imports.parameters import (
    ApplyParameters,
    CommandParameters,
    MipmapParameters,
    TilespecsParameters,
)
from daemon.commands.imports.results import ApplyResult, MipmapResult, Result, TilespecsResult, prefix_of, problems
from handlers.errors import Fault
from handlers.render.failures import plain_z

if TYPE_CHECKING:
    from handlers.render.client import RenderClient

log = logging.getLogger("temwatch")

MOST_CONNECTIONS = 32
FAILURES_SHOWN = 20

Progress = Callable[[int, int], None]
Work = Callable[[Any, Progress], Coroutine[Any, Any, Result]]


@dataclass(frozen=True, slots=True)
class Command:
    """An import command."""

    parameters: type[CommandParameters]
    work: Work
    unit: str
    """Unit of its progress."""


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run the command of this name and return its exit code."""
    command = COMMANDS[name]
    try:
        parameters, ignored = parse(command.parameters, arguments, f"temwatch {name}")
    except UsageError as error:
        return _say(2, *error.problems)
    _say(0, *(f"WARNING {warning}" for warning in ignored))
    import asyncio

    logging.basicConfig(level=parameters.log_level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        with _progress(command.unit) as progress:
            result = asyncio.run(command.work(parameters, progress))
        result = result.model_copy(update={"warnings": [*ignored, *result.warnings]})
        _write_result(result, parameters.output_json)
    except Fault as fault:
        return _say(1, str(fault))
    except KeyboardInterrupt:
        return _say(130, "stopped; what is done stays done, run it again for the rest")
    failures = result.failures
    shown = [_line(failure) for failure in failures[:FAILURES_SHOWN]]
    more = [f"and {len(failures) - FAILURES_SHOWN} more"] if len(failures) > FAILURES_SHOWN else []
    return _say(1 if failures else 0, *shown, *more)


async def _generate_tilespecs(parameters: TilespecsParameters, progress: Progress) -> TilespecsResult:
    from handlers.acquisition.tilespec import Origin, Positions, TileSpecOptions
    from handlers.generate_tilespecs import generate_tilespecs

    options = TileSpecOptions(
        minimum_intensity=parameters.minimum_intensity,
        maximum_intensity=parameters.maximum_intensity,
        section_id=parameters.sectionId,
        mask=parameters.maskUrl,
        positions=Positions(parameters.positions),
        origin=Origin(parameters.origin),
    )
    async with _client(parameters, parameters.pool_size) as client:
        report = await generate_tilespecs(
            client,
            parameters.metafile,
            parameters.stack_id(parameters.stack),
            parameters.one_z,
            image_directory=parameters.image_directory,
            options=options,
            shared_transform=parameters.shared_transform,
            resolution_z_nm=parameters.resolution_z,
            resolution_nm=parameters.output_stackVersion.resolution_nm,
            overwrite_layer=parameters.overwrite_zlayer,
            close=parameters.close_stack,
        )
    for warning in report.warnings:
        log.warning("%s: %s", parameters.metafile, warning)
    ingested = report.ingested
    log.info("%d tiles are in %s at z %g", ingested.tile_count, ingested.stack, ingested.z)
    progress(ingested.tile_count, ingested.tile_count)
    return TilespecsResult(stack=parameters.stack, tile_count=ingested.tile_count, warnings=list(report.warnings))


async def _generate_mipmaps(parameters: MipmapParameters, progress: Progress) -> MipmapResult:
    from handlers.generate_mipmaps import generate_mipmaps
    from handlers.images.encode import Encoding
    from handlers.images.reduction import Reduction
    from handlers.mipmaps.plan import MipmapPlan
    from handlers.workers.pool import open_executor

    stack = parameters.stack_id(parameters.input_stack)
    plan = MipmapPlan(
        parameters.output_dir,
        levels=parameters.levels,
        reduction=Reduction(parameters.method, parameters.function),
        encoding=Encoding(parameters.imgformat, parameters.quality, parameters.compression),
        convert_to_8bit=parameters.convert_to_8bit,
        range_16bit=parameters.intensity_range,
        force=parameters.force_redo,
    )
    with open_executor("processes", parameters.pool_size) as pool:
        async with _client(parameters) as client:
            report = await generate_mipmaps(
                client,
                stack,
                parameters.wanted_zs,
                plan,
                pool,
                in_flight=2 * parameters.pool_size,
                progress=progress,
                clear_image_cache=parameters.clear_image_cache,
            )
    for note in report.notes:
        log.warning("%s", note)
    counts = (report.tile_count, report.file_count, report.kept_count)
    log.info("%d tiles have their mipmaps, %d files were written, %d valid files were kept", *counts)
    return MipmapResult(
        levels=parameters.levels,
        output_prefix=prefix_of(parameters.output_dir),
        tile_count=report.tile_count,
        failures=problems(report.failures),
        warnings=list(report.notes),
    )


async def _apply_mipmaps(parameters: ApplyParameters, progress: Progress) -> ApplyResult:
    from handlers.apply_mipmaps import apply_mipmaps_to_stack
    from handlers.images.encode import Encoding
    from handlers.mipmaps.plan import MipmapPlan

    output_stack = parameters.output_stack or parameters.input_stack
    plan = MipmapPlan(parameters.mipmap_dir, levels=parameters.levels, encoding=Encoding(parameters.imgformat))
    async with _client(parameters, parameters.pool_size) as client:
        report = await apply_mipmaps_to_stack(
            client,
            parameters.stack_id(parameters.input_stack),
            parameters.stack_id(output_stack),
            parameters.wanted_zs,
            plan,
            resolution_nm=parameters.output_stackVersion.resolution_nm,
            overwrite_layers=parameters.overwrite_zlayer,
            close=parameters.close_stack,
            at_once=parameters.pool_size,
            progress=progress,
        )
    log.info("%d tiles of %s have their mipmaps", report.tile_count, report.target)
    return ApplyResult(
        output_stack=output_stack,
        missing_ts_zs=[plain_z(z) for z in report.missing_zs],
        tile_count=report.tile_count,
        failures=problems(report.failures),
    )


COMMANDS: Mapping[str, Command] = {
    "generate_EM_tilespecs_from_metafile": Command(TilespecsParameters, _generate_tilespecs, "tiles"),
    "generate_mipmaps": Command(MipmapParameters, _generate_mipmaps, "tiles"),
    "apply_mipmaps_to_render": Command(ApplyParameters, _apply_mipmaps, "sections"),
}


def _client(parameters: CommandParameters, connections: int = 4) -> "RenderClient":
    from handlers.render.client import RenderClient

    return RenderClient(parameters.render.base_url, connections=min(connections, MOST_CONNECTIONS))


@contextlib.contextmanager
def _progress(unit: str) -> Iterator[Progress]:
    """Show a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, known: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, known: bar.update(task, completed=done, total=known)


def _write_result(result: Result, path: Path | None) -> None:
    """Print the result, or write it into a file, which never exists in part."""
    text = result.model_dump_json(indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Fault(str(path), f"could not be written: {error.strerror}", "the work itself is done") from error


def _line(failure: Any) -> str:
    subject = f"tile '{failure.tileId}'" if failure.tileId else failure.subject
    where = "" if subject == failure.subject else f"{failure.subject}: "
    hint = f" ({failure.hint})" if failure.hint else ""
    return f"z {failure.z} {subject}: {where}{failure.problem}{hint}"


def _say(code: int, *lines: str) -> int:
    for line in lines:
        sys.stderr.write(" ".join(line.split()) + "\n")
    return code
