"""The stack keeper alone: holders during a long close, and close rules of several watches."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.pipeline.gates.render_gate import RenderGate
from daemon.pipeline.stacks import closer
from daemon.pipeline.stacks.keeper import StackKeeper
from daemon.pipeline.stacks.use import CloseRule, merge_rules
from handlers.errors import ReadBackDiffers, StackReopened
from handlers.render.client import RenderClient
from handlers.render.closing import LayerCheck, SectionCheck
from handlers.render.layer_responses import TileBounds
from handlers.render.names import StackId

STACK = StackId("em", "test", "s_raw")


@dataclass
class SlowRender:
    """Client whose close ends when `ended` is set."""

    begun: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def close_stack(self, *_: object, **__: object) -> None:
        self.begun += 1
        await self.ended.wait()


@dataclass(frozen=True)
class Applied:
    """The fields of a montage that the keeper reads."""

    id: int = 1
    watch: str = "w"
    z: float = 1.0
    metafile: Path = Path("/data/_metadata_1_.json")
    stacks: tuple[str, ...] = (str(STACK),)
    attempt: int = 0


class OneMontage:
    """A journal with one APPLIED montage."""

    async def montages(self, **_: object) -> list[Applied]:
        return [Applied()]

    async def begin_attempts(self, *_: object) -> dict[int, int]:
        return {1: 1}

    async def end_attempts(self, *_: object) -> None: ...

    async def tile_ids(self, _: int) -> frozenset[str]:
        return frozenset()

    async def record_closing(self, *_: object) -> tuple[int, ...]:
        return (1,)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  the condition has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("has_holder", [False, True])
async def test_a_cancelled_holder_does_not_start_a_second_close(monkeypatch, has_holder):
    render, journal = SlowRender(), OneMontage()
    monkeypatch.setattr(closer, "close_stack", render.close_stack)
    client: RenderClient = render  # type: ignore[assignment]
    kept: Journal = journal  # type: ignore[assignment]
    completed: list[tuple[int, ...]] = []

    async def on_complete(montages: tuple[int, ...]) -> None:
        completed.append(montages)

    keeper = StackKeeper(
        client,
        kept,
        close_rule=lambda _: CloseRule(0.0),
        may_close=lambda: True,
        gate=RenderGate(client, STACK, on_open=lambda: None),
        on_complete=on_complete,
        before_complete=lambda _: asyncio.sleep(0),
        on_tiles_lost=lambda _: asyncio.sleep(0),
    )

    async def hold() -> None:
        async with keeper.holding(STACK):
            raise AssertionError("held while it is being closed")

    running = asyncio.create_task(keeper.run())
    keeper.request_close_for(Applied())  # type: ignore[arg-type]
    await until(lambda: render.begun)
    if has_holder:
        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        holder.cancel()
        await asyncio.wait([holder])
        keeper.wake()
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert render.begun == 1
    render.ended.set()
    await until(lambda: completed)
    assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


RULES: dict[str, CloseRule | None] = {"first": CloseRule(5.0, 90.0), "second": CloseRule(1.0, 60.0), "never": None}


def keeper_of_two_watches(monkeypatch: pytest.MonkeyPatch) -> tuple[StackKeeper, list[str]]:
    """Return a keeper with the close rules above, and the stacks that it records as opened."""
    opened: list[str] = []

    async def open_stack(name: str, watch: str) -> None:
        opened.append(f"{name} for {watch}")

    async def open_stacks() -> list[tuple[str, str]]:
        return [(str(STACK), "second")]

    async def write_while_loading(client: object, stack: object, resolution: object, effect: Any, **_: object) -> Any:
        return await effect()

    monkeypatch.setattr("daemon.pipeline.stacks.keeper.write_while_loading", write_while_loading)
    nothing: Any = None
    journal: Any = SimpleNamespace(open_stack=open_stack, open_stacks=open_stacks)
    keeper = StackKeeper(
        nothing,
        journal,
        close_rule=RULES.__getitem__,
        may_close=lambda: True,
        gate=nothing,
        on_complete=nothing,
        before_complete=nothing,
        on_tiles_lost=nothing,
        clock=lambda: 0.0,
    )
    return keeper, opened


def test_a_stack_closes_by_the_rules_of_all_watches_that_request_it(monkeypatch):
    keeper, _ = keeper_of_two_watches(monkeypatch)
    keeper.request_close_for(Applied(watch="first"))  # type: ignore[arg-type]
    assert keeper._due_in_s() == {STACK: 5.0}
    keeper.request_close_for(Applied(watch="second"))  # type: ignore[arg-type]
    assert keeper._rules() == {STACK: CloseRule(5.0, 60.0)}


@pytest.mark.parametrize(("present", "due"), [(CloseRule(2.0, 0.0), {STACK: 2.0}), (None, {})])
def test_a_requested_close_follows_a_change_of_the_configuration(monkeypatch, present, due):
    keeper, _ = keeper_of_two_watches(monkeypatch)
    keeper.request_close_for(Applied(watch="first"))  # type: ignore[arg-type]
    monkeypatch.setitem(RULES, "first", present)
    assert keeper._due_in_s() == due


async def test_a_stack_left_open_closes_by_the_rule_of_its_watch(monkeypatch):
    keeper, _ = keeper_of_two_watches(monkeypatch)
    await keeper.resume()
    assert keeper._rules() == {STACK: RULES["second"]}


@pytest.mark.parametrize("watch", ["second", "never"])
async def test_a_stack_is_recorded_as_opened_and_closed_only_for_a_watch_that_closes_stacks(monkeypatch, watch):
    keeper, opened = keeper_of_two_watches(monkeypatch)
    assert await keeper.write(watch, STACK, (4.0, 4.0, 45.0), lambda: asyncio.sleep(0, "done")) == "done"
    assert opened == ([f"{STACK} for second"] if watch == "second" else [])
    assert keeper._due_in_s() == ({STACK: 1.0} if watch == "second" else {})


def layer(derived: int) -> LayerCheck:
    """Return a layer with section 1.0, of which `derived` of 1 tiles were counted, and a section that differs."""
    tiles = (TileBounds("a", 1.0, "1.0"), TileBounds("b", 1.0, "other"), TileBounds("c", 1.0))
    return LayerCheck(1.0, tiles, (SectionCheck(1.0, "1.0", derived, 1), SectionCheck(1.0, "other", 0, 1)))


def test_a_montage_is_compared_only_with_the_sections_of_its_own_tiles():
    montage: Any = Applied()
    assert closer._fault_in_layer(STACK, montage, frozenset({"a"}), layer(derived=1)) is None
    assert closer._fault_in_layer(STACK, montage, frozenset({"c"}), layer(derived=0)) is None
    missed = closer._fault_in_layer(STACK, montage, frozenset({"a", "c"}), layer(derived=0))
    assert isinstance(missed, StackReopened)
    assert "section 1.0 at z 1" in missed.problem
    missing = closer._fault_in_layer(STACK, montage, frozenset({"a", "d"}), layer(derived=1))
    assert isinstance(missing, ReadBackDiffers)
    assert "lacks 1 of 2 tiles of _metadata_1_.json after closing, such as d" in missing.problem


def test_a_stack_of_two_watches_uses_the_longer_quiet_time_and_the_earlier_latest_time():
    assert merge_rules(CloseRule(1.0, 0.0), CloseRule(5.0, 60.0)) == CloseRule(5.0, 60.0)
    assert merge_rules(CloseRule(5.0, 90.0), CloseRule(1.0, 60.0)) == CloseRule(5.0, 60.0)
    assert merge_rules(CloseRule(5.0, 0.0), CloseRule(1.0, 0.0)) == CloseRule(5.0, 0.0)
