"""The daemon: opens its resources in order, runs its parts in one task group, shuts down in stages."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from daemon.config.reload import Reloader
from daemon.config.settings import Settings
from daemon.journal.file import Examination
from daemon.notify.alerts.alerts import Alerting
from daemon.notify.hooks.notifier import Notifier
from daemon.pipeline.assembly import open_assembly
from daemon.pipeline.changes.recheck import Recheck
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.readiness import Readiness
from daemon.simulator.embedded import serve_if_embedded
from daemon.system.first_signals import FirstSignals, has_terminal
from daemon.system.garbage_collector import collect_while_idle
from daemon.system.locks import lock_journal
from daemon.system.log import set_up_logging
from daemon.system.sd_notify import SystemdNotifier, watchdog_interval_s
from daemon.watching.watcher import Watcher
from daemon.web.site import serve_site

log = structlog.get_logger()

DRAIN_S = 45.0
"""Time for running steps to reach a point from which they can resume."""
GIVE_UP_S = 5.0
"""Time for cancelled steps to end."""
STOP_S = 60.0
"""Time for the whole shutdown, including the end of the workers."""
FIRST_PROBE_S = 5.0
"""Longest wait of the log line `daemon.ready` for the first answer of render-ws."""


class Daemon:
    """A running daemon.

    Parameters
    ----------
    load : reads the configuration again, for SIGHUP; raises ConfigError.
    examination : an examination of the journal that is already running.
    first_signals : the signal handlers that were installed before; a SIGHUP that they received leads to a reload.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        examination: Examination | None = None,
        first_signals: FirstSignals | None = None,
    ) -> None:
        self._settings = settings
        self._examination = examination
        self._first_signals = first_signals
        self._systemd = SystemdNotifier()
        self._metrics = Metrics()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self._is_at_work = False
        self._has_terminal = has_terminal()
        self._resumed = asyncio.Event()
        self._started = asyncio.Event()
        self._reloader = Reloader(load, lambda: self._settings, self._adopt, self._systemd)
        self.url = ""
        """URL of the HTTP server; empty until it listens."""

    @property
    def settings(self) -> Settings:
        """The present configuration."""
        return self._settings

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; both are handled from the start.

        Raises
        ------
        Fault
            If the journal, the lock of a directory or the HTTP port is not available.
        """
        self._task = asyncio.current_task()
        try:
            with self._handle_signals():
                await self._open_and_run()
        except asyncio.CancelledError:
            if not self._stop.is_set() or self._task is None:
                raise
            self._task.uncancel()
            log.info("daemon.stopped_while_starting")

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop, signal.SIGHUP: self._on_hangup}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        if self._first_signals is not None and self._first_signals.has_received_sighup:
            self._on_hangup()
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def _open_and_run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            lock = stack.enter_context(lock_journal(self._settings.journal.path))
            render_url = await stack.enter_async_context(serve_if_embedded(self._settings.render))
            self._work = await stack.enter_async_context(
                open_assembly(
                    lambda: self._settings,
                    is_observable=self._is_observable,
                    rescan=self._rescan,
                    metrics=self._metrics,
                    examination=self._examination,
                    render_url=render_url,
                )
            )
            self._journal, self._client, self._gate = self._work.journal, self._work.client, self._work.gate
            self._keeper, self._pipeline, self._disks = self._work.keeper, self._work.pipeline, self._work.disks
            self._watcher = Watcher(
                [watch.watch_root() for watch in self._settings.watch],
                self._pipeline.notice,
                known_metafiles=await self._journal.known_metafiles(),
                state_directory=self._settings.journal.path.parent,
            )
            self._notifier = Notifier(lambda: self._settings, self._journal, self._metrics.hook_attempted)
            await self._notifier.register()
            self._readiness = Readiness(
                self._work,
                roots=self._watcher.health,
                hooks=self._notifier.facts,
                alert_problem=lambda: self._alerting.problem,
            )
            facts = self._readiness.facts
            self._alerting = Alerting(lambda: self._settings, self._journal, facts)
            await self._alerting.register()
            site = await stack.enter_async_context(
                serve_site(self._work, self._notifier, facts, self._reloader.to_json)
            )
            self.url, self._live = site.url, site.live
            self._log_watches()
            if self._journal.is_new:
                hint = "if this daemon had a journal before, restore a back-up or run `temwatch journal rebuild`"
                log.warning("journal.created", journal=str(self._journal.path), hint=hint)
            lock.note(self.url)  # `temwatch replay` reads it to find the daemon's port
            await self._run_tasks()

    def _is_observable(self, watch: str) -> bool:
        return self._watcher.is_observable(watch)

    def _rescan(self, metafile: Path) -> None:
        self._watcher.rescan(metafile)

    # --- work

    async def _run_tasks(self) -> None:
        recheck = Recheck(
            lambda: self._settings,
            self._journal,
            is_observable=self._is_observable,
            enqueue=self._pipeline.enqueue,
            rescan=self._rescan,
        )
        async with asyncio.TaskGroup() as group:
            self._is_at_work = True
            watching = group.create_task(self._watcher.run(), name="watcher")
            pipeline = group.create_task(self._resume_and_run(), name="pipeline")
            others = {
                "recheck": self._once_resumed(recheck.run),
                "render gate": self._gate.run(),
                "mipmap disks": self._disks.run(),
                "workers": self._work.workers.run(),
                "stack keeper": self._once_resumed(self._keeper.run),
                "late changes": self._once_resumed(self._work.late_changes.run),
                "start": self._announce_start(),
                "hooks": self._notifier.run(),
                "alerts": self._once_checked(self._alerting.run),
                "reload": self._reloader.run(self._started),
                "status": self._readiness.report(self._systemd),
                "watchdog": self._ping_watchdog(),
                "garbage collector": collect_while_idle(lambda: not self._pipeline.under_way),
            }
            tasks = [group.create_task(work, name=name) for name, work in others.items()]
            await self._stop.wait()
            await self._drain(watching, pipeline, tasks)

    async def _resume_and_run(self) -> None:
        crashed = await self._journal.count_crashes()  # before any attempt begins: it ends every open attempt
        if crashed:
            hint = "the last daemon was killed or crashed during these attempts; they are repeated"
            log.warning("journal.crashed_attempts", attempts=crashed, hint=hint)
        await self._pipeline.resume()
        self._resumed.set()
        await self._pipeline.run()

    async def _once_resumed(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._resumed.wait()
        await work()

    async def _once_checked(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do work after the start and the first probe of render-ws: before that, no condition is known."""
        await self._started.wait()
        await self._gate.probed.wait()
        await work()

    async def _announce_start(self) -> None:
        await self._resumed.wait()
        await self._watcher.watching.wait()
        await self._disks.checked.wait()
        self._systemd.ready()
        self._started.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PROBE_S):
                await self._gate.probed.wait()
                await self._work.workers.known.wait()
        reasons = list(await self._readiness.reasons())
        if not self._gate.probed.is_set():
            reasons.append(f"render-ws has not answered for {FIRST_PROBE_S:g} s")
        log.log(
            logging.WARNING if reasons else logging.INFO,
            "daemon.ready",
            ready=not reasons,
            reasons=reasons,
            url=self.url,
            render=self._client.base_url,
            journal=str(self._journal.path),
        )

    async def _drain(
        self, watching: asyncio.Task[None], pipeline: asyncio.Task[None], others: list[asyncio.Task[None]]
    ) -> None:
        """Stop in stages: stop intake, let running steps reach a point from which they can resume, cancel the rest."""
        began = time.monotonic()
        self._systemd.stopping()
        await self._live.close()
        log.info("daemon.draining", under_way=self._pipeline.under_way, waiting=self._pipeline.waiting)
        watching.cancel()
        self._pipeline.stop()
        self._keeper.stop()
        hurry = asyncio.create_task(self._hurry.wait())
        # A step cannot reach such a point while the journal is blocked or no worker is available.
        while self._resumed.is_set() and not self._is_blocked and time.monotonic() < began + DRAIN_S:
            if (await asyncio.wait([pipeline, hurry], timeout=0.5, return_when=asyncio.FIRST_COMPLETED))[0]:
                break
        await self._cancel_all(watching, pipeline, others)
        self._work.pool.drain_s = 1.0 if hurry.done() else max(1.0, STOP_S - (time.monotonic() - began))
        hurry.cancel()
        log.info("daemon.drained", waiting=self._pipeline.waiting)

    @property
    def _is_blocked(self) -> bool:
        return self._journal.is_blocked or not self._work.workers.is_open

    async def _cancel_all(
        self, watching: asyncio.Task[None], pipeline: asyncio.Task[None], others: list[asyncio.Task[None]]
    ) -> None:
        """Cancel every task; if the journal blocks a task even then, stop recording in the journal."""
        if self._resumed.is_set():
            self._pipeline.cancel()
        else:
            pipeline.cancel()
        for task in others:
            task.cancel()
        rest = [watching, pipeline, *others]
        _, left = await asyncio.wait(rest, timeout=GIVE_UP_S)
        if left and self._resumed.is_set():
            self._pipeline.cancel()  # the second call also abandons running writes
            _, left = await asyncio.wait(left, timeout=1.0)
        if left:
            log.warning("journal.given_up", tasks=sorted(task.get_name() for task in left))
            self._journal.give_up()
            await asyncio.wait(left, timeout=GIVE_UP_S)

    def _on_hangup(self) -> None:
        """Stop if the terminal that the daemon was started on is closed; otherwise reload the configuration."""
        if self._has_terminal and not has_terminal():
            log.info("daemon.terminal_closed")
            self._on_stop()
        else:
            self._reloader.ask()

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()  # second signal: do not wait for running steps
        self._stop.set()
        if not self._is_at_work and self._task is not None:
            self._task.cancel()

    async def _adopt(self, settings: Settings) -> None:
        """Apply a new configuration."""
        if settings.log != self._settings.log:
            set_up_logging(settings.log.level, settings.log.format)
        self._settings = settings
        self._log_watches()
        await self._notifier.adopt()
        await self._watcher.replace_roots([watch.watch_root() for watch in settings.watch])
        await self._pipeline.resume()
        self._gate.probe_soon()
        self._pipeline.wake()

    def _log_watches(self) -> None:
        for watch in self._settings.watch:
            log.info("watch.configured", watch=watch.name, directory=str(watch.directory), z=watch.z.description)

    async def _ping_watchdog(self) -> None:
        """Report to systemd that the event loop runs. Readiness reports a hung disk, since a restart would not help."""
        interval_s = watchdog_interval_s(os.environ)
        if interval_s is None:
            return
        while True:
            self._systemd.watchdog()
            await asyncio.sleep(interval_s / 2)
