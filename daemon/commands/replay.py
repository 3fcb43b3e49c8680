"""`temwatch replay`: hands the work to the running daemon or does it itself, and follows it to its end."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.commands.daemon_client import ask
from daemon.config.files import read_token
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.presentation import montage_json
from daemon.montages.states import UNFINISHED, MontageState
from daemon.pipeline.assembly import Assembly, open_assembly
from daemon.pipeline.replay.lookup import Lookup, NotSelectable
from daemon.pipeline.replay.replayer import Replayer, plan_json, plan_within
from daemon.pipeline.replay.selection import Action, ReplayRequest, parse_since, problems
from daemon.simulator.embedded import serve_if_embedded
from daemon.system.locks import JournalHeld, lock_journal, lock_root, noted
from handlers.errors import Fault

Row = dict[str, Any]
"""A montage as `GET /api/montages` shows it, or a plan as `POST /api/replay` answers it."""

POLL_S = 0.5
PATHS_AT_ONCE = 2_000
IDS_AT_ONCE = 200
PLANNING_S = 3600.0
"""How long the daemon may look for what was selected."""
DAEMON_AWAY_S = 60.0
"""How long a daemon that does not answer is asked again."""
DRAIN_S = 45.0


class DaemonAway(Fault):
    """The daemon that has the work in hand does not answer."""


# --- what is asked


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")
    metafile: str
    start: Literal["ingest", "mipmaps", "apply"] | None = Field(alias="from")


class _Report(BaseModel):
    model_config = ConfigDict(extra="ignore")
    replay: list[_Entry]


def requests_of(report: str, start: str | None, *, dry_run: bool = False) -> list[ReplayRequest]:
    """Requests for what a report of `temwatch verify --json` found wrong, each montage from the step that mends it.

    Parameters
    ----------
    start : the step for all of them instead, where given.
    """
    try:
        entries = _Report.model_validate_json(report).replay
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise NotSelectable(
            "--from-report", f"is no report of temwatch verify --json: {where}: {first['msg']}"
        ) from None
    by_step: dict[str, list[str]] = {}
    for entry in entries:
        if step := start or entry.start:
            by_step.setdefault(step, []).append(entry.metafile)
    return [
        ReplayRequest.model_validate({"paths": part, "from": step, "dry_run": dry_run})
        for step, paths in by_step.items()
        for part in _parts(dict.fromkeys(paths), PATHS_AT_ONCE)
    ]


def requests_for(paths: Sequence[str], *, most_paths: int = PATHS_AT_ONCE, **given: Any) -> list[ReplayRequest]:
    """Requests for what the command line says, each of so many paths.

    Raises
    ------
    NotSelectable
        Naming the parameter that cannot be meant.
    """
    whole = [os.path.join(Path.cwd(), path) for path in paths]  # noqa: PTH118  as written: links and dots stay
    present = {key: value for key, value in given.items() if value not in (None, ())}
    try:
        if (since := given.get("since")) is not None:  # what is local time here may be another for the daemon
            present["since"] = _moment(since)
        parts = list(_parts(whole, most_paths)) or [[]]
        return [ReplayRequest.model_validate({**present, "paths": part}) for part in parts]
    except ValueError as error:
        if not isinstance(error, ValidationError):
            raise NotSelectable("--since", str(error)) from None
        key, _, text = problems(error).partition(": ")
        raise NotSelectable(_parameter(key), text) from None


def _moment(since: str) -> str:
    return parse_since(since, datetime.now().astimezone()).isoformat()


def _parameter(key: str) -> str:
    name = key.partition(".")[0]
    return "PATH" if name == "paths" else f"--{name.replace('_', '-')}"


def _parts(values: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


# --- who is asked how it goes


class Teller(Protocol):
    """Who tells what became of montages: the daemon, or the journal."""

    async def by_id(self, ids: Sequence[int]) -> list[Row]:
        """The montages of these ids that are still there."""

    async def of_metafile(self, metafile: str) -> Row | None:
        """The newest montage of a metafile that no other content has superseded."""


class DaemonTells:
    """The running daemon."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._token = token

    async def replay(self, request: ReplayRequest) -> list[Row]:
        """What the daemon does with each montage that the request selects.

        Raises
        ------
        NotSelectable
            If it refuses the request.
        Fault
            If it does not answer, or cannot do it.
        """
        body = request.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        answer = await asyncio.to_thread(ask, f"{self.url}/api/replay", body, self._token, PLANNING_S)
        if answer is None:
            hint = "wait until it is ready, or stop it and replay without it"
            raise DaemonAway(self.url, "a daemon works with this journal, but does not answer there", hint)
        status, said = answer
        if status in (200, 202):
            rows: list[Row] = said["montages"]
            return rows
        if status == 400:
            subject, _, text = str(said.get("error", "")).partition(": ")
            raise NotSelectable("PATH" if subject == "PATH" else _parameter(subject), text)
        raise DaemonAway(self.url, f"the daemon answered {status}: {said.get('error', said)}")

    async def by_id(self, ids: Sequence[int]) -> list[Row]:
        numbers = ",".join(map(str, ids))
        return await self._montages(f"id={numbers}&limit={len(ids)}")

    async def of_metafile(self, metafile: str) -> Row | None:
        return _newest(await self._montages(f"metafile={quote(metafile, errors='surrogateescape')}&limit=100"))

    async def _montages(self, query: str) -> list[Row]:
        loop = asyncio.get_running_loop()
        end = loop.time() + DAEMON_AWAY_S
        while True:
            answer = await asyncio.to_thread(ask, f"{self.url}/api/montages?{query}")
            if answer is not None and answer[0] == 200:
                rows: list[Row] = answer[1]["montages"]
                return rows
            if loop.time() >= end:
                hint = "what was replayed is in its journal, and goes on when it is started again"
                raise DaemonAway(self.url, f"the daemon has not answered for {DAEMON_AWAY_S:g} s", hint)
            await asyncio.sleep(1)


class JournalTells:
    """The journal, where the work is done here."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def by_id(self, ids: Sequence[int]) -> list[Row]:
        return [montage_json(row) for row in await self._journal.montages(ids=ids, limit=len(ids))]

    async def of_metafile(self, metafile: str) -> Row | None:
        rows = await self._journal.montages(metafile=Path(metafile), limit=100, newest_first=True)
        return _newest([montage_json(row) for row in rows])


def _newest(rows: list[Row]) -> Row | None:
    return next((row for row in rows if row["state"] != MontageState.SUPERSEDED), None)


# --- what is shown


@dataclass
class Outcomes:
    """What became of each selected montage, told as it becomes known: a bar on a terminal, else a line for each."""

    console: Console = field(default_factory=lambda: Console(soft_wrap=True, highlight=False))
    good: int = 0
    bad: int = 0
    left: int = 0
    """Not ended when the command was told to stop."""

    @contextlib.contextmanager
    def shown(self, total: int) -> Iterator[Self]:
        """A bar for so many montages, on a terminal."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            self._progress = progress
            self._task = progress.add_task("montages", total=total, note="")
            yield self

    def ended(self, row: Row) -> None:
        """Tells that a montage has ended, and how."""
        complete = row["state"] == MontageState.COMPLETE
        self.good += complete
        self.bad += not complete
        if not (complete and self.console.is_terminal):
            self.console.print(escape(outcome_line(row)))
        self._progress.advance(self._task)

    def refused(self, plan: Row) -> None:
        """Tells that nothing can be done with a selected montage."""
        self.bad += 1
        self.console.print(escape(f"refused     {plan['metafile']}: {plan['note']}"))
        self._progress.advance(self._task)

    def waits(self, rows: Iterable[Row]) -> None:
        """Shows what the first of the montages under way waits for."""
        reason = next((reason for row in rows if (reason := waiting_reason(row))), "")
        self._progress.update(self._task, note=escape(reason))

    def summary(self) -> str:
        """One line for all."""
        parts = [f"{self.good} complete", f"{self.bad} not complete"]
        return ", ".join([*parts, f"{self.left} under way"] if self.left else parts)


def waiting_reason(row: Row) -> str:
    """What an unfinished montage waits for; empty if it is at work."""
    fault = row.get("fault")
    return f"{fault['problem']}" if fault else str(row.get("waiting_for") or "")


def outcome_line(row: Row) -> str:
    """How a montage ended, one line."""
    head = f"{row['state']:<11} {row['metafile']}"
    fault = row["fault"]
    if row["state"] == MontageState.COMPLETE:
        return f"{head}: z {row['z']:g}, {row['tiles']} tiles, {row['mipmapped_stack']}"
    if row["state"] == MontageState.SUPERSEDED:
        return f"{head}: the file was replaced meanwhile; what it holds now is a montage of its own"
    if fault is None:
        return f"{head}: {row['waiting_for'] or 'no reason is known'}"
    subject = "" if fault["subject"] == row["metafile"] else f"{fault['subject']}: "
    return f"{head}: {subject}{fault['problem']}" + (f" ({fault['hint']})" if fault["hint"] else "")


# --- following


async def follow(plans: Sequence[Row], teller: Teller, outcomes: Outcomes, stop: asyncio.Event) -> None:
    """Returns when every montage of the plans has ended, or it is to stop."""
    pending = {plan["id"]: plan["metafile"] for plan in plans if plan["action"] != Action.REFUSE}
    for plan in plans:
        if plan["action"] == Action.REFUSE:
            outcomes.refused(plan)
    while pending and not stop.is_set():
        rows = await _look(pending, teller)
        for montage_id, row in rows.items():
            if row["state"] not in UNFINISHED:
                del pending[montage_id]
                outcomes.ended(row)
        outcomes.waits(row for row in rows.values() if row["state"] in UNFINISHED)
        if pending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)
    outcomes.left = len(pending)


async def _look(pending: dict[int, str], teller: Teller) -> dict[int, Row]:
    """The pending montages by the id under which each is awaited."""
    found: dict[int, Row] = {}
    rest = iter(pending)
    while part := list(islice(rest, IDS_AT_ONCE)):
        found.update({row["id"]: row for row in await teller.by_id(part)})
    for montage_id in pending.keys() - found.keys():
        # Settling found that its content was known: that montage stands for it now.
        row = await teller.of_metafile(pending[montage_id])
        if row is not None:
            found[montage_id] = row
    return found


# --- doing it


async def replay(settings: Settings, requests: Sequence[ReplayRequest], say: Callable[[str], None]) -> int:
    """The command's exit code; tells on the way what becomes of each montage.

    Raises
    ------
    NotSelectable
        If a parameter cannot be meant.
    Fault
        If the work cannot be begun.
    """
    if any(request.dry_run for request in requests):
        plans = await _plans(settings, requests)
        for plan in plans:
            say(f"{plan['action'].replace('_', ' '):<8} {plan['metafile']}: {plan['note']}")
        counts = {action: sum(plan["action"] == action for plan in plans) for action in Action}
        told = ", ".join(f"{count} to {action.replace('_', ' ')}" for action, count in counts.items() if count)
        say(f"{told}; nothing was changed" if told else _NOTHING)
        return 0
    outcomes = Outcomes()
    with _stopped_by_signals() as stop:
        try:
            with lock_journal(settings.journal.path):
                ended = await _here(settings, requests, outcomes, stop, say)
        except JournalHeld as held:
            ended = await _by_the_daemon(settings, requests, outcomes, stop, say, held)
    if not ended:
        return 130
    return 1 if outcomes.bad else 0


_NOTHING = "nothing is selected: no montage fits, so there is nothing to do"


async def _plans(settings: Settings, requests: Sequence[ReplayRequest]) -> list[Row]:
    """What would be done, as far as can be seen by reading alone."""
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


async def _by_the_daemon(
    settings: Settings,
    requests: Sequence[ReplayRequest],
    outcomes: Outcomes,
    stop: asyncio.Event,
    say: Callable[[str], None],
    held: JournalHeld,
) -> bool:
    url = noted(settings.journal.path)
    if not url:
        raise held
    daemon = DaemonTells(url, read_token(settings.http))
    plans = [plan for request in requests for plan in await daemon.replay(request)]
    if not plans:
        say(_NOTHING)
        return True
    with outcomes.shown(len(plans)):
        await follow(plans, daemon, outcomes, stop)
    say(outcomes.summary())
    if outcomes.left:
        say(f"the daemon at {url} goes on with the montages under way; `temwatch status` shows them")
    return not outcomes.left


async def _here(
    settings: Settings,
    requests: Sequence[ReplayRequest],
    outcomes: Outcomes,
    stop: asyncio.Event,
    say: Callable[[str], None],
) -> bool:
    if not await _plans(settings, requests):
        say(_NOTHING)
        return True
    with contextlib.ExitStack() as locks:
        for watch in settings.watch:
            if watch.directory.is_dir():
                locks.enter_context(lock_root(watch.directory, settings.journal.path.parent))
        # Nobody else will come: stacks are closed once, when all is in them, without waiting for quiet.
        async with (
            serve_if_embedded(settings.render) as render_url,
            open_assembly(
                lambda: settings,
                is_observable=lambda name: _is_there(settings, name),
                close_at_end=True,
                render_url=render_url,
            ) as work,
        ):
            await work.journal.count_crashes()
            replayer = Replayer(lambda: settings, work.journal, work.pipeline)
            plans = [plan_json(plan) for request in requests for plan in await replayer.replay(request)]
            with outcomes.shown(len(plans)):
                async with _at_work(work):
                    await follow(plans, JournalTells(work.journal), outcomes, stop)
    say(outcomes.summary())
    if outcomes.left:
        say("what is under way stays in the journal: the daemon goes on with it at its next start")
    return not outcomes.left


def _is_there(settings: Settings, name: str) -> bool:
    return any(watch.name == name and watch.directory.is_dir() for watch in settings.watch)


@contextlib.asynccontextmanager
async def _at_work(work: Assembly) -> AsyncIterator[None]:
    """The parts at work; at the end steps under way come to a point where they can be taken up again."""
    async with asyncio.TaskGroup() as group:
        pipeline = group.create_task(work.pipeline.run(), name="pipeline")
        others = [
            group.create_task(work.gate.run(), name="render gate"),
            group.create_task(work.disks.run(), name="mipmap disks"),
            group.create_task(work.keeper.run(), name="stack keeper"),
        ]
        yield
        if not (work.pipeline.under_way or work.pipeline.waiting):  # stacks opened for what FAILED are closed, too
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await work.keeper.wait_until_closed()
        work.pipeline.stop()
        work.keeper.stop()
        await asyncio.wait([pipeline], timeout=DRAIN_S)
        if not pipeline.done():
            work.pipeline.cancel()
            await asyncio.wait([pipeline], timeout=5)
            work.pipeline.cancel()  # a second time: writes under way are given up unanswered
        for task in others:
            task.cancel()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
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
