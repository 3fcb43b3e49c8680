"""A simulated TEMCA: writes the tiles and metafiles of planned sections as the microscope or its copy job does.

    python -m daemon.simulator.microscope /data/temca2 --sections 3 --tiles 12 --size 1024x1024

prints a JSON object for each file and exits 0 when all are written.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from daemon.simulator.frames import FrameSource, NoiseFrames, PixelSource, measure, tiff_bytes
from daemon.simulator.pytemca import MetafileForm, metafile_bytes
from daemon.simulator.section import SectionPlan, plan_section
from daemon.simulator.tile_faults import spoil_tiles
from handlers.text import printable

__all__ = [
    "Arrival",
    "Delivery",
    "MetafileForm",
    "PixelSource",
    "SectionPlan",
    "Written",
    "plan_section",
    "tiff_bytes",
    "write_section",
    "write_tiles_for",
]


class Arrival(StrEnum):
    """How a file is written."""

    RENAMED = "renamed"
    """Written under another name, then renamed."""
    DIRECT = "direct"
    """Opened, written, closed."""
    PIECES = "pieces"
    """Written in pieces with pauses: its size grows."""
    PREALLOCATED = "preallocated"
    """As by robocopy: at full size from the start, filled in pieces; the source's mtime is set at the end."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How and how fast files are written."""

    arrival: Arrival = Arrival.RENAMED
    piece_bytes: int = 1 << 16
    piece_pause_s: float = 0.0
    """After each piece."""
    tile_pause_s: float = 0.0
    """After each tile."""


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a section."""

    directory: Path
    metafile: Path
    images: tuple[Path, ...]


def write_section(
    plan: SectionPlan,
    root: Path,
    *,
    pixels: PixelSource | str = PixelSource.TISSUE,
    form: MetafileForm = MetafileForm.TILE_PER_LINE,
    appended: Mapping[str, Any] | None = None,
    metafile_first: bool = False,
    delivery: Delivery = Delivery(),
    on_file: Callable[[Path], None] | None = None,
) -> Written:
    """Write a section below `root`: tiles first and the metafile last, or the metafile first.

    Parameters
    ----------
    appended : third element of the metafile, such as {"sharedTransform": {...}}.
    metafile_first : as at the destination of a copy job that sorts files by name.
    on_file : called after each file.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    camera = FrameSource(plan, PixelSource(pixels))
    directory = Path(root, plan.directory)
    directory.mkdir(parents=True, exist_ok=True)
    metafile = directory / plan.metafile_name
    report = on_file or (lambda _: None)
    if metafile_first:
        statistics = [measure(camera.frame(tile), tile.fault) for tile in plan.tiles]
        deliver(metafile, metafile_bytes(plan, statistics, form, appended), delivery)
        report(metafile)
    measured = []
    for tile in plan.tiles:
        frame = camera.frame(tile)
        measured.append(measure(frame, tile.fault))
        deliver(directory / tile.image_name, tiff_bytes(frame), delivery)
        report(directory / tile.image_name)
        time.sleep(delivery.tile_pause_s)
    if not metafile_first:
        deliver(metafile, metafile_bytes(plan, measured, form, appended), delivery)
        report(metafile)
    return Written(directory, metafile, tuple(directory / tile.image_name for tile in plan.tiles))


def write_tiles_for(
    metafile: Path | bytes,
    directory: Path,
    size: tuple[int, int] | None = None,
    delivery: Delivery = Delivery(),
) -> tuple[Path, ...]:
    """Write a distinct 8-bit image for each tile that a metafile names, and return their paths.

    Parameters
    ----------
    metafile : its path or its bytes, a list of two elements.
    size : (width, height) in pixels; None: as in the header.
    """
    header, data = json.loads(metafile if isinstance(metafile, bytes) else metafile.read_bytes())[:2]
    camera = header["metadata"]["camera_info"]
    width, height = size or (camera["width"], camera["height"])
    noise = NoiseFrames(width, height, seed=0)
    directory.mkdir(parents=True, exist_ok=True)
    images = tuple(directory / tile["img_path"] for tile in data["data"])
    for index, image in enumerate(images):
        deliver(image, tiff_bytes(noise.frame(index)), delivery)
    return images


def deliver(path: Path, content: bytes, delivery: Delivery) -> None:
    match delivery.arrival:
        case Arrival.RENAMED:
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(content)
            part.replace(path)
        case Arrival.DIRECT:
            path.write_bytes(content)
        case Arrival.PIECES:
            _write_pieces(path, content, delivery, full_size_at_once=False)
        case Arrival.PREALLOCATED:
            started_ns = time.time_ns()
            _write_pieces(path, content, delivery, full_size_at_once=True)
            os.utime(path, ns=(started_ns, started_ns))


def append(log: Path, text: str, delivery: Delivery) -> None:
    """Append to a log; in two pieces, cut within a line, where files are written in pieces."""
    content = text.encode()
    cut = len(content) // 2 if delivery.arrival in (Arrival.PIECES, Arrival.PREALLOCATED) else 0
    for piece in (content[:cut], content[cut:]):
        with log.open("ab") as file:
            file.write(piece)
        time.sleep(delivery.piece_pause_s)


def _write_pieces(path: Path, content: bytes, delivery: Delivery, *, full_size_at_once: bool) -> None:
    with path.open("wb", buffering=0) as file:
        if full_size_at_once:
            file.truncate(len(content))
        for start in range(0, len(content), delivery.piece_bytes):
            file.write(content[start : start + delivery.piece_bytes])
            time.sleep(delivery.piece_pause_s)


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
    add("--format", default="pytemca", help="what it writes; see daemon.simulator.writers")
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
    """Run the command; 0 when every section is written, 1 when the disk refuses."""
    arguments = _arguments(argv)
    delivery = Delivery(arguments.arrival, piece_pause_s=arguments.piece_pause, tile_pause_s=arguments.tile_pause)
    try:
        for k, plan in enumerate(_plans(arguments), start=1):
            _print_faults(k, plan)
            write = partial(write_section, form=arguments.form)
            if arguments.format != "pytemca":
                from daemon.simulator.writers import write_in_format  # it imports this module

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
