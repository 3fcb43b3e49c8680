"""Target 11: pages with 100,000 montages, twenty open pages under load, and a stop with five open pages.

`--seconds 600` keeps the twenty pages open for ten minutes.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes, restart, sections
from benchmarks.common import Options, Outcome, Plot, Row, median_ratio, run_script
from benchmarks.sustained import LEVELS, SIZE, TARGET_TILES_PER_S, TILES, Scene
from benchmarks.viewers import HTML, Viewers, looking
from daemon.journal.file import connect

PAGE_LIMIT_MS = 200.0
REQUESTS = 15
"""Requests of each page."""
LARGE_TILES = 2_772
LARGE_SIZE = (256, 256)
OPEN_PAGES = 20
OPEN_S = 20.0
SHARE_OFFERED = 0.8
"""Share of the capacity that is offered while the pages are open, if the capacity is below the rate of six scopes."""
ROUNDS = 2
SECTIONS = 4
"""Sections of one round of the comparison."""
STOPS = 3
STOP_PAGES = 5
"""Open pages during a stop."""
OVERVIEWS = {
    "overview": "/",
    "overview, one scope": "/?scope=temca3",
    "overview, one tape and state": "/?tape=0017&state=complete",
    "overview, failed": "/?state=failed",
    "overview, range of z": "/?z_from=40000&z_to=60000",
    "microscope, a year": "/scopes/bench/temca3?days=365",
    "microscope, a week": "/scopes/bench/temca3",
    "section without its metafile": "/montages/1001",
    "login": "/login",
}


def measure(options: Options, seconds: float = OPEN_S) -> Outcome:
    """Measure the three parts, each with its own daemons."""
    times = page_times(options)
    rows = [_page_row(name, each, options) for name, each in times.items()]
    loaded, plots, facts = _under_load(options, 5.0 if options.quick else seconds)
    return Outcome(
        [*rows, *loaded, _stop_row(options)],
        plots,
        {"page_ms": {name: each.wall_ms for name, each in times.items()}, **facts},
    )


# --- times of the pages


@dataclass(frozen=True, slots=True)
class PageTimes:
    """Times of one page that was requested several times."""

    wall_ms: list[float]
    cpu_ms: float
    """CPU of the daemon's process for each answer; other load has less effect on it."""
    size: int
    """Bytes of the answer."""


def page_times(options: Options) -> dict[str, PageTimes]:
    """Measure each page."""
    directory = options.directory / "journal"
    acquisition = directory / "acquisition"
    acquisition.mkdir(parents=True)
    fill(directory / "journal.sqlite", 2_000 if options.quick else restart.MONTAGES, acquisition)
    image = sections.write_image(directory / "tile.tif", LARGE_SIZE)
    with processes.standin(directory) as (_, render_url):
        config = processes.write_config(
            directory, render_url, acquisition, stacks={"close_after_s": 1}, mipmaps={"levels": 3}
        )
        with processes.daemon(directory, config) as (program, url):
            large = _large_section(url, acquisition, image, 48 if options.quick else LARGE_TILES)
            pages = OVERVIEWS | large
            requests = 3 if options.quick else REQUESTS
            return {name: _times_of_page(url + page, requests, program.pid) for name, page in pages.items()}


def _times_of_page(url: str, requests: int, daemon: int) -> PageTimes:
    size = len(_page(url))
    cpu_s = processes.cpu_of(daemon)
    wall_ms = [_request_ms(url) for _ in range(requests)]
    return PageTimes(wall_ms, 1000 * (processes.cpu_of(daemon) - cpu_s) / requests, size)


def fill(path: Path, montages: int, acquisition: Path) -> None:
    """Write a journal of montages of six scopes and many tapes: most COMPLETE with their trends, some FAILED."""
    restart.fill(path, montages, acquisition)
    fault = '{"subject": "m.json", "problem": "has 3 images too few", "hint": "copy them", "kind": "MetafileFault"}'
    now = time.time()
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")
        connection.execute(
            "UPDATE montages SET scope = 'temca' || (1 + id % 6), tape = printf('%04d', id / 500),"
            " noticed_at = :now - 60 * (:all - id) - 300, changed_at = :now - 60 * (:all - id),"
            " complete_at = :now - 60 * (:all - id)",
            {"now": now, "all": montages},
        )
        connection.execute(
            "UPDATE montages SET state = 'failed', failed_in = 'settled', fault = ?, complete_at = NULL"
            " WHERE id % 500 = 0",
            (fault,),
        )
        connection.execute(
            "INSERT INTO trends (montage_id, focus, std_dev, interval_s, stage_error_px, pixel_size_nm)"
            " SELECT id, 20 + id % 7, 25 + id % 5, 0.3, 1.0 + id % 3, 4.0 FROM montages WHERE complete_at IS NOT NULL"
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _large_section(url: str, acquisition: Path, image: Path, tiles: int) -> dict[str, str]:
    """Deliver a large section and wait until it is COMPLETE; return its pages."""
    section = sections.plan(tiles, LARGE_SIZE, 900_000, temca="temca3")
    sections.link_images(section, acquisition, image)
    sections.put_metafile(section, acquisition)

    def complete() -> dict[str, Any] | None:
        found = processes.fetch(f"{url}/api/montages?limit=1")
        newest = found["montages"][0] if found else {}
        return newest if newest.get("state") == "complete" and newest["tiles"] == tiles else None

    newest = processes.wait_for(complete, 240, "the large section COMPLETE", every_s=0.2)
    assert newest is not None, "wait_for returns only what is true"
    montage = newest["id"]
    shown = processes.fetch(f"{url}/api/montages/{montage}/tiles")
    assert shown is not None, "the daemon answers"
    middle = shown["tiles"][tiles // 2]
    return {
        f"section of {tiles:,} tiles": f"/montages/{montage}",
        f"tile of a section of {tiles:,} tiles": f"/montages/{montage}/tiles/{middle}",
    }


def _request_ms(url: str) -> float:
    began = time.perf_counter()
    _page(url)
    return 1000 * (time.perf_counter() - began)


def _page(url: str) -> str:
    text = str(processes.fetch(url, headers=HTML))
    assert "<!DOCTYPE html>" in text, url
    return text


def _page_row(name: str, times: PageTimes, options: Options) -> Row:
    montages = "2,000" if options.quick else f"{restart.MONTAGES:,}"
    return Row(
        11,
        f"page with {montages} montages: {name}",
        statistics.median(times.wall_ms),
        "ms",
        limit=PAGE_LIMIT_MS,
        judged=max(times.wall_ms),
        note=f"{times.size / 1000:.0f} kB; CPU {times.cpu_ms:.0f} ms; slowest of {len(times.wall_ms)}: "
        f"{max(times.wall_ms):.0f} ms, which is compared with the target",
    )


# --- open pages under load


def _under_load(options: Options, seconds: float) -> tuple[list[Row], list[Plot], dict[str, Any]]:
    """Compare saturated runs with and without open pages; then keep pages open under the load of six scopes."""
    directory = options.directory / "load"
    acquisition = directory / "acquisition"
    acquisition.mkdir(parents=True)
    image = sections.write_image(directory / "tile.tif", SIZE)
    with ExitStack() as stack:
        standin, render_url = stack.enter_context(processes.standin(directory))
        config = processes.write_config(
            directory,
            render_url,
            acquisition,
            stacks={"close_after_s": 2},
            mipmaps={"levels": LEVELS, "min_free_bytes": 2**30},
        )
        program, url = stack.enter_context(processes.daemon(directory, config))
        scene = Scene(directory, acquisition, image, 6 if options.quick else TILES, standin, program, url)
        stack.enter_context(scene.watched())
        pages = ["/"] * 12 + ["/montages/1"] * 4 + ["/montages/2"] * 2 + ["/scopes/bench/temca1"] * 2
        runs: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for _ in range(1 if options.quick else ROUNDS):
            runs["without"].append(_saturated(scene, options))
            with looking(url, pages):
                runs["with"].append(_saturated(scene, options))
        offered = min(TARGET_TILES_PER_S, SHARE_OFFERED * statistics.median(rate for rate, _ in runs["with"]))
        alone_bytes = program.memory_bytes()
        cpu, began, from_sample = (processes.cpu_of(program.pid), time.monotonic(), len(scene.run.samples))
        with looking(url, pages) as viewers:
            scene.offer(offered, seconds)
            taken = time.monotonic() - began
            share = (processes.cpu_of(program.pid) - cpu) / taken
        samples = scene.run.samples[from_sample:]
        return (
            _load_rows(runs, viewers, samples, share, offered, taken, alone_bytes),
            [_memory_plot(samples)],
            {"runs": runs, "refreshes_s": viewers.refreshes_s},
        )


def _saturated(scene: Scene, options: Options) -> tuple[float, float]:
    """Return tiles per second, and the CPU seconds of the daemon's own process per tile."""
    scene.saturate(2 if options.quick else SECTIONS, profiled=False)
    return scene.capacity, scene.cpu["daemon"]


def _load_rows(
    runs: Mapping[str, list[tuple[float, float]]],
    viewers: Viewers,
    samples: list[dict[str, float]],
    share: float,
    offered: float,
    seconds: float,
    alone_bytes: float,
) -> list[Row]:
    rate = {name: statistics.median(each for each, _ in taken) for name, taken in runs.items()}
    cpu_ms = {name: 1000 * statistics.median(each for _, each in taken) for name, taken in runs.items()}
    ratio = median_ratio(*([each for each, _ in runs[name]] for name in ("with", "without")))
    peak_bytes = max(sample["memory"] for sample in samples)
    opened = f"{OPEN_PAGES} open pages"
    refreshes = sorted(viewers.refreshes_s) or [0.0]
    return [
        Row(
            11,
            f"rate of the saturated daemon with {opened}",
            rate["with"],
            "tiles/s",
            limit=0.9,
            at_most=False,
            peer=rate["without"],
            peer_is="without open pages",
            ratio=ratio,
            ratio_is="measured / peer",
            judged=ratio,
            note=f"CPU of the daemon's process for a tile {cpu_ms['with']:.1f} ms, without {cpu_ms['without']:.1f} ms",
        ),
        Row(
            11,
            f"CPU of the daemon's process with {opened}, {offered:.1f} tiles/s for {seconds:.0f} s",
            100 * share,
            "% of a core",
            note=f"{viewers.events:,} events sent, {len(viewers.refreshes_s):,} pages sent, {viewers.refused} refused",
        ),
        Row(
            11,
            f"answer to a refresh of an open page, under that load for {seconds:.0f} s",
            1000 * statistics.median(refreshes),
            "ms",
            note=f"95 %: {1000 * refreshes[int(0.95 * len(refreshes))]:.0f} ms, slowest {1000 * refreshes[-1]:.0f} ms",
        ),
        Row(
            11,
            f"peak memory of the daemon with its workers, {opened}, under that load for {seconds:.0f} s",
            peak_bytes / 2**20,
            "MiB",
            peer=alone_bytes / 2**20,
            peer_is="before the pages were opened",
        ),
    ]


def _memory_plot(samples: list[dict[str, float]]) -> Plot:
    points = [(sample["at"], sample["memory"] / 2**20) for sample in samples]
    title = f"Memory of the daemon and its workers with {OPEN_PAGES} open pages"
    return Plot("open_pages", title, "seconds from the start of the run", "MiB", {"memory": points})


# --- a stop


def _stop_row(options: Options) -> Row:
    """Stop the daemon with and without open pages, in turn."""
    directory = options.directory / "stop"
    acquisition = directory / "acquisition"
    acquisition.mkdir(parents=True)
    wall_s: dict[int, list[float]] = {0: [], STOP_PAGES: []}
    cpu_s: dict[int, list[float]] = {0: [], STOP_PAGES: []}
    with processes.standin(directory) as (_, render_url):
        config = processes.write_config(directory, render_url, acquisition)
        for turn in range(1 if options.quick else STOPS):
            for pages in sorted(wall_s, reverse=turn % 2 == 1):
                started = processes.daemon(directory, config, name=f"daemon{turn}-{pages}")
                with started as (program, url), looking(url, ["/"] * pages):
                    used, of_children, began = program.cpu_s(), _children_cpu_s(), time.monotonic()
                    program.stop()
                    wall_s[pages].append(time.monotonic() - began)
                    cpu_s[pages].append(_children_cpu_s() - of_children - used)
    ratio = median_ratio(wall_s[STOP_PAGES], wall_s[0])
    return Row(
        11,
        f"SIGTERM to the end of the daemon with {STOP_PAGES} open pages",
        statistics.median(wall_s[STOP_PAGES]),
        "s",
        limit=1.25,
        peer=statistics.median(wall_s[0]),
        peer_is="without open pages",
        ratio=ratio,
        ratio_is="measured / peer",
        judged=ratio,
        note="CPU of the stop {:.2f} s, without {:.2f} s".format(
            *(statistics.median(cpu_s[pages]) for pages in (STOP_PAGES, 0))
        ),
    )


def _children_cpu_s() -> float:
    """CPU seconds of the processes that this one has reaped, and of those that they had reaped."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seconds", type=float, default=OPEN_S)
    given, others = parser.parse_known_args(sys.argv[1:])
    run_script("pages", lambda options: measure(options, given.seconds), others)
