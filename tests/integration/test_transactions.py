"""Transactions of the journal that one montage needs: each is a sync of the journal's disk."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from daemon.journal.journal import Journal
from daemon.montages.records import Outcome
from daemon.montages.states import MontageState, Step
from handlers.errors import Fault
from tests.integration.inprocess import bench

EVENT_OF_STEP = {Step.INGEST: "ingested", Step.MIPMAPS: "mipmapped", Step.APPLY: "applied"}


async def test_an_attempt_ends_in_the_transaction_of_its_event(tmp_path: Path) -> None:
    async with bench(tmp_path) as running:
        metafile = running.write(tiles=2)
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.APPLIED, MontageState.COMPLETE)
        journal = running.assembly.journal
        at = {event["event"]: event["at"] for event in await journal.events(montage.id)}
        attempts = {attempt["step"]: attempt for attempt in await journal.attempts(montage.id)}
        for step, event in EVENT_OF_STEP.items():
            assert (attempts[step]["outcome"], attempts[step]["ended_at"]) == ("done", at[event]), step


async def test_only_settling_ends_its_attempts_in_transactions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    end_attempts = Journal.end_attempts

    async def watched(self: Journal, attempt_ids: Iterable[int], outcome: Outcome, fault: Fault | None = None) -> None:
        ended.extend(attempt_ids := list(attempt_ids))
        await end_attempts(self, attempt_ids, outcome, fault)

    monkeypatch.setattr(Journal, "end_attempts", watched)
    async with bench(tmp_path) as running:
        metafile = running.write(tiles=1)
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        async with asyncio.timeout(60):
            while True:
                attempts = await running.assembly.journal.attempts(montage.id)
                if all(attempt["ended_at"] for attempt in attempts):  # the close of the other stack may end later
                    break
                await asyncio.sleep(0.02)
    assert {attempt["step"] for attempt in attempts} >= {*EVENT_OF_STEP, Step.SETTLE, Step.CLOSE}
    assert "stopped" not in {attempt["outcome"] for attempt in attempts}
    assert len(ended) == sum(attempt["step"] == Step.SETTLE for attempt in attempts)


@pytest.mark.parametrize("work", ["begin_attempts", "end_attempts", "record_closing"])
async def test_a_closed_stack_without_montages_needs_no_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "begin_attempts": ([], Step.CLOSE),
        "end_attempts": ([], Outcome.DONE),
        "record_closing": ("em/v1/s_raw", []),
    }
    async with Journal(tmp_path / "journal.sqlite") as journal:
        monkeypatch.setattr(Journal, "write", None)
        assert not await getattr(journal, work)(*arguments[work])
