"""Unexpected exceptions of each collaborator: the daemon continues, and its montages finish or are retried."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.states import MontageState
from daemon.pipeline.gates.output_disks import OutputDisks
from daemon.pipeline.settling.settle import Settler
from daemon.pipeline.stacks.keeper import StackKeeper
from daemon.pipeline.steps.perform import Steps
from handlers.render.client import RenderClient
from tests.integration.inprocess import Bench, bench, retry_fast

COLLABORATORS = (Journal, Settler, Steps, StackKeeper, OutputDisks, RenderClient)
CALLED_AT_THE_START = {
    *("Journal.count_crashes", "Journal.unfinished", "Journal.open_stacks", "Journal.watched_images"),
    "StackKeeper.resume",
}
NOT_CALLED = {
    # called by replays, queries and repairs
    *(
        "Journal.replay",
        "Journal.dismiss",
        "Journal.back_up",
        "Journal.restore",
        "Journal.counts",
        "Journal.oldest_unfinished_s",
    ),
    *("Journal.known_metafiles", "Journal.events", "Journal.attempts"),
    # called for metafiles that are missing, or rewritten after they settled
    *("Journal.later_paths", "Journal.move", "Journal.notice_again", "Journal.notice_changed", "Journal.withdraw"),
    # called for tiles that another montage no longer names, and after a replay has replaced levels
    *("Journal.unwanted_tile_ids", "RenderClient.empty_image_cache"),
    # called for a montage whose predecessor's upload had no answer, see test_late_uploads.py
    "Steps.section_once",
    # called for pages, pictures and commands
    *("Journal.quality_numbers", "Journal.verdict"),
    # called for missing stacks, and for other ways to apply
    *("RenderClient.z_values", "RenderClient.put_path_builder", "RenderClient.path_builder"),
    *("RenderClient.tile", "RenderClient.delete_tile", "RenderClient.delete_tiles", "RenderClient.set_resolution"),
    "RenderClient.ask_database",
    # called for images that change later, see test_late_changes.py
    *("Journal.adopt_images", "Journal.change_images", "Journal.end_watching_images"),
    # called by these tests themselves
    *("Journal.write", "Journal.stop_attempts", "Steps.stop"),
    # called for stacks that another program closed or deleted
    *("Journal.reopen_stack", "Journal.forget_stack"),
    # called for montages that a person judges, and for a login that was refused
    *("Journal.holding", "Journal.decide", "RenderClient.has_new_login"),
    # called by a probe of the configuration
    "RenderClient.delete_stack",
    # called when the daemon stops, or for one command
    "StackKeeper.wait_until_closed",
}


def methods() -> Iterator[str]:
    for kind in COLLABORATORS:
        for name, _ in inspect.getmembers(kind, inspect.iscoroutinefunction):
            method = f"{kind.__name__}.{name}"
            if not name.startswith("_") and name != "run" and method not in NOT_CALLED | CALLED_AT_THE_START:
                yield method


class Planted(RuntimeError):  # noqa: N818  it is no fault of the program
    """An unexpected exception."""


def plant(monkeypatch: pytest.MonkeyPatch, method: str, *, times: int) -> list[str]:
    """Make the first calls of a method raise; return the list of calls."""
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


async def good_and_bad(running: Bench) -> tuple[Path, Path]:
    """Write and notice two sections: a good one, and one with an image of another size."""
    good, bad = running.write(1050), running.write(1051)
    image = min(bad.parent.glob("*.tif"))
    image.write_bytes(next(running.write(1052, size=(32, 32)).parent.glob("*.tif")).read_bytes())
    for metafile in (good, bad):
        await running.notice(metafile)
    return good, bad


async def process_special_sections(running: Bench, good: Path, bad: Path) -> None:
    """Process an ignored section, a section that fails after it settled, and a repaired section."""
    ignored = good.rename(good.with_name("_metadata_1_reference_0_.json"))
    await running.notice(ignored)
    await running.reaches(ignored, MontageState.IGNORED)
    image, small = sorted(bad.parent.glob("*.tif"))
    image.write_bytes(small.read_bytes())
    await running.reaches(bad, MontageState.COMPLETE, MontageState.FAILED)
    no_level = running.write(1060, size=(4, 1))
    await running.notice(no_level)
    await running.reaches(no_level, MontageState.FAILED)
    await running.until(lambda: any(line["event"] == "montage.retried" for line in running.log_lines))


@pytest.mark.parametrize("method", sorted(methods()))
async def test_one_unexpected_exception_costs_a_montage_a_retry_and_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    retry_fast(monkeypatch)
    async with bench(tmp_path) as running:
        calls = plant(monkeypatch, method, times=1)
        good, bad = await good_and_bad(running)
        await running.reaches(good, MontageState.COMPLETE)
        await running.reaches(bad, MontageState.FAILED)
        if not calls:
            await process_special_sections(running, good, bad)
        assert calls, f"{method} is not called: name it in NOT_CALLED, with the reason"


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(methods()))
async def test_repeated_unexpected_exceptions_do_not_end_the_daemon_and_every_montage_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    retry_fast(monkeypatch)
    async with bench(tmp_path) as running:
        plant(monkeypatch, method, times=12)
        for metafile in await good_and_bad(running):
            await running.reaches(metafile, MontageState.COMPLETE, MontageState.FAILED)
        later = running.write(1053)
        await running.notice(later)
        await running.reaches(later, MontageState.COMPLETE, MontageState.FAILED)
