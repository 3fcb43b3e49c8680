"""A simulated microscope: writes the tiles and metafiles of planned sections like the microscope or its copy job.

    python -m daemon.simulator.microscope /data/temca2 --sections 3 --tiles 12 --size 1024x1024

It prints a JSON object for each file, and exits with 0 when all files are written.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from daemon.simulator.delivery import Arrival, Delivery
from daemon.simulator.frames import PixelSource
from daemon.simulator.pytemca import MetafileForm
from daemon.simulator.section import SectionPlan, plan_section
from daemon.simulator.temca import write_section
from daemon.simulator.tile_faults import spoil_tiles
from daemon.simulator.writers import FORMATS, write_in_format
from handlers.text import printable


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1024x1024")
    return int(width), int(height)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _overlap(text: str) -> float:
    try:
        overlap = float(text)
    except ValueError:
        overlap = -1
    if not 0 <= overlap < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction from 0 to below 1")
    return overlap


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m daemon.simulator.microscope", description="A simulated TEMCA.")
    add = parser.add_argument
    add("directory", type=Path, help="directory of the sections, as <project>/<TEMCAn>/<session>/<grid>/<roi>/")
    add("--sections", type=_positive, default=3, metavar="N")
    add("--tiles", type=_positive, default=12, metavar="N", help="tiles of a section")
    add("--size", type=_size, default=(1024, 1024), metavar="WxH", help="size of a tile in pixels")
    add("--pixels", type=PixelSource, choices=list(PixelSource), default=PixelSource.TISSUE)
    add("--bits", type=int, choices=(8, 12), default=8, help="bits of a pixel; 12 in 16-bit files")
    add("--overlap", type=_overlap, default=0.07)
    add("--angle", type=float, default=180.0, help="rotation from stage to image, degrees")
    add("--first-grid", type=_positive, default=1050, metavar="N", help="aperture number of the first section")
    add("--temca", default="temca2", help="name of the microscope")
    add("--session", default="20314_2L_0151_07", help="name of the imaging session")
    add("--seed", type=int, default=0, help="number of the block of tissue")
    add("--metafile-first", type=_positive, metavar="K", help="write the metafile of the K-th section before its tiles")
    add("--format", choices=list(FORMATS), default="pytemca", help="format of the files")
    add("--bad-tiles", type=_positive, metavar="K", help="make one tile of each fault in the K-th section")
    add("--form", type=MetafileForm, choices=list(MetafileForm), default=MetafileForm.TILE_PER_LINE)
    add("--arrival", type=Arrival, choices=list(Arrival), default=Arrival.RENAMED, help="how files are written")
    add("--piece-pause", type=float, default=0.0, metavar="S", help="pause after each 64 KiB written in pieces")
    add("--tile-pause", type=float, default=0.0, metavar="S", help="pause after each tile")
    add("--section-pause", type=float, default=0.0, metavar="S", help="pause between sections")
    return parser.parse_args(argv)


def _plans(arguments: argparse.Namespace) -> list[SectionPlan]:
    started = datetime.now().astimezone()
    plans = [
        plan_section(
            tiles=arguments.tiles,
            size=arguments.size,
            grid=arguments.first_grid + k,
            bits=arguments.bits,
            angle_deg=arguments.angle,
            overlap=arguments.overlap,
            temca_id=arguments.temca.lower(),
            session_id=arguments.session,
            created_at=started + timedelta(seconds=k),
            seed=arguments.seed,
        )
        for k in range(arguments.sections)
    ]
    return [spoil_tiles(plan) if k == arguments.bad_tiles else plan for k, plan in enumerate(plans, start=1)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when every section is written, 1 if a file cannot be written."""
    arguments = _arguments(argv)
    delivery = Delivery(arguments.arrival, piece_pause_s=arguments.piece_pause, tile_pause_s=arguments.tile_pause)
    try:
        for k, plan in enumerate(_plans(arguments), start=1):
            _print_faults(k, plan)
            write = partial(write_section, form=arguments.form)
            if arguments.format != "pytemca":
                write = partial(write_in_format, arguments.format)
            write(
                plan,
                arguments.directory,
                pixels=arguments.pixels,
                metafile_first=k == arguments.metafile_first,
                delivery=delivery,
                on_file=partial(_print_file, k),
            )
            time.sleep(arguments.section_pause if k < arguments.sections else 0)
    except OSError as error:
        sys.stderr.write(printable(f"microscope: could not write {error.filename}: {error.strerror}") + "\n")
        return 1
    return 0


def _print_faults(section: int, plan: SectionPlan) -> None:
    for tile in plan.tiles:
        if tile.fault is not None:
            tile_name = tile.image_name.removesuffix(".tif")
            sys.stdout.write(json.dumps({"section": section, "fault": tile.fault, "tile": tile_name}) + "\n")


def _print_file(section: int, file: Path) -> None:
    sys.stdout.write(json.dumps({"section": section, "file": str(file)}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
