"""One scenario: its world, its actions, and the wait until the daemon is idle."""

import asyncio
import contextlib
import functools
import math
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from yarl import URL

import daemon.app
import daemon.web.site
import handlers.file_status
import handlers.images.level0
import handlers.render.http.transport
import handlers.workers.pool
import handlers.workers.processes
from daemon.config.settings import Settings
from daemon.journal.file import connect
from daemon.pipeline.changes.late_changes import next_check_s
from daemon.pipeline.stacks.use import StackPhase
from daemon.simulator.standin.application import StandIn
from daemon.simulator.standin.store import Stack, StackKey
from daemon.watching.mounts import Mount
from daemon.watching.watcher import Watcher
from tests.simulation import substitutes
from tests.simulation.actions import Action, Plan
from tests.simulation.daemon_actions import DaemonActions
from tests.simulation.file_actions import FileActions
from tests.simulation.invariants import Broken, check, is_locked_fault, stale_montages
from tests.simulation.journal import Row, read_rows
from tests.simulation.loop import EndlessScenario, SimulatedLoop, daemon_run, running
from tests.simulation.render_actions import RenderActions
from tests.simulation.sections import Section, Slot
from tests.simulation.substitutes import Machine
from tests.simulation.texts import exception_text
from tests.simulation.transport import Network, Session, handle
from tests.simulation.workers import SimulatedWorkers

URL_OF_RENDER = "http://render:8080/render-ws/v1"
RAW, MIPS = "17797_1R_raw", "17797_1R_mips"
QUIET_S = 45.0
"""Time without an event after which a scenario is idle: longer than the interval of any scan, check or probe."""
IDLE_TIMEOUT_S = 9_000.0
"""Time-out of the wait until a scenario is idle; the client waits for a late COMPLETE for an hour."""
STEP_S = 2.5
RECHECK_S = 3_000.0
"""Value of `recheck_images_for_s`."""


@contextlib.asynccontextmanager
async def _serve(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve the daemon's pages through the loop's `create_server`, which opens no socket."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@dataclass
class Outcome:
    """Outcome of a scenario."""

    broken: list[Broken] = field(default_factory=list)
    virtual_s: float = 0.0
    states: dict[str, int] = field(default_factory=dict)


class Scenario(FileActions, RenderActions, DaemonActions):
    """A simulated world with a daemon.

    Parameters
    ----------
    place : an empty directory, preferably on a tmpfs.
    plan : the actions and settings.
    schedule : seed of the order of tasks and of all durations.
    """

    def __init__(self, place: Path, plan: Plan, schedule: str, *, log: Callable[[str], object] | None = None) -> None:
        self.place = place
        self.plan = plan
        self.outcome = Outcome()
        self._log = log
        rng = random.Random(f"schedule {schedule}")
        random.seed(f"daemon {schedule}")
        self.loop = SimulatedLoop(rng)
        self.loop.interruptions = rng.choice((0.0, 0.03, 0.2))
        self.loop.slowness = rng.choice((0.3, 1.0, 1.0, 3.0))
        self.machine = Machine(self.loop)
        self._rng = random.Random(f"people {schedule}")
        self._clients_context = self.loop.begin_run()
        self.network = Network(self.loop, rng, self._clients_context)
        self.network.slowness = rng.choice((0.3, 1.0, 3.0))
        self.network.slow_share = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.network.log = self.log_event
        SimulatedWorkers.loop = self.loop
        SimulatedWorkers.max_job_s = rng.choice((0.05, 0.3, 2.0, 8.0))
        self.standin = StandIn(derive_s=rng.choice((0.0, 0.3, 3.0)))
        self.daemon: daemon.app.Daemon | None = None
        self._run: asyncio.Task[None] | None = None
        self._run_number = 0
        self._locked: set[str] = set()
        self._duplicates = 0
        self._unmounted: set[Path] = set()
        self._holding: sqlite3.Connection | None = None
        self.lost_by_others: set[tuple[str, str]] = set()
        """Stack and id of each tile that another program deleted, which the daemon does not notice after COMPLETE."""
        self.acquisition = place / "acquisition"
        self.mipmaps = place / "mipmaps"
        self.away = place / "away"
        self.journal = place / "journal.sqlite"
        self.slots = [
            Slot(section, self.acquisition / f"{section.grid:06d}_{section.roi_index}", section.metafile_name)
            for section in (Section(1, 0), Section(2, 0), Section(2, 1), Section(3, 0))[: plan.slots]
        ]
        self.settings = self._make_settings()

    # --- run

    def run(self) -> Outcome:
        """Run the scenario; return its outcome."""
        # The tree is never empty: the daemon pauses a watch that is suddenly empty.
        for directory in (self.acquisition / "other", self.away):
            directory.mkdir(parents=True)
        substitutes.use(self.machine)
        self._substitute()
        try:
            with running(self.loop):
                self.loop.set_exception_handler(self._log_exception)
                self.loop.run_until_complete(self._run_actions())
        except EndlessScenario as endless:
            self._break("the scenario ends", str(endless))
        except Exception as error:  # noqa: BLE001  a bug of the simulation is reported with its seed
            self._break("the simulation works", exception_text(error))
        finally:
            substitutes.use(None)
        self.outcome.virtual_s = self.loop.now - self.machine.started_at
        return self.outcome

    def log_event(self, text: str) -> None:
        """Log a text with the virtual time."""
        if self._log is not None:
            self._log(f"{self.loop.now - self.machine.started_at:9.3f}  {text}")

    def _break(self, invariant: str, text: str) -> None:
        self.log_event(f"VIOLATED {invariant}: {text}")
        self.outcome.broken.append(Broken(invariant, text))

    def _substitute(self) -> None:
        """Replace modules' functions and classes for the rest of the process."""
        handlers.render.http.transport.aiohttp.ClientSession = Session  # type: ignore[misc,assignment]
        handlers.workers.processes.ProcessExecutor = SimulatedWorkers  # type: ignore[misc,assignment]
        handlers.workers.pool.max_read_ahead = lambda workers: 0  # by threads, whose order is not controlled
        # On a slow machine files seem to be on a distant server. The thread that compares would run after its caller.
        handlers.images.level0.DISTANT_S = math.inf  # type: ignore[misc]
        handlers.file_status._statx = lambda: None  # only `os.fstat` knows the virtual times
        daemon.web.site.serve = _serve  # type: ignore[attr-defined]
        Session.network = self.network
        Watcher.__init__.__kwdefaults__["read_mounts"] = lambda: (Mount("/", "tmpfs"),)
        self.network.serve(self.standin.application())

        def take(_logger: object, method: str, event: dict[str, Any]) -> Any:
            error = event.pop("exc_info", None)
            name = event.pop("event")
            self.log_event(f"{method} {name} " + " ".join(f"{key}={value}" for key, value in sorted(event.items())))
            if name == "step.bug" or error:
                self._break("no bug is reported", exception_text(sys.exception()))
            raise structlog.DropEvent

        structlog.configure(processors=[structlog.contextvars.merge_contextvars, take], cache_logger_on_first_use=False)

    def _log_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self.loop.is_killed(daemon_run.get()):
            return
        self._break("every exception is handled", f"{context['message']}: {exception_text(context.get('exception'))}")

    def _make_settings(self, **changed: Any) -> Settings:
        values = {**self.plan.settings, **changed}
        in_place = values.pop("stacks.in_place", False)
        watch: dict[str, Any] = {
            "name": "scope",
            "directory": self.acquisition,
            "mode": "poll",
            "scan_interval_s": 5,
            "full_scan_interval_s": 20,
            "recheck_images_for_s": RECHECK_S,
            "z": {"rule": "grid"},
            "stacks": {"raw": "{specimen_id}_raw"} | ({} if in_place else {"mipmapped": "{specimen_id}_mips"}),
            "mipmaps": {"output_dir": self.mipmaps, "levels": 2},
        }
        for key, value in values.items():
            part, _, name = key.rpartition(".")
            (watch[part] if part else watch)[name] = value
        return Settings(
            render={"url": URL_OF_RENDER, "owner": "em", "project": "test"},  # type: ignore[arg-type]
            journal={"path": self.journal},  # type: ignore[arg-type]
            workers={"count": 2},  # type: ignore[arg-type]
            watch=(watch,),  # type: ignore[arg-type]
        )

    # --- actions, end and checks

    async def _run_actions(self) -> None:
        self._start_daemon()
        began = self.loop.now
        tasks = []
        for action in self.plan.actions:
            await asyncio.sleep(max(0.0, began + action.at - self.loop.now))
            self.log_event(f"-- {action}")
            tasks.append(asyncio.create_task(self._perform(action), name=str(action)))
        for task in tasks:
            await task
        await self._end_failures()
        if await self._wait_until_idle() and await self._repair():
            await self._wait_until_idle()
        if not self.outcome.broken and await self._await_next_check():
            await self._wait_until_idle()
        if not self.outcome.broken:
            await self._wait_for_requests()
            self.outcome.broken += check(self)
            for broken in self.outcome.broken:
                self.log_event(f"VIOLATED {broken.invariant}: {broken.text}")
            for row in self.rows():
                self.outcome.states[row.state] = self.outcome.states.get(row.state, 0) + 1
        await self._end_daemon()

    async def _perform(self, action: Action) -> None:
        do: Callable[[Action], Awaitable[None]] = getattr(self, f"_{action.kind}")
        try:
            await do(action)
        except OSError as error:
            self.log_event(f"   the action failed: {error}")

    async def _end_failures(self) -> None:
        """End all failures, unlock the stacks, and start the daemon if it does not run."""
        self.log_event("-- all failures end")
        self.standin._misbehaviour.clear()
        self.network.come_back()
        self.machine.disk_is_full = False
        self._release_journal()
        for stack in sorted(self._locked):
            await self._ask_render("PUT", stack, "/state/COMPLETE")
        self._locked.clear()
        if self._run is None:
            self._start_daemon()

    async def _repair(self) -> bool:
        """Replay montages that failed because of a lock or whose tiles were deleted, as an operator does.

        Returns
        -------
        bool
            Whether there were such montages.
        """
        lost = {tile_id for _, tile_id in self.lost_by_others}
        paths = sorted(
            {str(row.metafile) for row in self.rows() if row.metafile.exists() and self._is_to_be_repaired(row, lost)}
        )
        if not paths:
            return False
        self.log_event(f"-- an operator replays {len(paths)} montages")
        await self._ask_daemon({"paths": paths, "state": "all", "from": "ingest"})
        self.lost_by_others.clear()
        return True

    async def _await_next_check(self) -> bool:
        """Wait until images that changed after their montage was COMPLETE have been checked again.

        Returns
        -------
        bool
            Whether there were such images.
        """
        due = [row.complete_at + _next_check_s(row) + STEP_S for row in stale_montages(self)]
        if due:
            self.log_event(f"-- {len(due)} montages wait for the next check of their images")
            await asyncio.sleep(max(0.0, max(due) - self.machine.wall()))
        return bool(due)

    def _is_to_be_repaired(self, row: Row, lost: set[str]) -> bool:
        return is_locked_fault(row) or (row.state == "complete" and not lost.isdisjoint(row.tile_ids))

    async def _wait_until_idle(self) -> bool:
        """Wait until the scenario is idle; return False after the time-out."""
        deadline = self.loop.now + IDLE_TIMEOUT_S
        quiet_since, last = self.loop.now, None
        pause_s = STEP_S
        while self.loop.now < deadline:
            await asyncio.sleep(pause_s)
            if self._run is not None and self._run.done():
                self._break("the daemon runs", self._how_it_ended())
                return False
            now = self._signature()
            if now != last or not self._seems_idle():
                quiet_since, last = self.loop.now, now
            elif self.loop.now - quiet_since >= QUIET_S:
                return True
            pause_s = min(pause_s * 1.02, 20.0)
        self._break("the scenario becomes idle", "; ".join(self._unfinished()) or "events never stop")
        return False

    async def _wait_for_requests(self) -> None:
        """Wait for the end of all requests; a probe may be running."""
        assert self.daemon is not None
        http = self.daemon._client._http
        for _ in range(600):
            if http._turns._value == http._connections:
                return
            await asyncio.sleep(0.1)

    def _signature(self) -> tuple[Any, ...]:
        events = self.reading.execute("SELECT max(id) FROM events").fetchone()
        attempts = self.reading.execute("SELECT max(id), sum(ended_at IS NULL) FROM attempts").fetchone()
        return (*events, *attempts, self.network.writes)

    def _seems_idle(self) -> bool:
        unfinished = self.reading.execute(
            "SELECT count(*) FROM montages WHERE state NOT IN ('complete', 'failed', 'superseded', 'ignored')"
        )
        return not unfinished.fetchone()[0] and self._is_circuit_closed() and not self._is_closing()

    def _is_closing(self) -> bool:
        """Whether a stack is being closed, which may take an hour behind a proxy that answers 504."""
        keeper = getattr(self.daemon, "_keeper", None)
        return keeper is not None and any(use.phase is StackPhase.CLOSING for use in keeper._uses.values())

    def _is_circuit_closed(self) -> bool:
        """Whether the circuit is closed; after an outage without work this takes a minute."""
        gate = getattr(self.daemon, "_gate", None)
        return gate is not None and gate.is_closed_circuit

    def _unfinished(self) -> list[str]:
        return [str(row) for row in self.rows() if row.state not in ("complete", "failed", "superseded", "ignored")]

    # --- the journal, the stacks

    @functools.cached_property
    def reading(self) -> sqlite3.Connection:
        """Read-only connection to the journal."""
        return sqlite3.Connection(f"file:{self.journal}?mode=ro", uri=True)

    def rows(self) -> list[Row]:
        """Return all montages of the journal."""
        return read_rows(self.reading)

    @property
    def stack_names(self) -> tuple[str, ...]:
        """Names of the stacks of this scenario."""
        return (RAW,) if self.plan.settings.get("stacks.in_place") else (RAW, MIPS)

    def stack(self, name: str) -> Stack | None:
        """Return a stack of render-ws."""
        return self.standin._store.find(StackKey("em", "test", name))

    async def _ask_render(self, method: str, stack: str, path: str) -> None:
        """Send a request as another client; its effect is read from the store."""
        url = URL(f"/render-ws/v1/owner/em/project/test/stack/{stack}{path}")
        application = self.network._application
        assert application is not None
        await handle(application._handle, self.loop, method, url, b"", {"Host": "render:8080"})


def _next_check_s(row: Row) -> float:
    """Return how long after COMPLETE the changed images of a montage are checked."""
    changed_at = max(image.stat().st_ctime for image in row.metafile.parent.glob("*.tif"))
    return next_check_s(changed_at - row.complete_at, RECHECK_S) or 0.0


def make_journal(path: Path) -> None:
    """Create an empty journal that all scenarios copy: the migrations take longer than many scenarios."""
    with contextlib.closing(connect(path)):
        pass
