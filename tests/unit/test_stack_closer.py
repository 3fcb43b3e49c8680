"""The close of a stack: what is recorded for its montages, and when it is retried."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from daemon.montages.records import Outcome
from daemon.montages.states import Event, IllegalTransition, Step
from daemon.pipeline.order.retry import MAX_DELAY_S
from daemon.pipeline.stacks import closer
from daemon.pipeline.stacks.closer import DELETED_HINT, StackCloser
from handlers.errors import (
    BugFault,
    Fault,
    ReadBackDiffers,
    RenderRefused,
    RenderUnavailable,
    StackLocked,
    StackMissing,
    StackReopened,
    WorkerFault,
)
from handlers.render.closing import LayerCheck, SectionCheck
from handlers.render.layer_responses import TileBounds
from handlers.render.names import StackId

STACK = StackId("em", "test", "s_raw")


def montage(number: int, *, attempt: int = 0, z: float = 1.0) -> Any:
    return SimpleNamespace(id=number, watch="w", z=z, metafile=Path(f"/data/_metadata_{number}_.json"), attempt=attempt)


class Opened(set[StackId]):
    """Stacks that the daemon opened."""

    closed_for: Sequence[int] = ()
    """Ids of the montages that waited for the last close."""

    async def discard(self, stack: StackId) -> None:  # type: ignore[override]
        self -= {stack}

    async def close(self, stack: StackId, montages: Any) -> None:
        self -= {stack}
        self.closed_for = [each.id for each in montages]


class Bench:
    """A closer with stand-ins for render-ws, the journal and the gate, which record their calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *montages: Any) -> None:
        monkeypatch.setattr(random, "random", lambda: 0.5)
        monkeypatch.setattr(closer, "close_stack", self._close_stack)
        self.montages = list(montages)
        self.tiles = {each.id: frozenset({f"tile {each.id}"}) for each in montages}
        self.present: list[TileBounds] = [TileBounds(f"tile {each.id}", each.z, "1.0") for each in montages]
        self.missed = 0
        """Tiles that the derivation did not count."""
        self.close_fault: Exception | None = None
        self.fault_after: int | None = None
        """Number of compared layers after which render-ws is unavailable."""
        self.layer_s = 0.0
        """Seconds that the comparison of one layer takes."""
        self.now = 0.0
        self.overwritten: dict[int, Fault] = {}
        """Faults of montages whose tiles a late upload replaced."""
        self.superseded = False
        self.in_outage = False
        self.calls: list[tuple[Any, ...]] = []
        self.opened = Opened({STACK})
        journal: Any = SimpleNamespace(
            montages=self._montages,
            begin_attempts=self._begin_attempts,
            tile_ids=self._tile_ids,
            record_closing=self._record_closing,
            **{name: self._recording(name) for name in ("end_attempts", "end_attempt", "stop_attempts", "fail")},
            record=self._record,
        )
        gate: Any = SimpleNamespace(failed=self._gate_failed, worked=lambda: self.calls.append(("worked",)))
        client: Any = SimpleNamespace(z_values=self._z_values)
        opened: Any = self.opened
        self.closer = StackCloser(
            client,
            journal,
            gate,
            opened,
            on_closed=lambda stack: self.calls.append(("closed", stack)),
            on_complete=self._recording("complete"),
            before_complete=self._recording("before complete"),
            on_tiles_lost=self._recording("lost"),
            overwritten=self._overwritten,
            clock=lambda: self.now,
        )
        self.gate = gate

    @property
    def is_closed_circuit(self) -> bool:
        return not self.in_outage

    def calls_of(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of all calls with this name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def _recording(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> None:
            values = [
                list(each) if not isinstance(each, int | str | Fault | SimpleNamespace) else each for each in arguments
            ]
            self.calls.append((name, *values))
            if name == "fail" and self.superseded:
                raise IllegalTransition("superseded")

        return call

    async def _montages(self, **_: Any) -> list[Any]:
        return self.montages

    async def _begin_attempts(self, ids: list[int], step: Step) -> dict[int, int]:
        assert step is Step.CLOSE
        return {each: 100 + each for each in ids}

    async def _tile_ids(self, montage_id: int) -> frozenset[str]:
        return self.tiles[montage_id]

    async def _overwritten(self, montage: Any, stack: StackId) -> Fault | None:
        assert stack == STACK
        self.calls.append(("compare whole", montage.id))
        return self.overwritten.get(montage.id)

    async def _record_closing(self, stack: str, ids: list[int], attempts: list[int]) -> tuple[int, ...]:
        assert stack == str(STACK)
        self.calls.append(("closing", ids, attempts))
        return tuple(ids)

    async def _record(self, montage_id: int, event: Event, *, because: str) -> str:
        self.calls.append(("record", montage_id, event, because))
        return f"applied again {montage_id}"

    async def _gate_failed(self, stack: StackId, fault: Fault, written: StackId) -> None:
        assert written == stack
        self.gate.is_closed_circuit = self.is_closed_circuit
        self.calls.append(("gate failed", stack, fault))

    async def _z_values(self, stack: StackId) -> list[float]:
        assert stack == STACK
        return [tile.z for tile in self.present]

    async def _close_stack(
        self, client: Any, stack: StackId, zs: list[float], *, is_right: Any, on_complete: Any
    ) -> None:
        if self.close_fault is not None:
            raise self.close_fault
        await on_complete()
        for count, z in enumerate(zs):
            if count == self.fault_after:
                raise RenderUnavailable("render", "refused")
            self.calls.append(("compare", z))
            self.now += self.layer_s
            tiles = tuple(tile for tile in self.present if tile.z == z)
            await is_right(LayerCheck(z, tiles, (SectionCheck(z, "1.0", len(tiles) - self.missed, len(tiles)),)))


async def test_a_stack_that_nothing_waits_for_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    await bench.opened.discard(STACK)
    assert await bench.closer.close(STACK) is None
    assert bench.calls == []


async def test_montages_with_all_their_tiles_are_complete_and_the_stack_is_no_longer_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1), montage(2))
    assert await bench.closer.close(STACK) is None
    assert STACK not in bench.opened
    assert bench.calls_of("closed") == [(STACK,)]
    assert bench.opened.closed_for == [1, 2]
    assert bench.calls_of("closing") == [([1, 2], [101, 102])]
    assert bench.calls_of("end_attempts") == []
    assert bench.calls_of("complete") == [([1, 2],)]
    assert bench.calls_of("worked") == [()]


@pytest.mark.parametrize(("layer_s", "batches"), [(0.1, [[3, 1, 2]]), (3.0, [[3, 1], [2]]), (60.0, [[3], [1], [2]])])
async def test_montages_are_complete_soon_after_their_own_layers_are_compared_in_order(
    monkeypatch: pytest.MonkeyPatch, layer_s: float, batches: list[list[int]]
) -> None:
    bench = Bench(monkeypatch, montage(3, z=7.0), montage(1, z=5.0), montage(2, z=9.0))
    bench.layer_s = layer_s
    assert await bench.closer.close(STACK) is None
    complete = [each for (each,) in bench.calls_of("complete") if each]
    assert complete == batches
    ended = [attempts for _, attempts in bench.calls_of("closing") if attempts]
    assert ended == [[100 + number for number in batch] for batch in batches]
    seen: list[int] = []
    for name, *values in bench.calls:
        if name == "before complete":
            seen += [each.id for each in values[0]]
        elif name == "complete":
            assert seen[len(seen) - len(values[0]) :] == values[0]
    assert seen == [3, 1, 2]
    compared = [call for call in bench.calls if call[0] in ("compare", "complete") and call[1]]
    assert compared[0] == ("compare", 7.0)
    if layer_s > 5.0:
        assert compared[1] == ("complete", [3])


async def test_only_montages_that_are_not_compared_yet_wait_when_render_ws_becomes_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1, z=1.0), montage(2, z=2.0), montage(3, z=3.0))
    bench.layer_s, bench.fault_after, bench.in_outage = 60.0, 2, False
    assert await bench.closer.close(STACK) == 1.0
    assert [each for (each,) in bench.calls_of("complete") if each] == [[1], [2]]
    assert bench.calls_of("fail") == bench.calls_of("record") == []
    bench.fault_after, bench.montages = None, bench.montages[2:]
    assert await bench.closer.close(STACK) is None
    assert [each for (each,) in bench.calls_of("complete") if each] == [[1], [2], [3]]


async def test_no_montage_of_a_layer_that_differs_is_complete_before_the_layer_is_derived_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1, z=1.0), montage(2, z=2.0))
    bench.present.append(TileBounds("foreign", 1.0, "of another"))
    bench.layer_s = 60.0
    compare = bench._close_stack

    async def close_stack(client: Any, stack: StackId, zs: list[float], *, is_right: Any, on_complete: Any) -> None:
        async def differs_at_first(layer: LayerCheck) -> bool:
            if layer.z != 1.0:
                return bool(await is_right(layer))
            foreign = SectionCheck(1.0, "of another", 0, 1)
            assert not await is_right(LayerCheck(1.0, layer.tiles, (*layer.sections, foreign)))
            return False

        await compare(client, stack, zs, is_right=differs_at_first, on_complete=on_complete)
        assert [each for (each,) in bench.calls_of("complete") if each] == [[2]]

    monkeypatch.setattr(closer, "close_stack", close_stack)
    assert await bench.closer.close(STACK) is None
    assert [each for (each,) in bench.calls_of("complete") if each] == [[2], [1]]


async def test_a_montage_that_lacks_a_tile_is_applied_again_and_the_others_are_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1), montage(2))
    bench.present = bench.present[1:]
    assert await bench.closer.close(STACK) is None
    ((attempt, outcome, fault),) = bench.calls_of("end_attempt")
    assert (attempt, outcome, type(fault)) == (101, Outcome.FAILED, ReadBackDiffers)
    assert (fault.subject, fault.hint) == (str(STACK), DELETED_HINT)
    because = f"{STACK}: lacks 1 of 1 tiles of _metadata_1_.json after closing, such as tile 1"
    assert bench.calls_of("record") == [(1, Event.TILES_LOST, because)]
    assert bench.calls_of("lost") == [("applied again 1",)]
    assert bench.calls_of("complete") == [([2],)]


async def test_a_montage_that_a_late_upload_has_overwritten_is_applied_again_and_the_others_are_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1), montage(2), montage(3))
    bench.present = bench.present[1:]
    bench.overwritten = {2: ReadBackDiffers(str(STACK), "shows other tiles", "they are put again")}
    assert await bench.closer.close(STACK) is None
    assert bench.calls_of("compare whole") == [(2,), (3,)]
    assert bench.calls_of("record")[1:] == [(2, Event.TILES_LOST, f"{STACK}: shows other tiles")]
    assert [each for (each,) in bench.calls_of("complete") if each] == [[3]]


async def test_montages_of_an_empty_stack_are_applied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, montage(1))
    bench.close_fault = RenderRefused(str(STACK), "has no tiles")
    bench.present = []
    assert await bench.closer.close(STACK) is None
    because = f"{STACK}: expected the tiles of _metadata_1_.json, but the stack is empty"
    assert bench.calls_of("record") == [(1, Event.TILES_LOST, because)]
    assert bench.calls_of("end_attempt")[0][2].hint == DELETED_HINT


async def test_a_refused_close_of_a_stack_with_tiles_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, montage(1))
    bench.close_fault = RenderRefused(str(STACK), "no")
    await bench.closer.close(STACK)
    assert bench.calls_of("fail") == [(1, bench.close_fault)]


@pytest.mark.parametrize(("attempt", "delay_s"), [(0, 1.0), (2, 4.0)])
async def test_a_montage_that_the_derivation_missed_is_retried_with_a_growing_delay(
    monkeypatch: pytest.MonkeyPatch, attempt: int, delay_s: float
) -> None:
    bench = Bench(monkeypatch, montage(1, attempt=attempt), montage(2, z=2.0))
    bench.missed = 1
    bench.montages[1].attempt = 6
    assert await bench.closer.close(STACK) == delay_s
    fault = bench.calls_of("end_attempt")[0][2]
    assert isinstance(fault, StackReopened)
    assert (fault.subject, fault.hint) == (str(STACK), "another program writes to this stack")
    assert bench.calls_of("record") == []


async def test_an_unexpected_exception_fails_the_attempts_and_is_retried_five_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1))
    bench.close_fault = ZeroDivisionError("division by zero")
    for round_ in range(2):  # a montage that is replayed after it FAILED has five attempts again
        delays = [await bench.closer.close(STACK) for _ in range(5)]
        assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
        assert len(bench.calls_of("fail")) == round_ + 1
    assert all(
        isinstance(fault, BugFault) and fault.subject == str(STACK) for _, fault in bench.calls_of("gate failed")
    )
    assert {stack for stack, _ in bench.calls_of("gate failed")} == {STACK}
    ended = bench.calls_of("end_attempts")
    assert len(ended) == 10
    assert all(each[:2] == ([101], Outcome.FAILED) and isinstance(each[2], BugFault) for each in ended)


async def test_a_success_resets_the_attempts_of_a_montage(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, montage(1))
    for fault in (WorkerFault("w", "x"), None, WorkerFault("w", "x")):
        bench.close_fault = fault
        delay_s = await bench.closer.close(STACK)
    assert delay_s == 1.0


async def test_a_montage_that_is_superseded_during_the_close_cannot_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, montage(1))
    bench.close_fault, bench.superseded = StackLocked(str(STACK), "is READ_ONLY"), True
    assert await bench.closer.close(STACK) is None
    assert len(bench.calls_of("fail")) == 1


async def test_an_outage_does_not_count_as_an_attempt_and_the_gate_decides_when_to_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, montage(1))
    bench.close_fault, bench.in_outage = RenderUnavailable("render", "refused"), True
    assert [await bench.closer.close(STACK) for _ in range(10)] == [0.0] * 10
    assert bench.calls_of("fail") == bench.calls_of("record") == []
    bench.in_outage = False
    assert await bench.closer.close(STACK) == 1.0


async def test_an_opened_stack_without_montages_is_closed_again_and_never_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.close_fault = WorkerFault("w", "x")
    delays = [await bench.closer.close(STACK) for _ in range(6)]
    assert delays == [1.0, 2.0, 4.0, 8.0, MAX_DELAY_S, MAX_DELAY_S]
    bench.close_fault = None
    assert await bench.closer.close(STACK) is None
    bench.opened |= {STACK}
    bench.close_fault = WorkerFault("w", "x")
    assert await bench.closer.close(STACK) == 1.0


@pytest.mark.parametrize("kind", [StackLocked, StackMissing, RenderRefused])
async def test_a_stack_that_this_daemon_cannot_close_is_no_longer_open(
    monkeypatch: pytest.MonkeyPatch, kind: type[Fault]
) -> None:
    bench = Bench(monkeypatch)
    bench.present = [TileBounds("foreign", 1.0)]
    failures = [WorkerFault("w", "x"), kind(str(STACK), "no"), WorkerFault("w", "x")]
    delays = []
    for bench.close_fault in failures:
        delays.append(await bench.closer.close(STACK))
        if len(delays) == 2:
            assert STACK not in bench.opened
            assert bench.calls_of("closed") == [(STACK,)]
            bench.opened |= {STACK}  # a later step opens it again
    assert delays == [1.0, None, 1.0]


async def test_a_missing_stack_without_montages_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.opened |= {STACK}
    bench.close_fault = StackMissing(str(STACK), "does not exist")
    with structlog.testing.capture_logs() as lines:
        assert await bench.closer.close(STACK) is None
    assert lines == []
    assert STACK not in bench.opened


async def test_a_cancelled_close_stops_its_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, montage(1))

    async def cancelled(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(closer, "close_stack", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await bench.closer.close(STACK)
    assert bench.calls_of("stop_attempts") == [([1],)]
