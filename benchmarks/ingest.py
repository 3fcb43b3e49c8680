"""Target 4: time until the tile specs of a metafile have been read back from the stack; CPU of a tile spec."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import processes, sections
from benchmarks.common import Options, Outcome, Plot, Row, interleaved, median_cpu_s, median_ratio, run_script
from benchmarks.old_pipeline import tile_specs
from daemon.simulator.section import SectionPlan
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.pytemca import PyTemca
from handlers.acquisition.tilespec import tile_specs_for
from handlers.render.layer_responses import RESOLVED_TILES
from handlers.render.tiles import check_upload, differences, upload_parts

SETTLE_S = 0.5
LIMITS_S = {200: 0.3, 2772: 1.5, 20_000: 5.0}
RUNS = {200: 7, 2772: 5, 20_000: 3}
SPECS = 2772
Z = 1000.0


@dataclass(frozen=True, slots=True)
class Ingested:
    """Times of one ingested montage."""

    latency_s: float
    """Seconds from NOTICED to INGESTED, without the settle time."""
    after_settling_s: float
    """Seconds from SETTLED to INGESTED."""
    daemon_cpu_s: float
    standin_cpu_s: float


def measure(options: Options) -> Outcome:
    """Measure the latencies of montages, then the CPU of tile specs, compared with render-python."""
    runs = {50: 2, 200: 2} if options.quick else RUNS
    measured = latencies(options.directory, runs)
    rows = [_latency_row(tiles, found) for tiles, found in measured.items()]
    spec_row, facts = specs_against_render_python(60 if options.quick else SPECS, 2 if options.quick else 7)
    points = [(float(tiles), statistics.median(each.latency_s for each in found)) for tiles, found in measured.items()]
    plot = Plot(
        "ingest",
        "From NOTICED to the tile specs in the stack",
        "tiles of the montage",
        "seconds without the settle time",
        {"measured": points, "target": [(float(tiles), limit) for tiles, limit in LIMITS_S.items()]},
        log_x=True,
        log_y=True,
    )
    return Outcome([*rows, *spec_row], [plot], facts)


def _latency_row(tiles: int, found: list[Ingested]) -> Row:
    def middle(value: Callable[[Ingested], float]) -> float:
        return statistics.median(map(value, found))

    cpu_s, standin_s = middle(lambda each: each.daemon_cpu_s), middle(lambda each: each.standin_cpu_s)
    return Row(
        4,
        f"metafile noticed to tile specs read back, without the settle time, {tiles:,} tiles",
        middle(lambda each: each.latency_s),
        "s",
        limit=LIMITS_S.get(tiles),
        floor=standin_s,
        floor_is="CPU of the stand-in",
        note=f"SETTLED to INGESTED {middle(lambda each: each.after_settling_s):.3f} s; "
        f"CPU of the daemon {cpu_s:.3f} s, {1e6 * cpu_s / tiles:.0f} us a tile",
    )


def latencies(directory: Path, runs: Mapping[int, int]) -> dict[int, list[Ingested]]:
    """Deliver montages of each number of tiles, one after the other, to a daemon that makes no mipmaps."""
    acquisition = directory / "acquisition"
    acquisition.mkdir()
    image = sections.write_image(directory / "image.tif", (1024, 1024))
    found: dict[int, list[Ingested]] = {tiles: [] for tiles in runs}
    with processes.standin(directory) as (standin, render_url):
        config = processes.write_config(
            directory,
            render_url,
            acquisition,
            watch={"settle_s": SETTLE_S},
            mipmaps={"min_free_bytes": 2**60},  # more than any disk has: no mipmaps are made
        )
        with processes.daemon(directory, config) as (program, url):
            number = 0
            for tiles in sorted(runs):
                for _ in range(runs[tiles] + 1):
                    section = sections.plan(tiles, (1024, 1024), number)
                    sections.link_images(section, acquisition, image)
                    found[tiles].append(_ingest(section, acquisition, program, standin, url))
                    number += 1
                del found[tiles][0]  # warms up
    return found


def _ingest(
    section: SectionPlan, acquisition: Path, program: processes.Program, standin: processes.Program, url: str
) -> Ingested:
    before = program.cpu_s(), standin.cpu_s()
    metafile = sections.put_metafile(section, acquisition)
    query = f"{url}/api/montages?metafile={metafile}"

    def ingested() -> dict[str, Any] | None:
        rows = processes.fetch(query)["montages"]
        return rows[0] if rows and rows[0]["state"] == "ingested" else None

    row = processes.wait_for(ingested, 120, f"{metafile} ingested", every_s=0.05)
    after = program.cpu_s(), standin.cpu_s()
    assert row is not None
    events = {
        each["event"]: datetime.fromisoformat(each["at"]).timestamp()
        for each in processes.fetch(f"{url}/api/montages/{row['id']}")["events"]
    }
    return Ingested(
        latency_s=events["ingested"] - events["noticed"] - SETTLE_S,
        after_settling_s=events["ingested"] - events["settled"],
        daemon_cpu_s=after[0] - before[0],
        standin_cpu_s=after[1] - before[1],
    )


# --- compared with render-python


def specs_against_render_python(tiles: int, runs: int) -> tuple[list[Row], dict[str, Any]]:
    """Measure the CPU of making the tile specs of a parsed metafile, serialising, parsing and comparing them."""
    content = sections.metafile_text(sections.plan(tiles, (3840, 3840), 0))
    directory = Path("/data/section")
    acquisition, plain = PyTemca().parse(content, Path("metafile")), json.loads(content)
    answer = _answer(acquisition, directory)
    variants: dict[str, Callable[[], object]] = {"temwatch": lambda: _temwatch(acquisition, directory, answer)}
    try:
        import renderapi  # noqa: F401

        variants["render-python"] = lambda: _render_python(plain, directory, answer)
    except ImportError:
        pass
    timings = interleaved(variants, runs)
    cpu_us = {name: 1e6 * median_cpu_s(found) / tiles for name, found in timings.items()}
    ratio = None
    if "render-python" in timings:
        ratio = median_ratio(*([each.cpu_s for each in timings[name]] for name in ("render-python", "temwatch")))
    row = Row(
        4,
        "CPU of a tile spec: made, serialised, read back, compared",
        cpu_us["temwatch"],
        "us",
        limit=None if ratio is None else 3.0,
        at_most=False,
        peer=cpu_us.get("render-python"),
        peer_is="render-python's TileSpec objects",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note="" if ratio else "render-python is not installed",
    )
    return [row], {"cpu_us_per_tile_spec": cpu_us}


def _answer(acquisition: Acquisition, directory: Path) -> bytes:
    """Return the specs as render-ws returns them, with the bounds that it adds."""
    specs = tile_specs_for(acquisition, Z, directory)
    derived = {"minX": 0.0, "minY": 0.0, "maxX": 3840.0, "maxY": 3840.0, "meshCellSize": 64.0}
    shown = {spec["tileId"]: {**spec, **derived} for spec in specs}
    return json.dumps({"transformIdToSpecMap": {}, "tileIdToSpecMap": shown}).encode()


def _temwatch(acquisition: Acquisition, directory: Path, answer: bytes) -> None:
    specs = tile_specs_for(acquisition, Z, directory)
    check_upload("bench", Z, specs)
    upload_parts(specs, {})
    shown = RESOLVED_TILES.validate_json(answer).tile_id_to_spec_map
    wrong = [line for spec in specs for line in differences(spec, shown[spec["tileId"]])]
    assert not wrong, wrong[:3]


def _render_python(plain: Any, directory: Path, answer: bytes) -> None:
    """Do the same with render-python's objects, its serialiser and its parser."""
    from renderapi.resolvedtiles import ResolvedTiles
    from renderapi.utils import renderdumps

    specs = tile_specs(plain, directory, Z)
    renderdumps(ResolvedTiles(specs)).encode()
    shown = {spec.tileId: spec for spec in ResolvedTiles(json=json.loads(answer)).tilespecs}
    for spec in specs:
        sent, there = spec.to_dict(), shown[spec.tileId].to_dict()
        assert all(there[key] == value for key, value in sent.items()), spec.tileId


if __name__ == "__main__":
    run_script("ingest", measure)
