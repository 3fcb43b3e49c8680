"""Target 8: CPU of a tile by the size of its montage, and CPU of a montage by the number that arrive together."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes, sections
from benchmarks.common import Options, Outcome, Plot, Row, run_script
from daemon.simulator.section import SectionPlan

SIZE = (64, 64)
LEVELS = 2
TILES = {10: 4, 100: 2, 1000: 1, 10_000: 1}
"""Tiles of a montage -> runs, each with one such montage."""
WAITING = {1: 5, 10: 2, 100: 1, 1000: 1}
"""Montages that arrive together -> runs."""
TILES_OF_WAITING = 4
LIMIT = 1.2
"""Limit of the largest case's cost divided by that of the smallest."""


def measure(options: Options) -> Outcome:
    """Measure the CPU of the daemon and its workers, from the metafile to COMPLETE."""
    tiles = {10: 3, 100: 1} if options.quick else TILES
    waiting = {1: 3, 10: 1} if options.quick else WAITING
    with _Bench(options.directory / "tiles") as bench:
        by_tiles = {count: bench.cpu_s([count], runs) for count, runs in tiles.items()}
    with _Bench(options.directory / "waiting") as bench:
        by_waiting = {count: bench.cpu_s([TILES_OF_WAITING] * count, runs) / count for count, runs in waiting.items()}
    fixed_s = _fixed_s(by_tiles)
    per_tile_ms = {count: 1000 * (cpu_s - fixed_s) / count for count, cpu_s in by_tiles.items()}
    per_montage_ms = {count: 1000 * cpu_s for count, cpu_s in by_waiting.items()}
    rows = [
        _row(
            "CPU of a tile in a montage of {:,} tiles, without the montage's fixed cost",
            "{:,} tiles",
            per_tile_ms,
            f"; fixed cost {1000 * fixed_s:.0f} ms",
        ),
        _row("CPU of a montage of 4 tiles, when {:,} arrive together", "when {:,} arrives", per_montage_ms),
    ]
    plots = [
        _plot("cliff_tiles", "Cost of a tile", "tiles of the montage", per_tile_ms),
        _plot("cliff_waiting", "Cost of a montage", "montages that arrive together", per_montage_ms),
    ]
    return Outcome(rows, plots, {"cpu_s_by_tiles": by_tiles, "cpu_s_by_waiting": by_waiting})


def _fixed_s(by_tiles: dict[int, float]) -> float:
    """Return the fixed cost of a montage: the intercept of the line through the two smallest sizes."""
    few, more = sorted(by_tiles)[:2]
    slope = (by_tiles[more] - by_tiles[few]) / (more - few)
    return max(0.0, by_tiles[few] - slope * few)


def _row(what: str, peer_is: str, found: dict[int, float], note: str = "") -> Row:
    """Compare the largest case with the smallest, whose numbers are put into the texts."""
    smallest, largest = min(found), max(found)
    ratio = found[largest] / found[smallest]
    return Row(
        8,
        what.format(largest),
        found[largest],
        "ms",
        limit=LIMIT,
        peer=found[smallest],
        peer_is=peer_is.format(smallest),
        ratio=ratio,
        ratio_is="measured / peer",
        judged=ratio,
        note="; ".join(f"{count:,}: {value:.2f} ms" for count, value in found.items()) + note,
    )


def _plot(name: str, title: str, x_label: str, found: dict[int, float]) -> Plot:
    points = [(float(count), value) for count, value in found.items()]
    return Plot(name, title, x_label, "CPU, ms", {"measured": points}, log_x=True)


class _Bench:
    """A daemon with a stand-in, for which montages are delivered and awaited until they are COMPLETE."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._acquisition = directory / "acquisition"
        self._acquisition.mkdir(parents=True)
        self._number = 0

    def __enter__(self) -> "_Bench":
        self._image = sections.write_image(self._directory / "image.tif", SIZE)
        self._standin = processes.standin(self._directory)
        _, render_url = self._standin.__enter__()
        config = processes.write_config(
            self._directory,
            render_url,
            self._acquisition,
            watch={"settle_s": 0.2},
            stacks={"close_after_s": 1},
            mipmaps={"levels": LEVELS},
        )
        self._daemon = processes.daemon(self._directory, config)
        self._program, self._url = self._daemon.__enter__()
        self.cpu_s([10], 1)  # warms up
        return self

    def __exit__(self, *error: object) -> None:
        self._daemon.__exit__(None, None, None)
        self._standin.__exit__(None, None, None)

    def cpu_s(self, sizes: Sequence[int], runs: int) -> float:
        """Return the CPU seconds for montages with these numbers of tiles that arrive together: mean of the runs."""
        total = 0.0
        for _ in range(runs):
            planned = [self._plan(tiles) for tiles in sizes]
            before = self._program.cpu_s()
            for section in planned:
                sections.put_metafile(section, self._acquisition)
            self._wait_until_complete()
            total += self._program.cpu_s() - before
        return total / runs

    def _plan(self, tiles: int) -> SectionPlan:
        section = sections.plan(tiles, SIZE, self._number)
        self._number += 1
        sections.link_images(section, self._acquisition, self._image)
        return section

    def _wait_until_complete(self) -> None:
        def complete() -> bool:
            answer = processes.fetch(f"{self._url}/api/montages?limit=1")
            return bool(answer) and answer["counts"].get("bench", {}) == {"complete": self._number}

        processes.wait_for(complete, 900, "all COMPLETE", every_s=0.25)


if __name__ == "__main__":
    run_script("cliff", measure)
