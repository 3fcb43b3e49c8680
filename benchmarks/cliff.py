"""Target 8: whether a tile costs the same in a large montage, and a montage the same behind many others."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes, sections
from benchmarks.common import Options, Outcome, Plot, Row, run_script
from daemon.simulator.section import SectionPlan

SIZE = (64, 64)
LEVELS = 2
TILES = {10: 6, 100: 3, 1000: 1, 10_000: 1}
"""Tiles of a montage -> number of such montages, one after the other."""
WAITING = {1: 8, 10: 2, 100: 1, 1000: 1}
"""Montages that arrive at once -> repetitions."""
TILES_OF_WAITING = 4
FLAT = 1.2


def measure(options: Options) -> Outcome:
    """Measure the CPU of the daemon with its workers, from the metafile to COMPLETE."""
    tiles = {10: 3, 100: 1} if options.quick else TILES
    waiting = {1: 3, 10: 1} if options.quick else WAITING
    with _Bench(options.directory / "tiles") as bench:
        by_tiles = {count: bench.cpu_s([count], times) for count, times in tiles.items()}
    with _Bench(options.directory / "waiting") as bench:
        by_waiting = {count: bench.cpu_s([TILES_OF_WAITING] * count, times) / count for count, times in waiting.items()}
    fixed_s = _fixed(by_tiles)
    per_tile_ms = {count: 1000 * (cpu_s - fixed_s) / count for count, cpu_s in by_tiles.items()}
    per_montage_ms = {count: 1000 * cpu_s for count, cpu_s in by_waiting.items()}
    rows = [
        _row(
            "CPU of a tile, with what each montage costs once taken off", "tiles", per_tile_ms, f"{1000 * fixed_s:.0f}"
        ),
        _row("CPU of a montage of 4 tiles", "montages come at once", per_montage_ms, ""),
    ]
    plots = [
        _plot("cliff_tiles", "Cost of a tile", "tiles of the montage", per_tile_ms),
        _plot("cliff_waiting", "Cost of a montage", "montages that come at once", per_montage_ms),
    ]
    return Outcome(rows, plots, {"cpu_s_by_tiles": by_tiles, "cpu_s_by_waiting": by_waiting})


def _fixed(by_tiles: dict[int, float]) -> float:
    """Return the fixed cost of a montage: the intercept of the line through the two smallest sizes."""
    few, more = sorted(by_tiles)[:2]
    slope = (by_tiles[more] - by_tiles[few]) / (more - few)
    return max(0.0, by_tiles[few] - slope * few)


def _row(what: str, unit: str, found: dict[int, float], fixed_ms: str) -> Row:
    first, last = min(found), max(found)
    each = ", ".join(f"{count:,}: {value:.2f}" for count, value in found.items())
    return Row(
        8,
        f"{what}, {last:,} {unit}",
        found[last],
        "ms",
        limit=FLAT,
        peer=found[first],
        peer_is=f"{first:,} {unit}",
        ratio=found[last] / found[first],
        ratio_is="measured / peer",
        judged=found[last] / found[first],
        note=each + (f"; once for each montage {fixed_ms} ms" if fixed_ms else ""),
    )


def _plot(name: str, title: str, x_label: str, found: dict[int, float]) -> Plot:
    points = [(float(count), value) for count, value in found.items()]
    return Plot(name, title, x_label, "CPU, ms", {"measured": points}, log_x=True)


class _Bench:
    """A daemon with a stand-in; montages are delivered and awaited until they are COMPLETE."""

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

    def cpu_s(self, sizes: Sequence[int], times: int) -> float:
        """Return the CPU seconds for montages of these sizes that arrive at once, the mean of some repetitions."""
        total = 0.0
        for _ in range(times):
            planned = [self._plan(tiles) for tiles in sizes]
            before = self._program.cpu_s()
            for section in planned:
                sections.put_metafile(section, self._acquisition)
            self._wait_until_complete()
            total += self._program.cpu_s() - before
        return total / times

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
