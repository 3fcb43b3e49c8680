"""Actions on the daemon: starts, stops, crashes, reloads, replays, and a journal that another program locks."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from typing import Any

from yarl import URL

import daemon.app
from daemon.app import GIVE_UP_S
from tests.simulation.actions import Action
from tests.simulation.sections import Slot
from tests.simulation.texts import exception_text
from tests.simulation.transport import handle


class DaemonActions:
    """Part of a scenario: one method for each kind of action."""

    daemon: daemon.app.Daemon | None
    slots: list[Slot]
    settings: Any
    loop: Any
    machine: Any
    journal: Any
    outcome: Any
    reading: sqlite3.Connection
    _run: "asyncio.Task[None] | None"
    _run_number: int
    _holding: sqlite3.Connection | None

    def log_event(self, text: str) -> None:
        raise NotImplementedError

    def _break(self, invariant: str, text: str) -> None:
        raise NotImplementedError

    def _make_settings(self, **changed: Any) -> Any:
        raise NotImplementedError

    async def _ask_daemon(self, body: dict[str, Any]) -> None:
        """Send POST /api/replay to the daemon if it runs."""
        if self._run is None or not self.loop.servers:
            return
        headers = {"Host": "127.0.0.1:8787", "Content-Type": "application/json"}
        server = self.loop.servers[-1].protocol_factory
        content = json.dumps(body).encode()
        asking = asyncio.create_task(
            handle(server.request_handler, self.loop, "POST", URL("/api/replay"), content, headers),
            context=self._daemon_context,
        )
        await asyncio.wait([asking], timeout=120)
        if not asking.done() or asking.cancelled():
            return
        error = asking.exception()
        if error is None:
            answer = asking.result()
            self.log_event(f"   replay: {answer.status if answer else None} {answer.text if answer else ''}")
        elif self._run is not None:
            self._break("no bug is reported", exception_text(error))

    def _start_daemon(self) -> None:
        self.log_event("-- the daemon starts")
        self._release_journal()  # otherwise the daemon ends with a fault, and systemd restarts it
        self.daemon = daemon.app.Daemon(self.settings, lambda: self.settings)
        self._daemon_context = self.loop.begin_run()
        self._run_number = self.loop.last_run
        self._run_began = self.machine.wall()
        self._run = self.loop.create_task(self.daemon.run(), name="daemon", context=self._daemon_context)

    async def _stop(self, action: Action) -> None:
        if self._run is None:
            return
        if await self._end_daemon():
            await asyncio.sleep(action.seconds)
            self._start_daemon()

    async def _end_daemon(self) -> bool:
        """Stop the daemon with SIGTERM; return whether it ran and stopped without a fault."""
        if self._run is None:
            return False
        ended, self._run = self._run, None
        is_held = self._holding is not None
        self.loop.longest_wait_s = 0.0
        while signal.SIGTERM not in self.loop.signal_handlers and not ended.done():  # noqa: ASYNC110  it is starting
            await asyncio.sleep(0.05)
        self.loop.send_signal(signal.SIGTERM)
        await asyncio.wait([ended], timeout=300)
        if not ended.done():
            self._break("the daemon stops", "it has not ended 300 s after SIGTERM")
        elif ended.cancelled() or ended.exception() is not None:
            self._run = ended
            self._break("the daemon stops", self._how_it_ended())
            self._run = None
        self.loop.servers.clear()
        left = [task for task in asyncio.all_tasks() if getattr(task, "daemon_run", 0) == self._run_number]
        if left:
            await asyncio.wait(left, timeout=30)
        left = [task for task in left if not task.done()]
        if left:
            self._break("no task is left", ", ".join(task.get_name() for task in left))
        # Attempts of a crashed run are counted at the next start, which a stop may have interrupted. While another
        # program holds the journal, or its disk takes longer than a stop waits, the end of an attempt is not recorded.
        open_ones = self.reading.execute(
            "SELECT montage_id, step FROM attempts WHERE ended_at IS NULL AND started_at >= ?", (self._run_began,)
        ).fetchall()
        if open_ones and not is_held and self.loop.longest_wait_s < GIVE_UP_S:
            self._break("a stop ends all attempts", f"open attempts: {open_ones}")
        self.loop.end_run(self._run_number)
        self.machine.end_process()
        self.log_event("-- the daemon has ended")
        return not self.outcome.broken

    def _how_it_ended(self) -> str:
        assert self._run is not None
        if self._run.cancelled():
            return "it was cancelled"
        error = self._run.exception()
        return "it ended by itself" if error is None else exception_text(error)

    async def _crash(self, action: Action) -> None:
        if self._run is None:
            return
        if self._run.done():
            self._break("the daemon runs", self._how_it_ended())
            return
        self._run = None
        self.loop.end_run(self._run_number)
        self.machine.end_process()
        await asyncio.sleep(action.seconds)
        self._start_daemon()

    async def _reload(self, action: Action) -> None:
        """Change the configuration and send SIGHUP."""
        key = action.how if action.how == "settle_s" else f"stacks.{action.how}"
        self.settings = self._make_settings(**{key: action.seconds})
        self.loop.send_signal(signal.SIGHUP)

    async def _hold_journal(self, action: Action) -> None:
        """Lock the journal, as an sqlite3 shell may do."""
        if self._run is None or self._holding is not None or "_watcher" not in vars(self.daemon):
            return
        with contextlib.suppress(sqlite3.OperationalError):  # the daemon is writing
            self._holding = sqlite3.Connection(self.journal, timeout=0, isolation_level=None)
            self._holding.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(action.seconds)
        self._release_journal()

    def _release_journal(self) -> None:
        if self._holding is not None:
            self._holding.close()
            self._holding = None

    async def _kill_workers(self, _: Action) -> None:
        with contextlib.suppress(AttributeError):  # the pool is not open yet
            self.daemon._work.pool.executor.break_down()  # type: ignore[union-attr]

    async def _replay(self, action: Action) -> None:
        slot = self.slots[action.slot]
        paths = [str(slot.metafile)] if action.number else []
        body: dict[str, Any] = {"from": action.how, "paths": paths} if paths else {"from": action.how, "state": "all"}
        await self._ask_daemon(body)
