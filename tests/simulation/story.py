"""One story: the world, what happens in it, and its coming to rest."""

import asyncio
import contextlib
import functools
import json
import random
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from yarl import URL

import daemon.app
import handlers.render.transport
import handlers.workers.processes
from daemon.config.settings import Settings
from daemon.journal.file import connect
from daemon.pipeline.late_changes import next_check_s
from daemon.simulator.standin.application import StandIn
from daemon.simulator.standin.faults import Fault, FaultKind
from daemon.simulator.standin.store import Stack, StackKey, State
from daemon.watching.mounts import Mount
from daemon.watching.watcher import Watcher
from tests.simulation import substitutes
from tests.simulation.actions import Action, Plan
from tests.simulation.invariants import Broken, check, is_locked_fault, stale_montages
from tests.simulation.journal import Row, read_rows
from tests.simulation.loop import GoesInCircles, SimulatedLoop, life, running
from tests.simulation.sections import Section, tiff
from tests.simulation.substitutes import Machine
from tests.simulation.transport import Network, Session, handle
from tests.simulation.workers import SimulatedWorkers

URL_OF_RENDER = "http://render:8080/render-ws/v1"
RAW, MIPS = "17797_1R_raw", "17797_1R_mips"
QUIET_S = 45.0
"""How long nothing may happen before the story is at rest: longer than any pass, look or probe takes to come round."""
REST_S = 9_000.0
"""A story that has not come to rest after this time never will: longer than the hour that a late COMPLETE is given."""
STEP_S = 2.5
RECHECK_S = 3_000.0
"""How long images are looked at again."""


@dataclass
class Slot:
    """Where a section lies now."""

    section: Section
    directory: Path
    name: str
    version: int = 0
    moves: int = 0

    @property
    def metafile(self) -> Path:
        """Its metafile, if it is there."""
        return self.directory / self.name


@dataclass
class Outcome:
    """How a story ended."""

    broken: list[Broken] = field(default_factory=list)
    virtual_s: float = 0.0
    states: dict[str, int] = field(default_factory=dict)


class Story:
    """A world with a daemon in it.

    Parameters
    ----------
    place : an empty directory, best on a tmpfs.
    plan : what happens.
    schedule : seed of the order in which tasks run and of how long everything takes.
    """

    def __init__(self, place: Path, plan: Plan, schedule: str, *, log: Callable[[str], object] | None = None) -> None:
        self.place = place
        self.plan = plan
        self.outcome = Outcome()
        self._log = log
        chances = random.Random(f"schedule {schedule}")
        random.seed(f"daemon {schedule}")
        self.loop = SimulatedLoop(chances)
        self.loop.interruptions = chances.choice((0.0, 0.03, 0.2))
        self.loop.slowness = chances.choice((0.3, 1.0, 1.0, 3.0))
        self.machine = Machine(self.loop)
        self._chances = random.Random(f"people {schedule}")
        self._clients_context = self.loop.begin_life()
        self.network = Network(self.loop, chances, self._clients_context)
        self.network.slowness = chances.choice((0.3, 1.0, 3.0))
        self.network.laziness = chances.choice((0.0, 0.0, 0.05, 0.3))
        self.network.log = self.say
        SimulatedWorkers.loop = self.loop
        SimulatedWorkers.longest_s = chances.choice((0.05, 0.3, 2.0, 8.0))
        self.standin = StandIn(derive_s=chances.choice((0.0, 0.3, 3.0)))
        self.daemon: daemon.app.Daemon | None = None
        self._run: asyncio.Task[None] | None = None
        self._life = 0
        self._locked: set[str] = set()
        self._twins = 0
        self._unmounted: set[Path] = set()
        self._holding: sqlite3.Connection | None = None
        self.lost_by_others: set[tuple[str, str]] = set()
        """(stack, tile id) of what somebody deleted after its montage was COMPLETE: nobody would notice."""
        self.acquisition = place / "acquisition"
        self.mipmaps = place / "mipmaps"
        self.away = place / "away"
        self.journal = place / "journal.sqlite"
        self.slots = [
            Slot(section, self.acquisition / f"{section.grid:06d}_{section.roi_index}", section.metafile_name)
            for section in (Section(1, 0), Section(2, 0), Section(2, 1), Section(3, 0))[: plan.slots]
        ]
        self.settings = self._make_settings()

    # --- from outside

    def tell(self) -> Outcome:
        """Lets the story happen."""
        # A tree is never empty: the daemon would wait for somebody to look at an empty one.
        for directory in (self.acquisition / "other", self.away):
            directory.mkdir(parents=True)
        substitutes.use(self.machine)
        self._listen()
        try:
            with running(self.loop):
                self.loop.set_exception_handler(self._take_down)
                self.loop.run_until_complete(self._tell())
        except GoesInCircles as circle:
            self._break("the story ends", str(circle))
        except Exception as error:  # noqa: BLE001  a fault of the simulation has to be told with its seed
            self._break("the simulation works", _told(error))
        finally:
            substitutes.use(None)
        self.outcome.virtual_s = self.loop.now - self.machine.started_at
        return self.outcome

    def say(self, text: str) -> None:
        """Takes down what happens."""
        if self._log is not None:
            self._log(f"{self.loop.now - self.machine.started_at:9.3f}  {text}")

    def _break(self, invariant: str, text: str) -> None:
        self.say(f"BROKEN {invariant}: {text}")
        self.outcome.broken.append(Broken(invariant, text))

    def _listen(self) -> None:
        handlers.render.transport.aiohttp.ClientSession = Session  # type: ignore[misc,assignment]
        handlers.workers.processes.ProcessExecutor = SimulatedWorkers  # type: ignore[misc,assignment]
        Session.network = self.network
        Watcher.__init__.__kwdefaults__["read_mounts"] = lambda: (Mount("/", "tmpfs"),)
        self.network.serve(self.standin.application())

        def take(_logger: object, method: str, event: dict[str, Any]) -> Any:
            error = event.pop("exc_info", None)
            name = event.pop("event")
            self.say(f"{method} {name} " + " ".join(f"{key}={value}" for key, value in sorted(event.items())))
            if name == "step.bug" or error:
                self._break("no bug shows", _told(sys.exception()))
            raise structlog.DropEvent

        structlog.configure(processors=[structlog.contextvars.merge_contextvars, take], cache_logger_on_first_use=False)

    def _take_down(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self.loop.is_dead(life.get()):
            return
        self._break("every exception is answered", f"{context['message']}: {_told(context.get('exception'))}")

    def _make_settings(self, **changed: Any) -> Settings:
        said = {**self.plan.settings, **changed}
        in_place = said.pop("stacks.in_place", False)
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
        for key, value in said.items():
            part, _, name = key.rpartition(".")
            (watch[part] if part else watch)[name] = value
        return Settings(
            render={"url": URL_OF_RENDER, "owner": "em", "project": "test"},  # type: ignore[arg-type]
            journal={"path": self.journal},  # type: ignore[arg-type]
            workers={"count": 2},  # type: ignore[arg-type]
            watch=(watch,),  # type: ignore[arg-type]
        )

    # --- the course of things

    async def _tell(self) -> None:
        self._start_daemon()
        began = self.loop.now
        happenings = []
        for action in self.plan.actions:
            await asyncio.sleep(max(0.0, began + action.at - self.loop.now))
            self.say(f"-- {action}")
            happenings.append(asyncio.create_task(self._perform(action), name=str(action)))
        for happening in happenings:
            await happening
        await self._calm()
        if await self._rest() and (await self._repair() or await self._await_next_look()):
            await self._rest()
        if not self.outcome.broken:
            await self._until_no_request_is_under_way()
            self.outcome.broken += check(self)
            for broken in self.outcome.broken:
                self.say(f"BROKEN {broken.invariant}: {broken.text}")
            for row in self.rows():
                self.outcome.states[row.state] = self.outcome.states.get(row.state, 0) + 1
        await self._end_daemon()

    async def _perform(self, action: Action) -> None:
        do: Callable[[Action], Awaitable[None]] = getattr(self, f"_{action.kind}")
        try:
            await do(action)
        except OSError as error:
            self.say(f"   somebody could not: {error}")

    async def _calm(self) -> None:
        """All that failed works again; somebody undoes what a person has to undo."""
        self.say("-- all is calm from now on")
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
        """Replays what a person has to replay: montages that failed of a lock, or whose tiles somebody deleted.

        Returns
        -------
        bool
            Whether there was anything.
        """
        lost = {tile_id for _, tile_id in self.lost_by_others}
        paths = sorted(
            {str(row.metafile) for row in self.rows() if row.metafile.exists() and self._is_to_be_repaired(row, lost)}
        )
        if not paths:
            return False
        self.say(f"-- somebody replays {len(paths)} montages")
        await self._ask_daemon({"paths": paths, "state": "all", "from": "ingest"})
        self.lost_by_others.clear()
        return True

    async def _await_next_look(self) -> bool:
        """Waits until images that changed after their montage was COMPLETE have been looked at again.

        Returns
        -------
        bool
            Whether there were any.
        """
        due = [row.complete_at + _next_check_s(row) + STEP_S for row in stale_montages(self)]
        if due:
            self.say(f"-- {len(due)} montages wait for the next look at their images")
            await asyncio.sleep(max(0.0, max(due) - self.machine.wall()))
        return bool(due)

    def _is_to_be_repaired(self, row: Row, lost: set[str]) -> bool:
        return is_locked_fault(row) or (row.state == "complete" and not lost.isdisjoint(row.tile_ids))

    async def _rest(self) -> bool:
        """Waits until nothing happens any more; False if that time does not come."""
        deadline = self.loop.now + REST_S
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
        self._break("the story comes to rest", "; ".join(self._unfinished()) or "something goes on and on")
        return False

    async def _until_no_request_is_under_way(self) -> None:
        """A probe may be."""
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
        return not unfinished.fetchone()[0] and self._is_calm()

    def _is_calm(self) -> bool:
        """Whether render-ws counts as well: after an outage without any work it takes a minute."""
        gate = getattr(self.daemon, "_gate", None)
        return gate is not None and gate.is_closed_circuit

    def _unfinished(self) -> list[str]:
        return [str(row) for row in self.rows() if row.state not in ("complete", "failed", "superseded", "ignored")]

    # --- the journal, the stacks

    @functools.cached_property
    def reading(self) -> sqlite3.Connection:
        """A connection to the journal that is not the daemon's."""
        return sqlite3.Connection(f"file:{self.journal}?mode=ro", uri=True)

    def rows(self) -> list[Row]:
        """All montages of the journal."""
        return read_rows(self.reading)

    @property
    def stack_names(self) -> tuple[str, ...]:
        """Names of the stacks of this story."""
        return (RAW,) if self.plan.settings.get("stacks.in_place") else (RAW, MIPS)

    def stack(self, name: str) -> Stack | None:
        """A stack as render-ws holds it."""
        return self.standin._store.find(StackKey("em", "test", name))

    async def _ask_render(self, method: str, stack: str, path: str) -> None:
        """Somebody else asks something of render-ws; what came of it the store tells."""
        url = URL(f"/render-ws/v1/owner/em/project/test/stack/{stack}{path}")
        application = self.network._application
        assert application is not None
        await handle(application._handle, self.loop, method, url, b"", {"Host": "render:8080"})

    async def _ask_daemon(self, body: dict[str, Any]) -> None:
        """POST /api/replay."""
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
            self.say(f"   replay: {answer.status if answer else None} {answer.text if answer else ''}")
        elif self._run is not None:
            self._break("no bug shows", _told(error))

    # --- the daemon

    def _start_daemon(self) -> None:
        self.say("-- the daemon starts")
        self._release_journal()  # it would refuse to start, and systemd start it again
        self.daemon = daemon.app.Daemon(self.settings, lambda: self.settings)
        self._daemon_context = self.loop.begin_life()
        self._life = self.loop.last_life
        self._life_began = self.machine.wall()
        self._run = self.loop.create_task(self.daemon.run(), name="daemon", context=self._daemon_context)

    async def _stop(self, action: Action) -> None:
        if self._run is None:
            return
        if await self._end_daemon():
            await asyncio.sleep(action.seconds)
            self._start_daemon()

    async def _end_daemon(self) -> bool:
        """Ends it in good order."""
        if self._run is None:
            return False
        ended, self._run = self._run, None
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
        left = [task for task in asyncio.all_tasks() if getattr(task, "life", 0) == self._life]
        if left:
            await asyncio.wait(left, timeout=30)
        left = [task for task in left if not task.done()]
        if left:
            self._break("no task is left", ", ".join(task.get_name() for task in left))
        # Those of a life that ended by a crash are counted at the start, which a stop may have cut short.
        open_ones = self.reading.execute(
            "SELECT montage_id, step FROM attempts WHERE ended_at IS NULL AND started_at >= ?", (self._life_began,)
        ).fetchall()
        if open_ones:
            self._break("a stop in good order is no crash", f"attempts are left open: {open_ones}")
        self.loop.end_life(self._life)
        self.machine.end_process()
        self.say("-- the daemon has ended")
        return not self.outcome.broken

    def _how_it_ended(self) -> str:
        assert self._run is not None
        if self._run.cancelled():
            return "it was cancelled"
        error = self._run.exception()
        return "it ended by itself" if error is None else _told(error)

    async def _crash(self, action: Action) -> None:
        if self._run is None:
            return
        if self._run.done():
            self._break("the daemon runs", self._how_it_ended())
            return
        self._run = None
        self.loop.end_life(self._life)
        self.machine.end_process()
        await asyncio.sleep(action.seconds)
        self._start_daemon()

    async def _reload(self, action: Action) -> None:
        """The configuration is changed, and the daemon told so."""
        key = action.how if action.how == "settle_s" else f"stacks.{action.how}"
        self.settings = self._make_settings(**{key: action.seconds})
        self.loop.send_signal(signal.SIGHUP)

    async def _hold_journal(self, action: Action) -> None:
        """Another program holds the journal's lock, an sqlite3 shell for example."""
        if self._run is None or self._holding is not None or "_watcher" not in vars(self.daemon):
            return
        with contextlib.suppress(sqlite3.OperationalError):  # the daemon writes just now
            self._holding = sqlite3.Connection(self.journal, timeout=0, isolation_level=None)
            self._holding.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(action.seconds)
        self._release_journal()

    def _release_journal(self) -> None:
        if self._holding is not None:
            self._holding.close()
            self._holding = None

    async def _kill_workers(self, _: Action) -> None:
        with contextlib.suppress(AttributeError):  # not that far yet
            self.daemon._work.pool.executor.break_down()  # type: ignore[union-attr]

    async def _replay(self, action: Action) -> None:
        slot = self.slots[action.slot]
        paths = [str(slot.metafile)] if action.number else []
        body: dict[str, Any] = {"from": action.how, "paths": paths} if paths else {"from": action.how, "state": "all"}
        await self._ask_daemon(body)

    # --- what people do with files

    def _write(self, path: Path, content: bytes, *, replaced: bool = False) -> None:
        if self.acquisition in self._unmounted:
            raise OSError(f"{path} cannot be written: its disk is not mounted")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f".{path.name}.part") if replaced else path
        written.write_bytes(content)
        self.machine.changed(written)
        if replaced:
            written.replace(path)
        self._touched(path.parent)

    def _touched(self, directory: Path) -> None:
        """A directory has changed; sometimes an event tells the daemon."""
        for each in (directory, *directory.parents):
            if each.exists():
                self.machine.changed(each)
            if each == self.acquisition:
                break
        if self._chances.random() < 0.7:
            self._wake(directory)

    def _wake(self, directory: Path) -> None:
        watcher = getattr(self.daemon, "_watcher", None)
        if self._run is not None and watcher is not None:
            hint = directory / "no_metafile"  # the watcher then scans the directory
            self._daemon_context.run(self.loop.call_later, self._chances.random() * 0.3, watcher.look_again, hint)

    async def _write_slowly(self, path: Path, content: bytes, seconds: float) -> None:
        half = len(content) // 2
        self._write(path, content[:half])
        await asyncio.sleep(seconds)
        self._write(path, content)

    async def _land(self, action: Action) -> None:
        slot = self.slots[action.slot]
        slot.version = action.version
        images, metafile = slot.section.images(action.version), slot.section.metafile(action.version)
        late: dict[str, bytes] = {}
        first = next(iter(images))
        if action.how == "metafile first":
            late, images = images, {}
        elif action.how == "one late":
            late = {first: images.pop(first)}
        elif action.how == "one cut":
            late = {first: images[first]}
            images[first] = images[first][: len(images[first]) // 2]
        await self._copy(slot, images)
        if action.how == "slow":
            await self._write_slowly(slot.metafile, metafile, min(action.seconds, 10))
        else:
            self._write(slot.metafile, metafile)
        if late:
            await asyncio.sleep(action.seconds)
            await self._copy(slot, late)

    async def _copy(self, slot: Slot, images: dict[str, bytes]) -> None:
        for name, content in images.items():
            self._write(slot.directory / name, content)
            await asyncio.sleep(self._chances.random() * 0.02)

    async def _rewrite(self, action: Action) -> None:
        """The metafile alone is written again; images follow only where the version has others."""
        slot = self.slots[action.slot]
        await self._change(slot, action.version, action.how, action.seconds)

    async def _change(self, slot: Slot, version: int, how: str, seconds: float) -> None:
        slot.version = version
        for name, content in slot.section.images(version).items():
            path = slot.directory / name
            if not path.exists() or path.read_bytes() != content:
                self._write(path, content)
        content = slot.section.metafile(version)
        if how == "slow":
            await self._write_slowly(slot.metafile, content, seconds)
        else:
            self._write(slot.metafile, content, replaced=how == "replaced")

    async def _back_and_forth(self, action: Action) -> None:
        slot = self.slots[action.slot]
        before = slot.version
        for version in (action.version, before, *((action.number,) if action.number != before else ())):
            await self._change(slot, version, action.how, 0.0)
            await asyncio.sleep(action.seconds)

    async def _again(self, action: Action) -> None:
        """Everything is copied once more, as it was."""
        slot = self.slots[action.slot]
        for name, content in slot.section.images(slot.version).items():
            self._write(slot.directory / name, content, replaced=action.how == "replaced")
        self._write(slot.metafile, slot.section.metafile(slot.version), replaced=action.how == "replaced")

    async def _image_again(self, action: Action) -> None:
        """Images are acquired again, and the metafile stays as it is."""
        slot = self.slots[action.slot]
        for name, content in list(slot.section.images(action.version).items())[: action.number]:
            if (slot.directory / name).exists():
                self._write(slot.directory / name, content, replaced=action.how == "replaced")

    async def _unmount(self, action: Action) -> None:
        """A disk is gone for a while. What is written in its place meanwhile is hidden once it is back."""
        directory = self.acquisition if action.how == "acquisition" else self.mipmaps
        elsewhere = self.place / f"{directory.name}.unmounted"
        if not directory.exists() or elsewhere.exists():
            return
        directory.rename(elsewhere)
        self._unmounted.add(directory)
        await asyncio.sleep(action.seconds)
        shutil.rmtree(directory, ignore_errors=True)
        elsewhere.rename(directory)
        self._unmounted.discard(directory)

    async def _touch(self, action: Action) -> None:
        self.machine.changed(self.slots[action.slot].metafile)
        self._touched(self.slots[action.slot].directory)

    async def _rename(self, action: Action) -> None:
        slot = self.slots[action.slot]
        slot.moves += 1
        base = f"{slot.section.grid:06d}_{slot.section.roi_index}"
        self._move(slot, self.acquisition / (base if slot.moves % 3 == 0 else f"{base}_moved{slot.moves}"))

    def _move(self, slot: Slot, target: Path) -> None:
        if target.exists() or not slot.directory.exists() or self.acquisition in self._unmounted:
            return
        before, slot.directory = slot.directory, target
        before.rename(target)
        self.machine.moved(target)
        for parent in {before.parent, target.parent}:
            if parent != self.away:
                self._touched(parent)

    async def _rename_file(self, action: Action) -> None:
        slot = self.slots[action.slot]
        slot.moves += 1
        before, slot.name = slot.metafile, f"_metadata_renamed{slot.moves}.json"
        try:
            before.rename(slot.metafile)
        except OSError:
            slot.name = before.name
            raise
        self.machine.moved(slot.metafile)
        self._touched(slot.directory)

    async def _move_away(self, action: Action) -> None:
        slot = self.slots[action.slot]
        home = slot.directory
        self._move(slot, self.away / home.name)
        await asyncio.sleep(action.seconds)
        if slot.directory.parent == self.away:
            self._move(slot, home)

    async def _twin(self, action: Action) -> None:
        """The metafile comes a second time: as a conflict copy, in a copy of its directory, or by a link."""
        slot = self.slots[action.slot]
        self._twins += 1
        content = slot.metafile.read_bytes()
        twin = slot.metafile.with_name(f"_metadata_conflict{self._twins}.json")
        if action.how != "beside":
            twin = self.acquisition / f"copy{self._twins}" / slot.name
        if action.how == "elsewhere":
            for name in slot.section.images(slot.version):
                if (slot.directory / name).exists():
                    self._write(twin.parent / name, (slot.directory / name).read_bytes())
        if action.how == "link":
            twin.parent.mkdir()
            twin.hardlink_to(slot.metafile)
            self.machine.moved(twin)
            self._touched(twin.parent)
        else:
            self._write(twin, content)
        if action.seconds:
            await asyncio.sleep(action.seconds)
            twin.unlink(missing_ok=True)
            self._touched(twin.parent)

    async def _delete(self, action: Action) -> None:
        slot = self.slots[action.slot]
        if action.how == "metafile":
            slot.metafile.unlink(missing_ok=True)
            self._touched(slot.directory)
        else:
            shutil.rmtree(slot.directory, ignore_errors=True)
            self._touched(slot.directory.parent)

    async def _spoil(self, action: Action) -> None:
        """A section comes with an image that cannot be used; after a while all of it is copied again, or not."""
        slot = self.slots[action.slot]
        slot.version = action.version
        images = slot.section.images(action.version)
        first = next(iter(images))
        if action.how == "missing":
            del images[first]
            (slot.directory / first).unlink(missing_ok=True)
        elif action.how == "cut":
            images[first] = images[first][: len(images[first]) // 2]
        else:
            images[first] = tiff(1)[:4] + tiff(1)[4:].replace(b"\x08\x00", b"\x09\x00", 1)
        await self._copy(slot, images)
        self._write(slot.metafile, slot.section.metafile(action.version))
        await asyncio.sleep(action.seconds)
        if action.number:
            await self._again(Action(0, "again", action.slot, how="in place"))

    # --- what becomes of render-ws and of disks

    async def _misbehave(self, action: Action) -> None:
        how, _, match = action.how.partition(" ")
        kind, status = (FaultKind.STATUS, int(how)) if how.isdigit() else (FaultKind(how), 503)
        fault = Fault(match=match, kind=kind, status=status, seconds=action.seconds, times=action.number or None)  # type: ignore[arg-type]
        self.standin._misbehaviour.add(fault)
        await asyncio.sleep(action.seconds)
        faults, seen = self.standin._misbehaviour._faults, self.standin._misbehaviour._seen
        if fault in faults:
            index = next(index for index, each in enumerate(faults) if each is fault)
            del faults[index], seen[index]

    async def _go_away(self, action: Action) -> None:
        self.network.go_down()
        await asyncio.sleep(action.seconds)
        self.network.come_back()

    def _stack_name(self, action: Action) -> str:
        return self.stack_names[action.number % len(self.stack_names)]

    async def _lock(self, action: Action) -> None:
        name = self._stack_name(action)
        await self._ask_render("PUT", name, "/state/COMPLETE")
        await self._ask_render("PUT", name, "/state/READ_ONLY")
        stack = self.stack(name)
        if stack is None or stack.state is not State.READ_ONLY:
            return
        self._locked.add(name)
        if action.seconds:
            await asyncio.sleep(action.seconds)
            if name in self._locked:
                self._locked.discard(name)
                await self._ask_render("PUT", name, "/state/COMPLETE")

    async def _close(self, action: Action) -> None:
        await self._ask_render("PUT", self._stack_name(action), "/state/COMPLETE")

    async def _delete_tile(self, action: Action) -> None:
        name = self._stack_name(action)
        stack = self.stack(name)
        if stack is None or not stack.tiles:
            return
        tile_id = sorted(stack.tiles)[action.slot % len(stack.tiles)]
        await self._ask_render("DELETE", name, f"/tile/{tile_id}")
        if tile_id not in stack.tiles:
            self._note_losses(name, {tile_id})

    async def _delete_stack(self, action: Action) -> None:
        name = self._stack_name(action)
        stack = self.stack(name)
        tiles = set(stack.tiles) if stack else set()
        await self._ask_render("DELETE", name, "")
        if self.stack(name) is not stack:
            self._note_losses(name, tiles)

    def _note_losses(self, stack: str, tile_ids: set[str]) -> None:
        self.lost_by_others |= {(stack, tile_id) for tile_id in tile_ids}

    async def _fill_disk(self, action: Action) -> None:
        self.machine.disk_is_full = True
        await asyncio.sleep(action.seconds)
        self.machine.disk_is_full = False


def _next_check_s(row: Row) -> float:
    """When the images of a COMPLETE montage are looked at that have changed, as its age."""
    changed_at = max(image.stat().st_ctime for image in row.metafile.parent.glob("*.tif"))
    return next_check_s(changed_at - row.complete_at, RECHECK_S) or 0.0


def _told(error: BaseException | None) -> str:
    """An exception: what it says in the end, then where it came from."""
    innermost = error
    while isinstance(innermost, BaseExceptionGroup):
        innermost = innermost.exceptions[0]
    return f"{innermost!r}\n{''.join(traceback.format_exception(error))}"


def make_journal(path: Path) -> None:
    """An empty journal, to begin stories with: the migrations take longer than many a story."""
    with contextlib.closing(connect(path)):
        pass
