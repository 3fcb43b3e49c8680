"""Target 7: time of the commands' help and of import commands with a few tiles; imported modules that are not used."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks import processes, sections
from benchmarks.common import (
    Options,
    Outcome,
    Row,
    Timing,
    interleaved,
    median_cpu_s,
    median_wall_s,
    number,
    run_script,
)
from benchmarks.import_commands import run_command

LIMIT_S = 0.3
COMMAND_LIMIT_S = 0.25
COMMANDS = {
    "generate_EM_tilespecs_from_metafile": "ingest",
    "generate_mipmaps": "mipmaps",
    "apply_mipmaps_to_render": "apply",
}
FEW_TILES, SIDE = 4, 1024
HEAVY = (
    *("PIL", "aiohttp", "asyncio", "distributed", "multiprocessing", "numpy", "prometheus_client"),
    *("pydantic_settings", "rich", "scipy", "skimage", "sqlite3", "structlog", "tenacity", "watchdog"),
)
"""Modules that take long to import and that a help text does not need. It needs pydantic for the parameters' models."""
NEVER = (
    *("PIL", "apprise", "distributed", "jinja2", "numpy", "prometheus_client", "pygments", "rich", "scipy", "skimage"),
    *("sqlite3", "structlog", "tenacity", "watchdog"),
)
"""Modules that no import command needs: workers reduce the images, and only terminals need a progress bar."""
WORK = {
    "handlers.generate_tilespecs": (*NEVER, "multiprocessing"),
    "handlers.generate_mipmaps": NEVER,
    "handlers.apply_mipmaps": (*NEVER, "multiprocessing"),
}
"""Module of the use case of each command -> modules that it does not need."""


def measure(options: Options) -> Outcome:
    """Measure processes from their start to their end, in turn."""
    commands = {"temwatch --help": ["--help"]} | {f"temwatch {name} --help": [name, "--help"] for name in COMMANDS}
    variants = {name: _runner(["-m", "daemon", *arguments]) for name, arguments in commands.items()}
    variants["python"] = _runner(["-c", "pass"])
    timings = interleaved(variants, 3 if options.quick else 9)
    floor = median_wall_s(timings["python"])
    limits = {"temwatch --help": LIMIT_S}
    rows = [_row(name, timings[name], limits.get(name), floor) for name in commands]
    rows += _command_rows(options, floor)
    unused = {name: _imported(["-m", "daemon", *arguments], HEAVY) for name, arguments in commands.items()}
    unused |= {name: _imported(["-c", f"import {name}"], modules) for name, modules in WORK.items()}
    rows += [
        Row(
            7,
            f"unused modules that are imported by {name}",
            len(found),
            "modules",
            limit=0,
            note=", ".join(found),
        )
        for name, found in unused.items()
    ]
    own_s = median_wall_s(timings["temwatch --help"]) - floor
    return Outcome(rows, facts={"unused": unused, "help_without_python_s": own_s})


def _row(what: str, timings: Sequence[Timing], limit: float | None, floor: float) -> Row:
    return Row(
        7,
        what,
        median_wall_s(timings),
        "s",
        limit=limit,
        floor=floor,
        floor_is="an empty Python program",
        note=f"CPU {number(median_cpu_s(timings))} s, fastest {min(each.wall_s for each in timings):.3f} s",
    )


def _command_rows(options: Options, floor: float) -> Iterator[Row]:
    """Yield the time of each import command with a few tiles, from the start to the end of its process."""
    section = sections.plan(FEW_TILES, (SIDE, SIDE), 0)
    image = sections.write_image(options.directory / "image.tif", (SIDE, SIDE))
    sections.link_images(section, options.directory, image)
    metafile = sections.put_metafile(section, options.directory)
    with processes.standin(options.directory) as (_, url):
        given = metafile, options.directory, "raw"
        variants = {name: partial(run_command, url, step, *given) for name, step in COMMANDS.items()}
        timings = interleaved(variants, 2 if options.quick else 15)
    for name in COMMANDS:
        yield _row(f"temwatch {name}, {FEW_TILES} tiles of {SIDE}x{SIDE}", timings[name], COMMAND_LIMIT_S, floor)


def _runner(arguments: Sequence[str]) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    return run


def _imported(arguments: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Return which of the modules a program imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return [name for name in modules if name in names]


if __name__ == "__main__":
    run_script("startup", measure)
