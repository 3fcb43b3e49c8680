"""Runs of SBEMimage that continue, replace and skip slices, with the daemon as a process and growing logs."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from daemon.simulator.frames import FrameSource, PixelSource, tiff_bytes
from daemon.simulator.sbemimage import complete_line, image_name, session_line, tile_line
from daemon.simulator.section import SectionPlan, TilePlan
from handlers.acquisition.section_path import part_of
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, fetch, temwatch, verify_levels, wait_for

SPECIMEN = "20314_2L"


class Run:
    """A run of SBEMimage, which has one log."""

    def __init__(self, base: Path, number: int) -> None:
        self._base = base
        self.log = base / "meta" / "logs" / f"metadata_2020-06-{number:02d}10021236.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.append(session_line(section_plan()))

    def append(self, text: str) -> None:
        with self.log.open("a", newline="") as file:
            file.write(text)

    def image(self, plan: SectionPlan, tiles: Iterable[TilePlan]) -> None:
        source = FrameSource(plan, PixelSource.NOISE)
        for tile in tiles:
            image = self._base / image_name(plan, tile)
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(tiff_bytes(source.frame(tile)))
            self.append(tile_line(plan, tile))

    def close(self, plan: SectionPlan) -> None:
        self.append(complete_line(plan))

    def end(self, active: list[int]) -> None:
        """Write the files that SBEMimage writes when a run is paused: the active tiles, and the end of its own log."""
        beside = self.log.name.removeprefix("metadata_")
        self.log.with_name(f"config_{beside}").write_text(f"[grids]\r\nactive_tiles = [{active}]\r\n")
        self.log.with_name(f"log_{beside}").write_text("Stack paused.\r\n*** END OF LOG ***\r\n")


@pytest.fixture
def stack(rig: Rig) -> Callable[[int], Run]:
    rig.settings |= {"watch.format": "sbemimage", "watch.z.rule": "header", "watch.ignore": ["slice_01052@*"]}
    rig.start_standin()
    rig.start()
    return lambda number: Run(rig.acquisition / SPECIMEN, number)


def slices(rig: Rig) -> dict[tuple[str, int], str]:
    """Return the state of each section by the name of its log and the number of its slice."""
    rows = [(part_of(Path(row["metafile"])), row["state"]) for row in rig.montages()]
    return {(part.file.name, part.number): state for part, state in rows if part}


@pytest.mark.slow
def test_runs_continue_replace_and_skip_slices(rig: Rig, stack: Callable[[int], Run]) -> None:
    one, two, three, last = (section_plan(number) for number in range(1050, 1054))
    first = stack(1)
    first.image(one, one.tiles)
    first.close(one)
    first.image(two, two.tiles[:2])
    wait_for(lambda: slices(rig) == {(first.log.name, 1050): "complete"}, 60, lambda: f"{slices(rig)}")
    assert len(rig.tiles(f"{SPECIMEN}_mips", 1050.0)) == 4

    second = stack(2)
    second.image(two, two.tiles[2:])
    second.close(two)
    wait_for(lambda: slices(rig).get((second.log.name, 1051)) == "complete", 60, lambda: f"{slices(rig)}")
    assert len(rig.tiles(f"{SPECIMEN}_mips", 1051.0)) == 4

    again = stack(3)
    again.image(one, one.tiles[:3])
    again.close(one)
    again.image(three, three.tiles)
    again.close(three)
    expected = {
        (first.log.name, 1050): "superseded",
        (second.log.name, 1051): "complete",
        (again.log.name, 1050): "complete",
        (again.log.name, 1052): "ignored",
    }
    wait_for(lambda: slices(rig) == expected, 60, lambda: f"{slices(rig)}")
    tiles = rig.tiles(f"{SPECIMEN}_mips", 1050.0)
    assert sorted(tiles) == [f"0000.{number:04d}.01050" for number in range(3)]
    assert verify_levels(tiles) == 3 * 6
    done = temwatch("verify", "--config", str(rig.config()))
    assert done.stdout == "2 montages, 7 tiles, 42 mipmap files: no difference\n"
    assert rig.stack_state(f"{SPECIMEN}_raw") == "COMPLETE"
    assert rig.daemon is not None
    rig.daemon.kill()
    rig.start()
    again.image(last, last.tiles)
    again.end([tile.raster_index for tile in last.tiles])
    expected |= {(again.log.name, 1053): "complete"}
    wait_for(lambda: slices(rig) == expected, 60, lambda: f"{slices(rig)}")
    assert fetch(f"{rig.stack_url(f'{SPECIMEN}_raw')}/resolutionValues") == [4.0, 4.0, 50.0]


def test_runs_that_arrive_in_another_order_give_the_same_stack(rig: Rig, stack: Callable[[int], Run]) -> None:
    one, two = section_plan(1050), section_plan(1051)
    later = stack(2)
    later.image(one, one.tiles[:3])
    later.close(one)
    later.image(two, two.tiles[2:])
    later.close(two)
    wait_for(lambda: set(slices(rig).values()) == {"complete"} and len(slices(rig)) == 2, 60, lambda: f"{slices(rig)}")
    earlier = stack(1)
    earlier.image(one, one.tiles)
    earlier.close(one)

    def is_over() -> bool:
        states = slices(rig)
        return states.get((earlier.log.name, 1050)) == "ignored" and "complete" in states.values()

    wait_for(is_over, 60, lambda: f"{slices(rig)}")
    assert len(rig.tiles(f"{SPECIMEN}_mips", 1050.0)) == 3
    done = temwatch("replay", str(later.log), "--state", "all", "--dry-run", "--config", str(rig.config()))
    assert done.returncode == 0, done.stderr
    assert sum(f"{later.log}/slice_0105" in line for line in done.stdout.splitlines()) == 2, done.stdout
    assert "0 montages" not in temwatch("verify", str(later.log), "--config", str(rig.config())).stdout
