"""Exceptions planted into each collaborator of the work: the daemon lives on, and its montages end or are retried."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.states import MontageState
from daemon.pipeline.output_disks import OutputDisks
from daemon.pipeline.settle import Settler
from daemon.pipeline.stacks import StackKeeper
from daemon.pipeline.steps import Steps
from handlers.render.client import RenderClient
from tests.integration.inprocess import Bench, bench, hurry

COLLABORATORS = (Journal, Settler, Steps, StackKeeper, OutputDisks, RenderClient)
ASKED_AT_THE_START = {
    *("Journal.count_crashes", "Journal.unfinished", "Journal.open_stacks", "Journal.watched_images"),
    "StackKeeper.resume",
}
NOT_ASKED = {
    # by replays, readers and repairs
    *("Journal.replay", "Journal.restore", "Journal.counts", "Journal.oldest_unfinished_s"),
    *("Journal.known_metafiles", "Journal.events", "Journal.attempts"),
    # of metafiles that are gone, or rewritten after they settled
    *("Journal.duplicates", "Journal.move", "Journal.notice_again"),
    # of stacks that are not there, and for other ways to apply
    *("RenderClient.z_values", "RenderClient.put_path_builder", "RenderClient.path_builder"),
    *("RenderClient.tile", "RenderClient.delete_tile", "RenderClient.delete_tiles", "RenderClient.set_resolution"),
    "RenderClient.ask_database",
    # of images that change later, see test_late_changes.py
    *("Journal.adopt_images", "Journal.change_images", "Journal.end_watching_images"),
    # by what these tests do with the work themselves
    *("Journal.write", "Journal.stop_attempts", "Steps.stop"),
}


def methods() -> Iterator[str]:
    for kind in COLLABORATORS:
        for name, _ in inspect.getmembers(kind, inspect.iscoroutinefunction):
            method = f"{kind.__name__}.{name}"
            if not name.startswith("_") and name != "run" and method not in NOT_ASKED | ASKED_AT_THE_START:
                yield method


class Planted(RuntimeError):  # noqa: N818  what a test does
    """What nobody expects."""


def plant(monkeypatch: pytest.MonkeyPatch, method: str, *, times: int) -> list[str]:
    """Has a method raise when it is called the first times; the calls so far."""
    kind = next(kind for kind in COLLABORATORS if kind.__name__ == method.partition(".")[0])
    name = method.partition(".")[2]
    real = getattr(kind, name)
    calls: list[str] = []

    async def planted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            raise Planted(method)
        return await real(*arguments, **options)

    monkeypatch.setattr(kind, name, planted)
    return calls


async def good_and_bad(work: Bench) -> tuple[Path, Path]:
    """The metafiles of two sections that came: one is sound, an image of the other has another size."""
    good, bad = work.write(1050), work.write(1051)
    image = min(bad.parent.glob("*.tif"))
    image.write_bytes(next(work.write(1052, size=(32, 32)).parent.glob("*.tif")).read_bytes())
    for metafile in (good, bad):
        await work.notice(metafile)
    return good, bad


async def by_other_ways(work: Bench, good: Path, bad: Path) -> None:
    """A section that is ignored, one that fails after it settled, and one that is mended."""
    ignored = good.rename(good.with_name("_metadata_1_reference_0_.json"))
    await work.notice(ignored)
    await work.reaches(ignored, MontageState.IGNORED)
    image, small = sorted(bad.parent.glob("*.tif"))
    image.write_bytes(small.read_bytes())
    await work.reaches(bad, MontageState.COMPLETE, MontageState.FAILED)
    no_level = work.write(1060, size=(4, 1))
    await work.notice(no_level)
    await work.reaches(no_level, MontageState.FAILED)
    await work.until(lambda: any(line["event"] == "montage.retried" for line in work.said))


@pytest.mark.parametrize("method", sorted(methods()))
async def test_an_exception_that_nobody_expects_ends_no_part_of_the_daemon_and_costs_no_montage_more_than_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    hurry(monkeypatch)
    async with bench(tmp_path) as work:
        calls = plant(monkeypatch, method, times=1)
        good, bad = await good_and_bad(work)
        await work.reaches(good, MontageState.COMPLETE)
        await work.reaches(bad, MontageState.FAILED)
        if not calls:
            await by_other_ways(work, good, bad)
        if not calls:
            pytest.skip(f"{method} is not asked on these ways")


@pytest.mark.parametrize("method", sorted(methods()))
async def test_exceptions_that_go_on_end_no_part_of_the_daemon_and_every_montage_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    hurry(monkeypatch)
    async with bench(tmp_path) as work:
        plant(monkeypatch, method, times=12)
        for metafile in await good_and_bad(work):
            await work.reaches(metafile, MontageState.COMPLETE, MontageState.FAILED)
        later = work.write(1053)
        await work.notice(later)
        await work.reaches(later, MontageState.COMPLETE, MontageState.FAILED)
