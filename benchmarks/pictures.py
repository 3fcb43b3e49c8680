"""Target 10: CPU and memory of drawing the mosaic and the heatmaps of a section."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import Options, Outcome, Row, run_script
from daemon.simulator.section import roi_cells
from handlers.picture import MosaicJob, draw_mosaic
from handlers.quality.heatmap import draw_heatmap
from handlers.quality.heatmap_numbers import Number, heatmap_of
from handlers.quality.numbers import UNITS, TileNumbers
from handlers.quality.rules import Limits, Surroundings
from handlers.quality.verdict import judge
from handlers.uris import path_to_uri

TILES, SIDE, LEVEL, STEP = 2772, 5504, 6, 4899
"""A production section of 2018: its tiles, their size, the smallest level, pixels from tile to tile."""
RUNS = 5
AFFINE = "mpicbg.trakem2.transform.AffineModel2D"


def measure(options: Options) -> Outcome:
    """Measure each picture in a new process, so that its memory is known."""
    tiles, runs = (60, 2) if options.quick else (TILES, RUNS)
    write_levels(options.directory, tiles)
    rows, facts = [], {}
    for name, what in (
        ("mosaic", f"drawing a mosaic of {tiles:,} tiles"),
        ("heatmaps", f"drawing a heatmap of {tiles:,} tiles"),
    ):
        found = [_drawn(name, options.directory, tiles) for _ in range(runs)]
        wall, cpu = (statistics.median(each[key] for each in found) for key in ("wall_s", "cpu_s"))
        peak, before = (max(each[key] for each in found) for key in ("peak_mib", "before_mib"))
        rows.append(Row(10, what, cpu, "s of CPU", note=f"wall {wall:.2f} s, {found[0]['bytes']:,} bytes"))
        rows.append(Row(10, f"peak memory of {what}", peak, "MiB", note=f"interpreter and imports {before:.0f} MiB"))
        facts[name] = found
    return Outcome(rows, facts=facts)


def write_levels(directory: Path, tiles: int) -> None:
    """Write the smallest level of every tile."""
    side = SIDE >> LEVEL
    grains = np.random.default_rng(0).integers(40, 220, (side, side), np.uint8)
    for index in range(tiles):
        Image.fromarray(np.roll(grains, index)).save(directory / f"{index}.tif")


def _drawn(name: str, directory: Path, tiles: int) -> dict[str, float]:
    """Return what a new process measured."""
    command = [sys.executable, "-m", "benchmarks.pictures", "--draw", name, str(directory), str(tiles)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _draw(name: str, directory: Path, tiles: int) -> dict[str, float]:
    prepared: Any = _mosaic_job(directory, tiles) if name == "mosaic" else _numbers(tiles)
    before, began, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    size = len(draw_mosaic(prepared)) if name == "mosaic" else _heatmaps(prepared)
    count = 1 if name == "mosaic" else len(Number)
    return {
        "wall_s": (time.perf_counter() - began) / count,
        "cpu_s": (time.process_time() - cpu) / count,
        "peak_mib": _peak_mib(),
        "before_mib": before,
        "bytes": size // count,
    }


def _mosaic_job(directory: Path, tiles: int) -> MosaicJob:
    specs = {}
    for index, (column, row) in enumerate(roi_cells(tiles)):
        place = {
            "className": AFFINE,
            "dataString": f"1 0 0 1 {column * STEP} {row * STEP}",
        }
        specs[str(index)] = {
            "tileId": str(index),
            "width": SIDE,
            "height": SIDE,
            "transforms": {"type": "list", "specList": [place]},
            "mipmapLevels": {str(LEVEL): {"imageUrl": path_to_uri(directory / f"{index}.tif")}},
        }
    return MosaicJob("mosaic", {"tileIdToSpecMap": specs}, 2000)


def _numbers(tiles: int) -> TileNumbers:
    random, cells = np.random.default_rng(0), np.array(roi_cells(tiles), np.float64)
    columns = {name: random.normal(20, 3, tiles) for name in UNITS}
    return TileNumbers.of(
        tuple(map(str, range(tiles))), {**columns, "raster_col": cells[:, 0], "raster_row": cells[:, 1]}
    )


def _heatmaps(numbers: TileNumbers) -> int:
    findings = {finding.rule: finding for finding in judge(numbers, Limits(), Surroundings(600.0, 22.0)).findings}
    return sum(len(draw_heatmap(heatmap_of(number, numbers, findings, title="z 1050"))) for number in Number)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--draw"]:
        print(json.dumps(_draw(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        run_script("pictures", measure)
