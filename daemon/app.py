"""The daemon put together: resources opened in order, one task group, shutdown in stages."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog
from aiohttp import web

from daemon.collector import collect_while_idle
from daemon.config import ConfigError, Settings
from daemon.health import Facts, Metrics, reasons_not_ready
from daemon.journal import Examination
from daemon.replay.replayer import Replayer
from daemon.secondlook import SecondLook
from daemon.service import SystemdNotifier, watchdog_interval_s
from daemon.status import http_url
from daemon.watcher import Watcher
from daemon.watching.ownership import lock_journal
from daemon.web import Posts, make_app
from daemon.work import open_work
from handlers.errors import SettingsFault

log = structlog.get_logger()

DRAIN_S = 45.0
"""How long steps under way may take to reach a point where they can be taken up again."""
STATUS_EVERY_S = 5.0
FIXED_WHILE_RUNNING = ("render", "journal", "http", "workers")
"""Sections that only a restart changes."""


class Daemon:
    """A running daemon.

    Parameters
    ----------
    load : reads the configuration anew, for SIGHUP; raises ConfigError.
    examination : of the journal, if one was begun ahead.
    """

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], examination: Examination | None = None
    ) -> None:
        self._settings = settings
        self._load = load
        self._examination = examination
        self._notifier = SystemdNotifier()
        self._metrics = Metrics()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.url = ""
        """Where the HTTP face listens, once it does."""

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._settings

    async def run(self) -> None:
        """Works until SIGTERM or SIGINT.

        Raises
        ------
        Fault
            If the journal, a directory's lock or the HTTP port cannot be had.
        """
        async with contextlib.AsyncExitStack() as stack:
            lock = stack.enter_context(lock_journal(self._settings.journal.path))
            work = await stack.enter_async_context(
                open_work(
                    lambda: self._settings,
                    is_observable=self._is_observable,
                    look_again=self._look_again,
                    metrics=self._metrics,
                    examination=self._examination,
                )
            )
            self._journal, self._client, self._gate = work.journal, work.client, work.gate
            self._keeper, self._pipeline, self._disks = work.keeper, work.pipeline, work.disks
            self._watcher = Watcher(
                [watch.watch_root() for watch in self._settings.watch],
                self._pipeline.notice,
                known_metafiles=await self._journal.known_metafiles(),
                state_directory=self._settings.journal.path.parent,
            )
            await stack.enter_async_context(self._serve_http())
            lock.note(self.url)  # where `temwatch replay` finds this daemon, whatever its port
            await self._work()

    def _is_observable(self, watch: str) -> bool:
        return self._watcher.is_observable(watch)

    def _look_again(self, metafile: Path) -> None:
        self._watcher.look_again(metafile)

    @contextlib.asynccontextmanager
    async def _serve_http(self) -> AsyncIterator[None]:
        replayer = Replayer(lambda: self._settings, self._journal, self._pipeline)
        posts = Posts(self._settings.http, replayer)
        app = make_app(self._journal, self._metrics, self.facts, posts, lambda: self._settings.http)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        http = self._settings.http
        try:
            site = web.TCPSite(runner, http.host, http.port)
            try:
                await site.start()
            except OSError as error:
                raise SettingsFault(
                    "http.port",
                    f"cannot listen on {http.host}:{http.port}: {error.strerror}",
                    "another daemon may be running",
                ) from error
            self.url = http_url(http.host, runner.addresses[0][1])
            yield
        finally:
            await runner.cleanup()

    # --- work

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        for number, handler in (
            (signal.SIGTERM, self._on_stop),
            (signal.SIGINT, self._on_stop),
            (signal.SIGHUP, self._on_reload),
        ):
            loop.add_signal_handler(number, handler)
        try:
            await self._run_tasks()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watcher.run(), name="watcher")
            crashed = await self._journal.count_crashes()
            if crashed:
                log.warning("journal.crashed_attempts", attempts=crashed)
            await self._pipeline.resume()
            pipeline = group.create_task(self._pipeline.run(), name="pipeline")
            second_look = SecondLook(
                lambda: self._settings,
                self._journal,
                is_observable=self._is_observable,
                take_up=self._pipeline.take_up,
            )
            others = [
                group.create_task(second_look.run(), name="second look"),
                group.create_task(self._gate.run(), name="render gate"),
                group.create_task(self._disks.run(), name="mipmap disks"),
                group.create_task(self._keeper.run(), name="stack keeper"),
                group.create_task(self._report(), name="status"),
                group.create_task(self._ping_watchdog(), name="watchdog"),
                group.create_task(collect_while_idle(lambda: not self._pipeline.under_way), name="garbage collector"),
            ]
            await self._watcher.watching.wait()
            self._notifier.ready()
            log.info("daemon.ready", url=self.url, render=self._client.base_url, journal=str(self._journal.path))
            await self._stop.wait()
            await self._drain(watching, pipeline)
            for task in others:
                task.cancel()

    async def _drain(self, watching: asyncio.Task[None], pipeline: asyncio.Task[None]) -> None:
        """Stage by stage: intake ends, steps under way reach a resting point, the rest is given up."""
        self._notifier.stopping()
        log.info("daemon.draining", under_way=self._pipeline.under_way, waiting=self._pipeline.waiting)
        watching.cancel()
        self._pipeline.stop()
        self._keeper.stop()
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([pipeline, hurry], timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not pipeline.done():
            self._pipeline.cancel()
            await asyncio.wait([pipeline], timeout=5)
        log.info("daemon.drained", waiting=self._pipeline.waiting)

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()  # asked twice: do not wait for what is under way
        self._stop.set()

    # --- reload

    def _on_reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload(), name="reload")
        task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _reload(self) -> None:
        """Checks the configuration and swaps it, or keeps the one in force and says why."""
        self._notifier.reloading()
        try:
            settings = await asyncio.to_thread(self._load)
            changed = [name for name in FIXED_WHILE_RUNNING if getattr(settings, name) != getattr(self._settings, name)]
            if changed:
                raise ConfigError(
                    tuple(f"{name}: cannot change while running; restart the service" for name in changed)
                )
        except ConfigError as error:
            for problem in error.problems:
                log.error("config.refused", problem=problem)
        else:
            self._settings = settings
            await self._watcher.replace_roots([watch.watch_root() for watch in settings.watch])
            await self._pipeline.resume()
            self._pipeline.wake()
            log.info("config.reloaded", watches=[watch.name for watch in settings.watch])
        finally:
            self._notifier.ready()

    # --- what is told

    async def facts(self) -> Facts:
        """What readiness is judged by, now."""
        oldest = await self._journal.oldest_unfinished_at() if self._journal.fault is None else None
        return Facts(
            roots=self._watcher.health(),
            disks=self._disks.facts(),
            render_fault=str(self._gate.fault) if self._gate.fault else None,
            journal_fault=str(self._journal.fault) if self._journal.fault else None,
            oldest_unfinished_s=None if oldest is None else time.time() - oldest,
            backlog_limit_s=self._settings.http.backlog_limit_s,
        )

    async def _report(self) -> None:
        """Keeps `systemctl status` telling what goes on."""
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            reasons = reasons_not_ready(await self.facts())
            state = "; ".join(reasons) if reasons else "ready"
            self._notifier.status(f"{self._pipeline.under_way} under way, {self._pipeline.waiting} waiting; {state}")

    async def _ping_watchdog(self) -> None:
        """Tells systemd that the loop turns and the journal's thread answers."""
        interval_s = watchdog_interval_s(os.environ)
        if interval_s is None:
            return
        while True:
            if self._journal.fault is None:
                await self._journal.counts()
            self._notifier.watchdog()
            await asyncio.sleep(interval_s / 2)
