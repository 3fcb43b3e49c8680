"""The three import commands: read parameters, call the handler, write the result.

Exit codes: 0 done, 1 failed, 2 invalid input, 130 stopped. A handler is imported when it is called, so that --help and
errors in parameters are fast.
"""

import logging
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daemon.commands.imports.arguments import UsageError, parse
from daemon.commands.imports.dry_run import plan_apply, plan_mipmaps, plan_tilespecs, values_of
from daemon.commands.imports.parameters import (
    ApplyParameters,
    CommandParameters,
    MipmapParameters,
    TilespecsParameters,
)
from daemon.commands.imports.reporting import entries_of, say, write_failures, write_file
from daemon.commands.imports.results import ApplyResult, MipmapResult, Result, TilespecsResult
from daemon.system.lean_imports import import_http_client
from handlers.errors import Fault
from handlers.progress import Progress, progress_bar
from handlers.render.failures import Failure, failure_lines, plain_z
from handlers.text import printable_json
from handlers.uris import place_uri

if TYPE_CHECKING:
    from handlers.render.client import RenderClient
    from handlers.render.http.requests import Request

log = logging.getLogger("temwatch")

MAX_CONNECTIONS = 32
STOP_S = 1.0
"""Time after Ctrl-C in which the response to a write may arrive."""

Outcome = tuple[Result, Sequence[Failure]]
Work = Callable[[Any, Progress], Coroutine[Any, Any, Outcome]]


@dataclass(frozen=True, slots=True)
class Command:
    """An import command."""

    parameters: type[CommandParameters]
    work: Work
    unit: str
    """Unit of its progress."""
    resume: str
    """Printed when the command was stopped: how to continue."""


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run the command of this name and return its exit code."""
    command = COMMANDS[name]
    try:
        parameters, ignored = parse(command.parameters, arguments, f"temwatch {name}")
    except UsageError as error:
        return say(2, *error.problems)
    say(0, *(f"WARNING {warning}" for warning in ignored))
    import_http_client()
    import asyncio

    try:
        with progress_bar(command.unit) as progress:
            _start_logging(parameters)
            result, failures = asyncio.run(_until_stopped(command.work(parameters, progress)))
        say(0, *(f"WARNING {warning}" for warning in result.warnings))
        _write_result(result, ignored, failures, parameters)
    except Fault as fault:
        return say(1, str(fault))
    except KeyboardInterrupt:
        return say(130, f"stopped; {command.resume}")
    rest_is_in = f"; {parameters.failures_file or '--failures_file FILE'} lists all"
    return say(1 if failures else 0, *failure_lines(failures, rest_is_in))


async def _until_stopped(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Return the outcome of the work. Ctrl-C ends it within about a second.

    The first cancellation waits for the response to a write, which may take minutes; the second one does not.
    """
    import asyncio

    running = asyncio.create_task(work, name="import")
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=STOP_S)
        raise


def _start_logging(parameters: CommandParameters) -> None:
    """Log to stderr. Called while the progress bar redirects stderr, so that lines appear above the bar."""
    from daemon.system.printable_log import PrintableFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=parameters.log_level, handlers=[handler])
    for name, value in values_of(parameters).items():
        log.debug("parameter %s = %s", name, value)


def _write_result(
    result: Result, ignored: Sequence[str], failures: Sequence[Failure], parameters: CommandParameters
) -> None:
    """Print the result or write it to its file; write the file of failures."""
    if parameters.failures_file is not None:
        write_failures(parameters.failures_file, failures)
    update = {
        "warnings": [*ignored, *result.warnings],
        "failures": entries_of(failures),
        "failure_count": len(failures),
    }
    text = result.model_copy(update=update).model_dump_json(indent=2) + "\n"
    if parameters.output_json is None:
        sys.stdout.write(printable_json(text))
    else:
        write_file(parameters.output_json, text)


async def _generate_tilespecs(parameters: TilespecsParameters, progress: Progress) -> Outcome:
    from handlers.generate_tilespecs import generate_tilespecs

    if parameters.dry_run:
        return await plan_tilespecs(parameters), ()
    async with _client(parameters, parameters.pool_size) as client:
        report = await generate_tilespecs(
            client,
            parameters.metafile,
            parameters.stack_id(parameters.stack),
            parameters.one_z,
            image_directory=parameters.image_directory,
            options=parameters.options,
            shared_transform=parameters.shared_transform,
            resolution_z_nm=parameters.resolution_z,
            resolution_nm=parameters.output_stackVersion.resolution_nm,
            overwrite_layer=parameters.overwrite_zlayer,
            close=parameters.close_stack,
        )
    ingested = report.ingested
    log.info("%d tiles are in %s at z %g", ingested.tile_count, ingested.stack, ingested.z)
    progress(ingested.tile_count, ingested.tile_count)
    result = TilespecsResult(stack=parameters.stack, tile_count=ingested.tile_count, warnings=list(report.warnings))
    return result, ()


async def _generate_mipmaps(parameters: MipmapParameters, progress: Progress) -> Outcome:
    from handlers.generate_mipmaps import generate_mipmaps
    from handlers.images.encode import Encoding
    from handlers.images.reduction import Reduction
    from handlers.mipmaps.plan import MipmapPlan
    from handlers.workers.opening import open_executor

    if parameters.dry_run:
        async with _client(parameters) as client:
            return await plan_mipmaps(client, parameters), ()
    stack = parameters.stack_id(parameters.input_stack)
    plan = MipmapPlan(
        parameters.output_dir,
        levels=parameters.levels,
        reduction=Reduction(parameters.method, parameters.function),
        encoding=Encoding(parameters.imgformat, parameters.quality, parameters.compression),
        convert_to_8bit=parameters.convert_to_8bit,
        range_16bit=parameters.intensity_range,
        force=parameters.force_redo,
        path_map=parameters.render.paths,
    )
    largest_px = round(parameters.largest_image_megapixels * 1e6)
    with open_executor("processes", parameters.pool_size, largest_image_px=largest_px) as pool:
        async with _client(parameters) as client:
            report = await generate_mipmaps(
                client,
                stack,
                parameters.wanted_zs,
                plan,
                pool,
                in_flight=2 * parameters.pool_size,
                progress=progress,
                on_layer=_log_layer,
                clear_image_cache=parameters.clear_image_cache,
                source_roots=parameters.source_roots or (),
            )
    counts = (report.tile_count, report.file_count, report.kept_count)
    log.info("%d tiles have their mipmaps, %d files were written, %d valid files were kept", *counts)
    result = MipmapResult(
        levels=parameters.levels,
        output_prefix=place_uri(parameters.output_dir),
        tile_count=report.tile_count,
        warnings=list(report.notes),
    )
    return result, report.failures


async def _apply_mipmaps(parameters: ApplyParameters, progress: Progress) -> Outcome:
    from handlers.apply_mipmaps import apply_mipmaps_to_stack
    from handlers.images.encode import Encoding
    from handlers.mipmaps.plan import MipmapPlan

    if parameters.dry_run:
        async with _client(parameters) as client:
            return await plan_apply(client, parameters), ()
    output_stack = parameters.output_stack or parameters.input_stack
    plan = MipmapPlan(
        parameters.mipmap_dir,
        levels=parameters.levels,
        encoding=Encoding(parameters.imgformat),
        path_map=parameters.render.paths,
        url=parameters.mipmap_url,
    )
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
            on_layer=_log_layer,
        )
    log.info("%d tiles of %s have their mipmaps", report.tile_count, report.target)
    result = ApplyResult(
        output_stack=output_stack,
        missing_ts_zs=[plain_z(z) for z in report.missing_zs],
        tile_count=report.tile_count,
    )
    return result, report.failures


COMMANDS: Mapping[str, Command] = {
    "generate_EM_tilespecs_from_metafile": Command(TilespecsParameters, _generate_tilespecs, "tiles", "run it again"),
    "generate_mipmaps": Command(
        MipmapParameters,
        _generate_mipmaps,
        "tiles",
        "finished tiles are kept: run it again with --force_redo false for the rest",
    ),
    "apply_mipmaps_to_render": Command(
        ApplyParameters, _apply_mipmaps, "sections", "finished sections are kept: run it again"
    ),
}


def _client(parameters: CommandParameters, connections: int = 4) -> "RenderClient":
    from handlers.render.client import RenderClient

    return RenderClient(
        parameters.render.base_url,
        setting="render.host and render.port",
        access=parameters.render.access,
        connections=min(connections, MAX_CONNECTIONS),
        on_answer=_log_request,
    )


def _log_request(request: "Request", outcome: str, seconds: float) -> None:
    log.debug("%s %s (%s): %s in %.2f s", request.method, request.path, request.tried, outcome, seconds)


def _log_layer(z: float, tiles: int, failures: int) -> None:
    log.debug("z %g: %d tiles, %d failures", z, tiles, failures)
