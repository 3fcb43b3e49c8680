"""Execute a replay by the running daemon, or in this process if no daemon runs."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from daemon.commands.replay.progress import Outcomes, follow
from daemon.commands.replay.sources import DaemonSource, JournalSource, Row
from daemon.config.files import read_token
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.pipeline.assembly import Assembly, open_assembly
from daemon.pipeline.replay.lookup import Lookup
from daemon.pipeline.replay.replayer import Replayer, plan_json, plan_within
from daemon.pipeline.replay.selection import Action, ReplayRequest
from daemon.simulator.embedded import serve_if_embedded
from daemon.system.locks import JournalHeld, lock_journal, lock_root, owner_note

DRAIN_S = 45.0
"""Time for running steps to reach a point from which they can resume."""
_NOTHING = "no montage matches the selection: nothing to do"


async def replay(settings: Settings, requests: Sequence[ReplayRequest], say: Callable[[str], None]) -> int:
    """Replay montages and print the outcome of each; return the exit code.

    Raises
    ------
    NotSelectable
        If a parameter is invalid.
    Fault
        If the work cannot start.
    """
    if any(request.dry_run for request in requests):
        _print_plans(await _plans(settings, requests), say)
        return 0
    outcomes = Outcomes()
    with _stopped_by_signals() as stop:
        try:
            with lock_journal(settings.journal.path):
                has_ended = await _replay_here(settings, requests, outcomes, stop, say)
        except JournalHeld as held:
            has_ended = await _replay_by_daemon(settings, requests, outcomes, stop, say, held)
    if not has_ended:
        return 130
    return 1 if outcomes.bad else 0


def _print_plans(plans: Sequence[Row], say: Callable[[str], None]) -> None:
    for plan in plans:
        say(f"{plan['action'].replace('_', ' '):<8} {plan['metafile']}: {plan['note']}")
    counts = {action: sum(plan["action"] == action for plan in plans) for action in Action}
    summary = ", ".join(f"{count} to {action.replace('_', ' ')}" for action, count in counts.items() if count)
    say(f"{summary}; nothing was changed" if summary else _NOTHING)


async def _plans(settings: Settings, requests: Sequence[ReplayRequest]) -> list[Row]:
    """Return the plan for each selected montage; reads only."""
    async with contextlib.AsyncExitStack() as stack:
        journal = None
        if settings.journal.path.exists():
            journal = await stack.enter_async_context(Journal(settings.journal.path, read_only=True))
        lookup = Lookup(lambda: settings, journal)
        return [
            plan_json(plan_within(candidate, request.step, settings))
            for request in requests
            for candidate in await lookup.candidates(request)
        ]


async def _replay_by_daemon(
    settings: Settings,
    requests: Sequence[ReplayRequest],
    outcomes: Outcomes,
    stop: asyncio.Event,
    say: Callable[[str], None],
    held: JournalHeld,
) -> bool:
    """Replay and follow the montages; return whether all have ended."""
    url = owner_note(settings.journal.path)
    if not url:
        raise held
    daemon = DaemonSource(url, read_token(settings.http))
    plans = [plan for request in requests for plan in await daemon.replay(request)]
    if not plans:
        say(_NOTHING)
        return True
    with outcomes.progress(len(plans)):
        await follow(plans, daemon, outcomes, stop)
    say(outcomes.summary())
    if outcomes.left:
        say(f"the daemon at {url} continues with the unfinished montages; `temwatch status` shows them")
    return not outcomes.left


async def _replay_here(
    settings: Settings,
    requests: Sequence[ReplayRequest],
    outcomes: Outcomes,
    stop: asyncio.Event,
    say: Callable[[str], None],
) -> bool:
    """Replay and follow the montages; return whether all have ended."""
    if not await _plans(settings, requests):
        say(_NOTHING)
        return True
    with contextlib.ExitStack() as locks:
        for watch in settings.watch:
            if watch.directory.is_dir():
                locks.enter_context(lock_root(watch.directory, settings.journal.path.parent))
        # No further montages follow, so each stack is closed once at the end, without waiting for quiet.
        async with (
            serve_if_embedded(settings.render) as render_url,
            open_assembly(
                lambda: settings,
                is_observable=lambda name: _has_directory(settings, name),
                close_at_end=True,
                render_url=render_url,
            ) as work,
        ):
            await work.journal.count_crashes()
            replayer = Replayer(lambda: settings, work.journal, work.pipeline)
            plans = [plan_json(plan) for request in requests for plan in await replayer.replay(request)]
            with outcomes.progress(len(plans)):
                async with _running(work):
                    await follow(plans, JournalSource(work.journal), outcomes, stop)
    say(outcomes.summary())
    if outcomes.left:
        say("the journal keeps the unfinished montages: the daemon continues with them at its next start")
    return not outcomes.left


def _has_directory(settings: Settings, name: str) -> bool:
    return any(watch.name == name and watch.directory.is_dir() for watch in settings.watch)


@contextlib.asynccontextmanager
async def _running(work: Assembly) -> AsyncIterator[None]:
    """Run the parts of an assembly; at the end, let running steps reach a point from which they can resume."""
    async with asyncio.TaskGroup() as group:
        pipeline = group.create_task(work.pipeline.run(), name="pipeline")
        others = [
            group.create_task(work.gate.run(), name="render gate"),
            group.create_task(work.disks.run(), name="mipmap disks"),
            group.create_task(work.keeper.run(), name="stack keeper"),
        ]
        yield
        if not (work.pipeline.under_way or work.pipeline.waiting):  # stacks of FAILED montages are closed, too
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await work.keeper.wait_until_closed()
        work.pipeline.stop()
        work.keeper.stop()
        await asyncio.wait([pipeline], timeout=DRAIN_S)
        if not pipeline.done():
            work.pipeline.cancel()
            await asyncio.wait([pipeline], timeout=5)
            work.pipeline.cancel()  # the second call also abandons running writes
        for task in others:
            task.cancel()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
