"""A small daemon: journal, pipeline, scan, recheck and metafiles are real.

The format of metafiles, the steps and the stacks are toys, so that a thousand sequences of renames, copies and rewrites
take seconds.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import UNFINISHED, MontageState
from daemon.pipeline.changes.recheck import Recheck
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.order.retry import MAX_DELAY_S
from daemon.pipeline.order.schedule import Ticket
from daemon.pipeline.runner import PipelineRunner
from daemon.pipeline.settling.metafile_cache import MetafileCache
from daemon.pipeline.settling.settle import Ignored, NotYet, Settler
from daemon.pipeline.steps.section import MetafileChanged, MetafileGone
from daemon.watching.scan import NameRule, Tree
from handlers.errors import Evidence, ImageFault, ImagesMissing, MetafileFault
from handlers.identity import FileIdentity

RAW, MIPS = "em/test/raw", "em/test/mips"
ARRIVAL_TIMEOUT_S = 250.0
MAX_TURNS = 500
"""Limit of steps at one moment; more mean that the pipeline repeats a step without end."""


def text_of(tiles: str, *, z: int = 1, note: str = "") -> str:
    """Return a toy metafile with its tiles and its z. A note changes the content and keeps the tiles."""
    return f"tiles {tiles}\nz {z}\n{note}"


BAD = "bad\n"
LENS_SET = "lens set\n"
"""Content that the watch ignores."""
AWAITED = "awaits an image\n"
"""Added to a content: one of its images is missing."""


class ToySettler(Settler):
    """Reads metafiles like the real settler; understands only toy contents."""

    world: "World"

    async def examine(
        self, montage: Montage, watch: Any, content: bytes, digest: str, render: object
    ) -> Settled | NotYet | Ignored:
        await self.world.run_hook("examine", montage.metafile)
        text = content.decode()
        if text.startswith(LENS_SET):
            return Ignored("a lens-correction set")
        if not text.startswith("tiles "):
            raise MetafileFault(str(montage.metafile), "is not a metafile")
        if AWAITED in text and not self.world.image.exists():
            if self._age_s(montage) > watch.arrival_timeout_s:
                fault = ImagesMissing(str(montage.metafile), "an image has not arrived")
                raise fault.with_evidence(Evidence(self.world.image, None))
            return NotYet("an image is not there yet", 5.0)
        tiles, z, z_line = tiles_of(text), 1.0, text.split("\n")[1]
        z = float(z_line.split()[1])
        return Settled(digest, z, RAW, MIPS, tuple(f"{tile}.{z}" for tile in sorted(tiles)), ())


def tiles_of(text: str) -> set[str]:
    return set(text.split("\n")[0].split()[1:])


def ids_of(text: str) -> set[str]:
    """Return the tile ids of a content."""
    z = float(text.split("\n")[1].split()[1])
    return {f"{tile}.{z}" for tile in tiles_of(text)}


class ToyGate:
    """A gate before a render-ws that is always available."""

    is_closed_circuit = True
    fault = None

    is_open = True

    def admit(self, work: object) -> bool:
        return True

    def leave(self, work: object) -> None: ...
    def worked(self) -> None: ...
    async def failed(self, work: object, fault: object, written: object = None) -> None: ...


class ToySteps:
    """Steps whose stacks are dictionaries: tile id -> metafile of the tile."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._missing_since: dict[int, float] = {}
        self.metafiles = MetafileCache()

    def stop(self) -> None: ...

    async def section(self, montage: Montage, watch: Any) -> Montage:
        world = self._world
        await world.run_hook("section", montage.metafile)
        try:
            content = montage.metafile.read_bytes()
        except OSError:
            since = self._missing_since.setdefault(montage.id, world.now)
            if world.now - since <= watch.arrival_timeout_s:
                raise MetafileGone(str(montage.metafile), "was deleted after it settled") from None
            fault = MetafileFault(str(montage.metafile), "was deleted after it settled, and has been missing for long")
            raise fault.with_evidence(Evidence(montage.metafile, None)) from None
        self._missing_since.pop(montage.id, None)
        if hashlib.sha256(content).hexdigest() != montage.digest:
            raise MetafileChanged(str(montage.metafile), "changed after it settled")
        return montage

    async def ingest(self, montage: Montage) -> None:
        await self._put(montage, RAW)

    async def make_mipmaps(self, montage: Montage) -> None:
        if str(montage.metafile) in self._world.broken:
            raise ImageFault(str(montage.metafile), "an image is broken")

    async def apply(self, montage: Montage) -> None:
        await self._put(montage, MIPS)

    async def _put(self, montage: Montage, stack: str) -> None:
        world = self._world
        unwanted = await world.unwanted(montage, stack)
        world.closed.discard(stack)
        world.keeper.wanted.add(stack)
        world.stacks[stack] |= dict.fromkeys(await world.journal.tile_ids(montage.id), str(montage.metafile))
        for tile_id in unwanted:
            world.stacks[stack].pop(tile_id, None)


class ToyKeeper:
    """Closes stacks when the test calls `close`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.wanted: set[str] = set()

    def request_close_for(self, montage: Montage) -> None:
        self.wanted |= set(montage.stacks)

    def wake(self) -> None: ...

    async def resume(self) -> None:
        """Request the close of the stacks that are open in the journal."""
        self.wanted |= {RAW, MIPS} - self._world.closed

    async def close(self) -> bool:
        """Close the requested stacks; return whether there were any."""
        closing, self.wanted = self.wanted, set()
        for stack in sorted(closing):
            applied = await self._world.journal.montages(states=[MontageState.APPLIED], stack=stack)
            await self._world.journal.record_closing(stack, [montage.id for montage in applied])
            self._world.closed.add(stack)
        return bool(closing)


class World:
    """The files on disk, the stacks, and the daemon between them."""

    def __init__(self, root: Path) -> None:
        self.root = root / "acq"
        self.root.mkdir()
        self.now = 1_000.0
        self.stacks: dict[str, dict[str, str]] = {RAW: {}, MIPS: {}}
        self.closed: set[str] = {RAW, MIPS}
        self.image = self.root / "image"
        """The image that contents with AWAITED wait for."""
        self.broken: set[str] = set()
        """Paths of metafiles that have an unreadable image."""
        self.observable = True
        self._actions: dict[tuple[str, Path], Callable[[], Awaitable[object]]] = {}
        self._journal_path = root / "journal.sqlite"
        self.settings = Settings.model_validate(
            {
                "render": {"url": "http://nowhere:1/render-ws/v1", "owner": "em", "project": "test"},
                "watch": [
                    {
                        "name": "w",
                        "directory": self.root,
                        "settle_s": 0.0,
                        "z": {"rule": "grid"},
                        "scan_interval_s": 10.0,
                        "arrival_timeout_s": ARRIVAL_TIMEOUT_S,
                        "stacks": {"raw": "raw", "mipmapped": "mips"},
                        "mipmaps": {"output_dir": root / "mips"},
                    }
                ],
            }
        )
        self.watch = self.settings.watch[0]

    # --- the daemon

    async def start(self) -> None:
        """Open the journal and make a daemon that knows nothing else."""
        self.journal = Journal(self._journal_path, clock=lambda: self.now)
        await self.journal.__aenter__()
        self.keeper, self.gate = ToyKeeper(self), ToyGate()
        parts: Any = {"steps": ToySteps(self), "keeper": self.keeper, "gate": self.gate}
        disks: Any = SimpleNamespace(is_usable=lambda directory: True)
        workers: Any = SimpleNamespace(is_open=True)
        settler = ToySettler(lambda: self.now, lambda: self.now)
        settler.world = self
        self.pipeline = PipelineRunner(
            settings=lambda: self.settings,
            journal=self.journal,
            settler=settler,
            disks=disks,
            workers=workers,
            metrics=Metrics(),
            is_observable=lambda _: self.observable,
            rescan=lambda metafile: self.tree.mark_changed(str(metafile)),
            clock=lambda: self.now,
            **parts,
        )
        self.recheck = Recheck(
            lambda: self.settings,
            self.journal,
            is_observable=lambda _: self.observable,
            enqueue=self.pipeline.enqueue,
            rescan=lambda metafile: self.tree.mark_changed(str(metafile)),
        )
        self.tree = Tree(str(self.root), NameRule("_metadata_*.json"))
        await self.pipeline.resume()

    async def stop(self) -> None:
        await self.journal.__aexit__(None, None, None)

    async def restart(self) -> None:
        """End the process and start the next one."""
        await self.stop()
        await self.start()

    async def scan(self) -> None:
        """Notice every metafile that is new or has changed."""
        for found in self.tree.pass_over(everything=True):
            await self.see(Path(found.path))

    async def see(self, path: Path) -> None:
        """Notice a metafile with its present identity."""
        if (sighting := sighting_of(path)) is not None:
            await self.pipeline.notice(sighting)

    async def turn(self) -> bool:
        """Perform one step that is due; return whether there was one."""
        pipeline, queue = self.pipeline, self.pipeline._queue
        started: list[Ticket] = []

        def may_start(ticket: Ticket) -> bool:
            if started or not pipeline._may_start(ticket):
                return False
            started.append(ticket)
            return True

        for ticket in queue.take(pipeline._is_open, may_start):
            task = asyncio.ensure_future(pipeline._run_ticket(ticket))
            queue.begin(ticket, task)
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        await pipeline._failures.notice_changed_metafiles()
        return bool(started)

    async def run_due(self) -> None:
        """Perform every step that is due now, and the steps that follow at once."""
        for _ in range(MAX_TURNS):
            if not await self.turn():
                return
        raise AssertionError(f"steps are still due after {MAX_TURNS} at {self.now}: {await self.summary()}")

    async def run_for(self, seconds: float) -> None:
        """Run the daemon for some time without scans and rechecks."""
        end = self.now + seconds
        while True:
            await self.run_due()
            await self.keeper.close()
            following = self.pipeline._queue.next_time()
            if following is None or following > end:
                break
            self.now = max(self.now, following)
        self.now = end

    async def work(self, seconds: float = 60.0) -> None:
        """Run the daemon for some time, with scans, rechecks and closes."""
        end = self.now + seconds
        while self.now < end:
            await self.scan()
            await self.recheck.check()
            await self.run_for(min(self.watch.scan_interval_s, end - self.now))

    async def finish(self) -> None:
        """Run the daemon until no work is left, including work that fails after a time-out."""
        for _ in range(4):
            await self.work(ARRIVAL_TIMEOUT_S / 2 + 1)
        last = self.now + 4 * MAX_DELAY_S
        while len(self.pipeline._queue) and self.now < last:
            await self.work()

    # --- actions of users

    def path(self, name: str, number: int = 1) -> Path:
        """Return the path of a metafile in a directory of this name."""
        return self.root / name / f"_metadata_{number}_.json"

    def write(self, path: Path, text: str) -> None:
        """Write a metafile under another name and rename it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)

    def move(self, source: str, target: str) -> None:
        (self.root / source).rename(self.root / target)

    def copy(self, source: str, target: str) -> None:
        shutil.copytree(self.root / source, self.root / target, dirs_exist_ok=True)

    def link(self, source: str, target: str) -> None:
        shutil.copytree(self.root / source, self.root / target, copy_function=os.link)

    def hide_change(self, path: Path) -> None:
        """Hide a change from the scan, like file times that are too coarse."""
        self.tree._files.setdefault(str(path.parent), {})[path.name] = FileIdentity.of(path.lstat())

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name)

    def when(self, step: str, path: Path, action: Callable[[], Awaitable[object]]) -> None:
        """Call a function once, when a metafile is next examined ("examine") or read for a step ("section")."""
        self._actions[step, path] = action

    async def run_hook(self, step: str, path: Path) -> None:
        action = self._actions.pop((step, path), None)
        if action is not None:
            await action()

    # --- results

    async def unwanted(self, montage: Montage, stack: str) -> Collection[str]:
        return await self.journal.unwanted_tile_ids(montage, stack)

    async def montages(self) -> list[Montage]:
        return await self.journal.montages(limit=10_000)

    async def at(self, path: Path) -> list[Montage]:
        """Return the montages of a path that are not superseded."""
        rows = await self.journal.montages(metafile=path)
        return [row for row in rows if row.state is not MontageState.SUPERSEDED]

    async def states(self) -> dict[str, str]:
        """Return directory of each metafile -> states of its montages; superseded ones only if all are."""
        found: dict[str, list[Montage]] = {}
        for row in sorted(await self.montages(), key=lambda each: each.id):
            found.setdefault(row.metafile.parent.name, []).append(row)
        live = {name: [row for row in rows if row.state is not MontageState.SUPERSEDED] for name, rows in found.items()}
        return {name: " ".join(row.state for row in rows) or "superseded" for name, rows in live.items()}

    async def summary(self) -> list[str]:
        """Describe all montages."""
        return [
            f"{row.id} {row.metafile.parent.name}/{row.metafile.name} {row.digest and row.digest[:4]} {row.state}"
            f" {row.fault or row.waiting_for or ''}"
            for row in await self.montages()
        ]

    async def unfinished(self) -> list[Montage]:
        return [row for row in await self.montages() if row.state in UNFINISHED]


def sighting_of(path: Path) -> Sighting | None:
    """Return a sighting of the present metafile; None if it is missing."""
    try:
        return Sighting("w", path, FileIdentity.of(path.lstat()), FoundBy.SCAN)
    except FileNotFoundError:
        return None
