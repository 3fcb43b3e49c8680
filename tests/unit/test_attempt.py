"""Attempts: how each outcome of a step is journaled and counted, and what follows. The collaborators are stand-ins."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.montages.records import Outcome
from daemon.montages.states import Event, IllegalTransition, Step
from daemon.pipeline.order.retry import CRASHES_BEFORE_PARKING
from daemon.pipeline.steps.attempt import Attempts
from daemon.pipeline.steps.mipmap_step import Stopped
from daemon.pipeline.steps.perform import MipmapsLost
from handlers.errors import BugFault, Fault, RenderUnavailable, WorkerFault

WATCH: Any = SimpleNamespace(mipmaps=SimpleNamespace(output_dir=Path("/mips")))
NUMBERS = b"packed numbers"


def montage(crashes: int = 0) -> Any:
    return SimpleNamespace(id=7, crashes=crashes, tile_count=2, metafile=Path("/data/_metadata_1_.json"))


class Rig:
    """Attempts with stand-ins that record their calls. Every step takes 3 s.

    Parameters
    ----------
    ends_with : exception that every step raises; None: every step succeeds.
    """

    def __init__(self, ends_with: BaseException | None = None, *, is_ready: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.ends_with, self.is_ready = ends_with, is_ready
        self.now = 100.0
        journal: Any = SimpleNamespace(
            begin_attempt=self._begin_attempt, end_attempt=self._recording("end"), record=self._record
        )
        steps: Any = SimpleNamespace(
            section=self._section,
            ingest=self._step("ingest"),
            make_mipmaps=self._step("mipmaps", NUMBERS),
            apply=self._step("apply"),
        )
        settle_step: Any = SimpleNamespace(is_ready=self._is_ready, perform=self._step("settle", Outcome.WAITING))
        failures: Any = SimpleNamespace(fail=self._recording("fail"), handle=self._recording("handle"))
        recording: Any = lambda name: lambda *values: self.calls.append((name, *values))  # noqa: E731
        self.attempts = Attempts(
            journal=journal,
            queue=SimpleNamespace(enqueue=recording("enqueue")),  # type: ignore[arg-type]
            settle_step=settle_step,
            steps=steps,
            failures=failures,
            gate=SimpleNamespace(worked=lambda: self.calls.append(("worked",))),  # type: ignore[arg-type]
            tries=SimpleNamespace(forget=recording("forget")),  # type: ignore[arg-type]
            metrics=SimpleNamespace(attempt_ended=recording("counted")),  # type: ignore[arg-type]
            enqueue_next=self._recording("next"),
            clock=lambda: self.now,
        )

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def _recording(self, name: str) -> Any:
        async def call(*values: Any) -> None:
            self.calls.append((name, *values))

        return call

    def _step(self, name: str, returns: Any = None) -> Any:
        async def step(*values: Any) -> Any:
            self.calls.append((name, *values))
            self.now += 3.0
            if self.ends_with is not None:
                raise self.ends_with
            return returns

        return step

    async def _is_ready(self, *_: Any) -> bool:
        return self.is_ready

    async def _begin_attempt(self, montage_id: int, step: Step) -> int:
        self.calls.append(("begin", montage_id, step))
        return 41

    async def _section(self, *values: Any) -> str:
        return f"section of {values[0].id}"

    async def _record(self, montage_id: int, event: Event, **detail: Any) -> str:
        self.calls.append(("record", montage_id, event, detail))
        return f"montage after {event}"


@pytest.mark.parametrize(
    ("step", "name", "event", "detail", "is_work"),
    [
        (Step.INGEST, "ingest", Event.INGESTED, {"quality_numbers": None}, True),
        (Step.MIPMAPS, "mipmaps", Event.MIPMAPPED, {"quality_numbers": NUMBERS, "output_dir": "/mips"}, False),
        (Step.APPLY, "apply", Event.APPLIED, {"quality_numbers": None}, True),
    ],
)
async def test_a_step_that_succeeds_is_journaled_counted_and_followed_by_the_next(
    step: Step, name: str, event: Event, detail: dict[str, Any], is_work: bool
) -> None:
    rig = Rig()
    await rig.attempts.make(montage(), WATCH, step)
    assert rig.named("begin") == [(7, step)]
    assert rig.named(name) == [("section of 7",)]
    assert rig.named("record") == [(7, event, {"attempt": 41, **detail})]  # the attempt ends in the same transaction
    assert rig.named("next") == [(f"montage after {event}",)]
    assert rig.named("end") == []
    assert rig.named("counted") == [(step, Outcome.DONE, 3.0)]
    assert rig.named("forget") == [(7,)]
    assert bool(rig.named("worked")) is is_work  # mipmaps say nothing about render-ws


async def test_a_settling_attempt_ends_with_the_outcome_of_its_step() -> None:
    rig = Rig()
    settling = montage()
    await rig.attempts.make(settling, WATCH, Step.SETTLE)
    assert rig.named("settle") == [(settling, WATCH)]
    assert rig.named("end") == [(41, Outcome.WAITING, None)]
    assert rig.named("counted") == [(Step.SETTLE, Outcome.WAITING, 3.0)]
    assert rig.named("record") == rig.named("next") == []


async def test_only_settling_waits_until_the_metafile_is_ready() -> None:
    rig = Rig(is_ready=False)
    await rig.attempts.make(montage(), WATCH, Step.SETTLE)
    assert rig.calls == []
    await rig.attempts.make(montage(), WATCH, Step.INGEST)
    assert rig.named("record")


FAULT = RenderUnavailable("render", "refused")


@pytest.mark.parametrize(
    ("ends_with", "outcome", "fault"),
    [
        (FAULT, Outcome.FAILED, FAULT),
        (MipmapsLost(), Outcome.WAITING, None),
        (Stopped(), Outcome.STOPPED, None),
        (IllegalTransition("superseded"), Outcome.STOPPED, None),
        (asyncio.CancelledError(), Outcome.STOPPED, None),
    ],
    ids=["fault", "mipmaps lost", "stopped", "superseded", "cancelled"],
)
async def test_every_end_of_a_step_ends_its_attempt(
    ends_with: BaseException, outcome: Outcome, fault: Fault | None
) -> None:
    rig, applying = Rig(ends_with), montage()
    passes_on = isinstance(ends_with, IllegalTransition | asyncio.CancelledError)
    if passes_on:
        with pytest.raises(type(ends_with)):
            await rig.attempts.make(applying, WATCH, Step.APPLY)
    else:
        await rig.attempts.make(applying, WATCH, Step.APPLY)
    assert rig.named("end") == [(41, outcome, fault)]
    assert rig.named("counted") == [(Step.APPLY, outcome, 3.0)]
    assert rig.named("handle") == ([(applying, Step.APPLY, FAULT)] if fault else [])
    lost, stopped = isinstance(ends_with, MipmapsLost), isinstance(ends_with, Stopped)
    assert rig.named("record") == ([(7, Event.MIPMAPS_LOST, {})] if lost else [])
    enqueued: list[Any] = [f"montage after {Event.MIPMAPS_LOST}"] if lost else [applying] if stopped else []
    assert rig.named("enqueue") == [(each,) for each in enqueued]
    assert rig.named("next") == rig.named("worked") == []


async def test_an_unexpected_exception_is_a_bug_that_names_the_metafile() -> None:
    rig, applying = Rig(ZeroDivisionError("planted")), montage()
    await rig.attempts.make(applying, WATCH, Step.APPLY)
    ((_, outcome, bug),) = rig.named("end")
    assert outcome is Outcome.FAILED
    assert isinstance(bug, BugFault)
    assert bug.subject == str(applying.metafile)
    assert "planted" in bug.problem
    assert rig.named("handle") == [(applying, Step.APPLY, bug)]
    assert rig.named("counted") == [(Step.APPLY, Outcome.FAILED, 3.0)]


async def test_a_montage_with_fewer_crashes_than_the_limit_is_attempted() -> None:
    rig = Rig()
    await rig.attempts.make(montage(CRASHES_BEFORE_PARKING - 1), WATCH, Step.MIPMAPS)
    assert rig.named("begin") == [(7, Step.MIPMAPS)]


@pytest.mark.parametrize("crashes", [CRASHES_BEFORE_PARKING, CRASHES_BEFORE_PARKING + 1])
async def test_a_montage_that_killed_the_daemon_too_often_fails_without_another_attempt(crashes: int) -> None:
    rig, killer = Rig(), montage(crashes)
    await rig.attempts.make(killer, WATCH, Step.MIPMAPS)
    ((call, failed, fault),) = rig.calls
    assert call == "fail"
    assert failed is killer
    assert isinstance(fault, WorkerFault)
    assert fault.subject == str(killer.metafile)
    assert fault.problem.startswith(f"the daemon died {crashes} times in a row")
