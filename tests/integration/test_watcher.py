"""The watcher over real directories: each file is sighted once, with or without an event, and health shows how."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from watchdog.utils import BaseThread

from daemon.montages.sighting import FoundBy
from daemon.system.locks import lock_root
from daemon.watching.blocking_calls import RootCalls
from daemon.watching.event_hints import HintBox, open_hints
from daemon.watching.mounts import Mount, read_mounts
from daemon.watching.root import RootScanner
from daemon.watching.root_watch import Timing
from daemon.watching.roots import RootStatus, WatchMode, WatchRoot
from daemon.watching.watcher import Watcher
from handlers.errors import SettingsFault, StorageFault
from tests.integration.watchdog_hints import EMITTERS

QUICK = Timing(coalesce_s=0.02, grace_s=0.3, granularity_s=0.3, stop_s=1.0)
IMPATIENT = replace(QUICK, stuck_s=0.5, opening_s=0.5)
"""For file servers that do not answer."""
DEADLINE_S = 60.0
NEVER_S = 3_600.0
OFTEN_S = 0.15
HERE = Path(__file__).resolve()


class Seen:
    """Receives sightings, and waits for them with a deadline."""

    def __init__(self):
        self.sightings = []
        self.faults = []
        self._arrived = asyncio.Condition()

    async def __call__(self, sighting):
        if self.faults:
            raise self.faults.pop(0)
        async with self._arrived:
            self.sightings.append(sighting)
            self._arrived.notify_all()

    @property
    def paths(self):
        return [sighting.path for sighting in self.sightings]

    def last(self, path):
        return [sighting for sighting in self.sightings if sighting.path == path][-1]

    async def until(self, holds):
        async with asyncio.timeout(DEADLINE_S), self._arrived:
            await self._arrived.wait_for(holds)

    async def all_of(self, paths):
        wanted = set(paths)
        await self.until(lambda: wanted <= set(self.paths))

    async def whole(self, path):
        """Wait until the file was sighted with its present size; return its last sighting."""
        size = path.stat().st_size
        whole = path, size
        await self.until(lambda: any((each.path, each.identity.size) == whole for each in self.sightings))
        return self.last(path)


class Silent:
    """Accepts every watch and reports no event, like inotify on a share that another machine writes to."""

    def __init__(self, root, accepts, sink):
        self.sink = sink

    def watch(self, directory):
        pass

    def is_alive(self):
        return True

    def descriptors(self):
        return None

    def close(self):
        pass


def root_at(directory, **changes):
    """Return a root whose next scan comes too late for a test, so that only events find files."""
    root = WatchRoot("temca2", directory, scan_interval_s=NEVER_S, full_scan_interval_s=NEVER_S)
    return replace(root, **changes)


@contextlib.asynccontextmanager
async def watching(*roots, seen=None, **options):
    seen = seen or Seen()
    watcher = Watcher(roots, seen, timing=options.pop("timing", QUICK), **options)
    task = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(60):
            caught_up = asyncio.create_task(watcher.caught_up.wait())
            await asyncio.wait([task, caught_up], return_when=asyncio.FIRST_COMPLETED)
            caught_up.cancel()
        if task.done():
            task.result()
        yield watcher, seen
        assert not task.done(), "the watcher ended by itself"
    finally:
        task.cancel()
        await asyncio.wait([task])


async def poll_until(holds):
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await asyncio.sleep(0.02)


def metafile(directory, name="_metadata_1_.json", text="{}"):
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


def covers(watcher, directories, emitter):
    """Whether the kernel watches all directories; with watchdog, which does not show it, whether all are known."""
    health = only(watcher)
    watched = directories if emitter is open_hints else 0
    return (health.directories_seen, health.directories_watched) == (directories, watched)


def only(watcher):
    (health,) = watcher.health()
    return health


@pytest.fixture(autouse=True)
def _no_thread_stays():
    """Fail a test after which a thread of watchdog runs on."""
    yield
    deadline = time.monotonic() + DEADLINE_S
    while stray := [each for each in threading.enumerate() if isinstance(each, BaseThread)]:
        assert time.monotonic() < deadline, stray
        time.sleep(0.02)


@pytest.fixture(params=["temwatch", *EMITTERS])
def emitter(request):
    """OpenHints of temwatch's emitter and of the emitters of watchdog."""
    return {"temwatch": open_hints, **EMITTERS}[request.param]


# --- files at the start


async def test_metafiles_that_exist_at_the_start_are_sighted_once_in_the_order_of_names(tmp_path, emitter):
    names = ["_metadata_2018_b_.json", "_metadata_2017_a_.json", "_metadata_2019_c_.json"]
    for number, name in enumerate(names):
        metafile(tmp_path / str(number), name)
    metafile(tmp_path, "_Metadata_1_.json")
    async with watching(root_at(tmp_path), open_hints=emitter) as (watcher, seen):
        assert [path.name for path in seen.paths] == sorted(names)
        assert {each.found_by for each in seen.sightings} == {FoundBy.START}
        assert watcher.watching.is_set()
        assert only(watcher).status is RootStatus.WATCHING
        assert only(watcher).reasons == ()
        assert covers(watcher, 4, emitter)


async def test_watching_changes_nothing_in_the_directory(tmp_path, emitter):
    root = tmp_path / "root"
    metafile(root / "roi")
    before = {path: path.lstat().st_mtime_ns for path in (root, *root.rglob("*"))}
    async with watching(root_at(root, scan_interval_s=OFTEN_S), state_directory=tmp_path, open_hints=emitter) as (
        watcher,
        _,
    ):
        first = only(watcher).last_scan_at
        await poll_until(lambda: only(watcher).last_scan_at > first)
    assert {path: path.lstat().st_mtime_ns for path in (root, *root.rglob("*"))} == before


# --- files that arrive


async def test_a_created_file_is_sighted_at_once_by_its_event(tmp_path, emitter):
    async with watching(root_at(tmp_path), open_hints=emitter) as (watcher, seen):
        path = metafile(tmp_path)
        sighting = await seen.whole(path)
        assert sighting.found_by is FoundBy.EVENT
        assert (sighting.watch, sighting.identity.inode) == ("temca2", path.stat().st_ino)
        assert only(watcher).found_by_event >= 1
        assert only(watcher).found_only_by_scan == 0


async def test_a_file_written_slowly_is_sighted_again_when_it_is_closed(tmp_path, emitter):
    async with watching(root_at(tmp_path), open_hints=emitter) as (_, seen):
        path = tmp_path / "_metadata_1_.json"
        with path.open("w") as file:
            await seen.all_of([path])
            for part in ("{", '"data"', ": []}"):
                file.write(part)
                file.flush()
        assert (await seen.whole(path)).identity.size == 12


async def test_a_file_renamed_into_place_is_sighted(tmp_path, emitter):
    async with watching(root_at(tmp_path), open_hints=emitter) as (_, seen):
        part = metafile(tmp_path, "part.tmp")
        path = part.rename(tmp_path / "_metadata_1_.json")
        assert (await seen.whole(path)).found_by is FoundBy.EVENT
        assert set(seen.paths) == {path}


async def test_a_file_rewritten_in_place_is_sighted_again(tmp_path, emitter):
    path = metafile(tmp_path)
    async with watching(root_at(tmp_path), open_hints=emitter) as (_, seen):
        path.write_text('{"again": true}')
        await seen.whole(path)
        assert len(seen.sightings) >= 2


async def test_a_populated_directory_that_is_moved_in_is_scanned_and_watched(tmp_path, emitter):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    metafile(outside / "0" / "roi")
    metafile(outside / "1" / "roi")
    async with watching(root_at(root, scan_interval_s=OFTEN_S), open_hints=emitter) as (watcher, seen):
        session = outside.rename(root / "session")
        await seen.all_of(session / each / "roi" / "_metadata_1_.json" for each in "01")
        later = metafile(session / "0" / "roi", "_metadata_2_.json")
        await seen.whole(later)
        await poll_until(lambda: covers(watcher, 6, emitter))


async def test_events_of_a_renamed_directory_are_reported_under_its_new_name(tmp_path, emitter):
    metafile(tmp_path / "old" / "roi")
    async with watching(root_at(tmp_path), open_hints=emitter) as (_, seen):
        (tmp_path / "old").rename(tmp_path / "new")
        await seen.all_of([tmp_path / "new" / "roi" / "_metadata_1_.json"])
        later = metafile(tmp_path / "new" / "roi", "_metadata_2_.json")
        assert (await seen.whole(later)).found_by is FoundBy.EVENT


async def test_a_directory_whose_watch_was_refused_gets_one_at_a_later_scan(tmp_path):
    refused = set()

    class RefusesOnce:
        def __init__(self, root, accepts, sink):
            self._hints = open_hints(root, accepts, sink)

        def __getattr__(self, name):
            return getattr(self._hints, name)

        def watch(self, directory):
            if directory in refused:
                self._hints.watch(directory)
            refused.add(directory)

    metafile(tmp_path / "a" / "b")
    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), open_hints=RefusesOnce) as (watcher, _):
        await poll_until(lambda: only(watcher).directories_watched == only(watcher).directories_seen == 3)


@pytest.mark.parametrize("emitter", ["temwatch", "watchdog_polling"], indirect=True)
async def test_directories_made_in_a_burst_three_levels_deep_are_all_scanned(tmp_path, emitter):
    """Without watchdog's inotify emitter: its thread may end with an exception."""
    async with watching(root_at(tmp_path, scan_interval_s=0.5), open_hints=emitter) as (watcher, seen):
        paths = [metafile(tmp_path / f"{n % 5}" / f"{n % 20}" / f"{n}") for n in range(200)]
        await seen.all_of(paths)
        await poll_until(lambda: only(watcher).metafiles_seen == 200)
        await poll_until(lambda: covers(watcher, 226, emitter))


@pytest.mark.slow
async def test_a_thousand_directories_three_levels_deep_are_all_scanned(tmp_path):
    async with watching(root_at(tmp_path, scan_interval_s=1.0)) as (watcher, seen):
        paths = [metafile(tmp_path / f"{n % 10}" / f"{n % 100}" / f"{n}") for n in range(1_000)]
        await seen.all_of(paths)
        await poll_until(lambda: only(watcher).directories_watched == only(watcher).directories_seen == 1_111)


async def test_a_root_that_is_a_link_keeps_its_configured_name(tmp_path, emitter):
    (tmp_path / "array3").mkdir()
    link = tmp_path / "temca2"
    link.symlink_to("array3")
    async with watching(root_at(link, scan_interval_s=OFTEN_S), open_hints=emitter) as (watcher, seen):
        path = metafile(link / "roi")
        await seen.whole(path)
        assert only(watcher).directory == link


async def test_names_that_are_not_utf8_are_sighted(tmp_path, emitter):
    async with watching(root_at(tmp_path), open_hints=emitter) as (_, seen):
        path = metafile(tmp_path / os.fsdecode(b"caf\xe9"), os.fsdecode(b"_metadata_\xff_.json"))
        await seen.whole(path)


async def test_several_roots_are_watched_each_with_its_own_pattern(tmp_path, emitter):
    first = root_at(tmp_path / "a", name="a")
    second = root_at(tmp_path / "b", name="b", pattern="*.meta")
    for root in (first, second):
        root.directory.mkdir()
    async with watching(first, second, open_hints=emitter) as (_, seen):
        paths = [metafile(first.directory), metafile(second.directory, "x.meta")]
        metafile(first.directory, "y.meta")
        await seen.all_of(paths)
        assert {(each.watch, each.path) for each in seen.sightings} == {("a", paths[0]), ("b", paths[1])}


# --- files without an event


async def test_scans_find_files_without_an_event_and_the_root_falls_back_to_polling(tmp_path):
    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), open_hints=Silent) as (watcher, seen):
        assert only(watcher).status is RootStatus.WATCHING
        for number in range(5):
            path = metafile(tmp_path / str(number))
            assert (await seen.whole(path)).found_by is FoundBy.SCAN
            await poll_until(lambda expected=number + 1: only(watcher).found_only_by_scan >= expected)
        health = only(watcher)
        assert health.status is RootStatus.POLLING
        assert health.found_only_by_scan == 5
        assert {each.mode for each in health.modes} == {WatchMode.POLL}
        assert any("arrived without an event" in reason for reason in health.reasons)
        path.write_text("rewritten in place, found by a scan that does not rely on events")
        await seen.whole(path)


async def test_events_of_other_files_do_not_hide_that_events_are_missing(tmp_path):
    opened = []

    class ReportsOtherFiles(Silent):
        def __init__(self, root, accepts, sink):
            super().__init__(root, accepts, sink)
            opened.append(self)

    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), open_hints=ReportsOtherFiles) as (watcher, seen):
        for number in range(4):
            path = metafile(tmp_path / str(number))
            opened[-1].sink.file(str(tmp_path / f"_metadata_nowhere{number}_.json"))
            await seen.whole(path)
            await poll_until(lambda expected=number + 1: only(watcher).found_only_by_scan >= expected)
        assert only(watcher).status is RootStatus.POLLING


async def test_a_polled_root_finds_new_and_rewritten_files_without_any_watch(tmp_path):
    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S, mode=WatchMode.POLL)) as (watcher, seen):
        path = metafile(tmp_path / "roi")
        assert (await seen.whole(path)).found_by is FoundBy.SCAN
        path.write_text("rewritten in place")
        await seen.whole(path)
        assert only(watcher).status is RootStatus.POLLING
        assert only(watcher).directories_watched == 0
        assert only(watcher).reasons == ()


async def test_a_network_file_system_is_polled_by_default(tmp_path):
    def mounts():
        return (Mount(str(tmp_path), "nfs4"),)

    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), read_mounts=mounts) as (watcher, seen):
        await seen.whole(metafile(tmp_path))
        assert [(each.file_system, each.mode) for each in only(watcher).modes] == [("nfs4", WatchMode.POLL)]
        assert only(watcher).status is RootStatus.POLLING
    async with watching(root_at(tmp_path, mode=WatchMode.EVENTS), read_mounts=mounts) as (watcher, _):
        assert only(watcher).status is RootStatus.WATCHING


async def test_a_remote_mount_below_a_local_root_is_polled_and_the_rest_is_not(tmp_path):
    share, local = tmp_path / "share", tmp_path / "local"
    paths = [metafile(share / "roi"), metafile(local / "roi")]
    for path in paths:
        os.utime(path.parent, (1_500_000_000, 1_500_000_000))
    mounts = [Mount("/", "ext4"), Mount(str(share), "cifs")]
    root = root_at(tmp_path, scan_interval_s=OFTEN_S)
    async with watching(root, open_hints=Silent, read_mounts=lambda: tuple(mounts)) as (watcher, seen):
        for path in paths:
            path.write_text("rewritten in place, and no event")
        await seen.whole(paths[0])
        passes = only(watcher).last_scan_at
        await poll_until(lambda: only(watcher).last_scan_at > passes)
        assert seen.paths.count(paths[1]) == 1
        assert [each.mode for each in only(watcher).modes] == [WatchMode.EVENTS, WatchMode.POLL]
        mounts.pop()
        await poll_until(lambda: any("no longer mounted" in reason for reason in only(watcher).reasons))


async def test_a_full_scan_finds_a_file_rewritten_in_place_without_an_event(tmp_path):
    path = metafile(tmp_path)
    os.utime(tmp_path, (1_500_000_000, 1_500_000_000))
    async with watching(root_at(tmp_path, full_scan_interval_s=0.3), open_hints=Silent) as (_, seen):
        path.write_text("rewritten in place")
        assert (await seen.whole(path)).found_by is FoundBy.SCAN


async def test_rescan_reports_a_metafile_again_even_if_no_scan_found_it_missing(tmp_path):
    path = metafile(tmp_path / "roi")
    async with watching(root_at(tmp_path), open_hints=Silent) as (watcher, seen):
        await seen.whole(path)
        (tmp_path / "roi").rename(tmp_path / "away")
        (tmp_path / "away").rename(tmp_path / "roi")
        watcher.rescan(path)
        await seen.until(lambda: seen.paths.count(path) == 2)
        other = metafile(tmp_path / "roi", "_metadata_2_.json")
        watcher.rescan(other)
        await seen.whole(other)
        assert seen.paths.count(path) == 2


async def test_a_root_whose_watch_is_refused_is_polled_and_health_names_the_limit_to_raise(tmp_path):
    def refuse(root, accepts, sink):
        raise OSError(28, "inotify watch limit reached")

    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), open_hints=refuse) as (watcher, seen):
        await seen.whole(metafile(tmp_path))
        assert only(watcher).status is RootStatus.POLLING
        (reason,) = only(watcher).reasons
        assert "watch limit reached" in reason
        assert "raise fs.inotify.max_user_watches" in reason


async def test_watching_threads_that_die_are_replaced(tmp_path):
    opened = []

    class DiesOnce(Silent):
        def __init__(self, root, accepts, sink):
            super().__init__(root, accepts, sink)
            opened.append(self)

        def is_alive(self):
            return self is not opened[0]

    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), open_hints=DiesOnce):
        await poll_until(lambda: len(opened) == 2)


LIMITED = """
import asyncio, json, sys
from pathlib import Path
from daemon.watching.root_watch import Timing
from daemon.watching.roots import WatchRoot
from daemon.watching.watcher import Watcher

async def main(root, count):
    seen = set()
    async def note(sighting):
        seen.add(sighting.path)
    timing = Timing(coalesce_s=0.02, grace_s=0.3, granularity_s=0.3)
    watcher = Watcher([WatchRoot("temca2", root, scan_interval_s=0.3)], note, timing=timing)
    task = asyncio.create_task(watcher.run())
    await watcher.caught_up.wait()
    for number in range(count):
        (root / str(number)).mkdir()
        (root / str(number) / "_metadata_1_.json").write_text("{}")
    async with asyncio.timeout(20):
        while len(seen) < count or not any("limit" in reason for reason in watcher.health()[0].reasons):
            await asyncio.sleep(0.05)
    (root / str(count - 1) / "_metadata_1_.json").write_text("rewritten in place, where nothing is watched")
    (root / str(count - 1) / "_metadata_2_.json").write_text("{}")
    async with asyncio.timeout(20):
        while len(seen) < count + 1:
            await asyncio.sleep(0.05)
    (health,) = watcher.health()
    print(json.dumps({"seen": len(seen), "status": health.status, "reasons": health.reasons,
                      "watched": health.directories_watched, "directories": health.directories_seen}))
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_past_the_watch_limit_everything_is_found_and_health_counts_unwatched_directories(tmp_path):
    limit = ["unshare", "-U", "-r", "sh", "-c", 'echo 60 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*limit, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces, which limit watches for one test alone, are not permitted here")
    done = subprocess.run(
        [*limit, sys.executable, "-c", LIMITED, str(tmp_path), "200"],
        cwd=HERE.parents[2],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["seen"] == 201
    assert report["directories"] == 201
    assert report["watched"] <= 60
    assert report["reasons"][0] == (
        f"watch limit reached: {report['watched']} of 201 directories watched; raise fs.inotify.max_user_watches"
    )


FLOOD = """
import sys
from pathlib import Path
directory, count = Path(sys.argv[1]), int(sys.argv[2])
for number in range(count):
    (directory / f"{number}.tif").touch()
    if number == count // 2:
        (directory / "_metadata_1_.json").write_text("{}")
"""


@pytest.fixture
def memory_path(tmp_path):
    """A directory in memory, where files are made faster than events are read; on disk where there is no memory."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


async def test_metafiles_in_a_flood_of_files_are_sighted(memory_path):
    directories = [memory_path / "a", memory_path / "b"]
    for directory in directories:
        directory.mkdir()
    async with watching(root_at(memory_path, scan_interval_s=2.0)) as (watcher, seen):
        writers = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, str(directory), "20000")
            for directory in directories
        ]
        for writer in writers:
            assert await writer.wait() == 0
        paths = [directory / "_metadata_1_.json" for directory in directories]
        for path in paths:
            await seen.whole(path)
        assert set(seen.paths) == set(paths)
        assert only(watcher).status is RootStatus.WATCHING


async def test_an_overflow_causes_a_scan_at_once_and_is_reported(tmp_path):
    opened = []

    def open_hints(root, accepts, sink):
        opened.append(Silent(root, accepts, sink))
        return opened[-1]

    async with watching(root_at(tmp_path), open_hints=open_hints) as (watcher, seen):
        path = metafile(tmp_path)
        await asyncio.to_thread(opened[-1].sink.overflow)
        assert (await seen.whole(path)).found_by is FoundBy.SCAN
        assert only(watcher).overflows == 1
        assert any("overflowed once" in reason for reason in only(watcher).reasons)


# --- missing and changed roots


async def test_a_missing_root_is_watched_when_it_appears(tmp_path, emitter):
    root = root_at(tmp_path / "later", scan_interval_s=OFTEN_S)
    async with watching(root, open_hints=emitter) as (watcher, seen):
        assert only(watcher).status is RootStatus.UNREACHABLE
        assert not watcher.is_observable("temca2")
        (reason,) = only(watcher).reasons
        assert reason == "cannot be accessed: No such file or directory (check that the disk or mount is there)"
        path = metafile(root.directory)
        await seen.whole(path)
        await poll_until(lambda: only(watcher).status is RootStatus.WATCHING)
        assert watcher.is_observable("temca2")


async def test_a_root_that_is_removed_and_created_again_is_watched_again(tmp_path, emitter):
    root = root_at(tmp_path / "root", scan_interval_s=OFTEN_S)
    metafile(root.directory)
    async with watching(root, open_hints=emitter) as (watcher, seen):
        shutil.rmtree(root.directory)
        await poll_until(lambda: only(watcher).status is RootStatus.UNREACHABLE)
        await seen.whole(metafile(root.directory, "_metadata_2_.json"))
        await poll_until(lambda: only(watcher).status is RootStatus.WATCHING)
        assert covers(watcher, 1, emitter)
        later = metafile(root.directory, "_metadata_3_.json")
        assert (await seen.whole(later)).found_by in {FoundBy.EVENT, FoundBy.SCAN}
        await poll_until(lambda: only(watcher).found_by_event >= 1)


async def test_a_root_that_is_unmounted_and_mounted_again_causes_no_new_sightings(tmp_path, emitter):
    """A rename of the directory stands for the unmount."""
    root, aside = tmp_path / "root", tmp_path / "aside"
    paths = [metafile(root / str(number)) for number in range(3)]
    async with watching(root_at(root, scan_interval_s=OFTEN_S), open_hints=emitter) as (watcher, seen):
        root.rename(aside)
        root.mkdir()
        await poll_until(lambda: only(watcher).status is RootStatus.PAUSED)
        assert not watcher.is_observable("temca2")
        assert "suddenly empty, it contained 3 metafiles in 3 directories" in only(watcher).reasons[0]
        root.rmdir()
        aside.rename(root)
        await poll_until(lambda: only(watcher).status is RootStatus.WATCHING)
        assert Counter(seen.paths) == Counter(paths)


async def test_a_root_that_loses_all_its_metafiles_is_paused_until_one_is_back(tmp_path, emitter):
    paths = [metafile(tmp_path / str(number)) for number in range(12)]
    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), open_hints=emitter) as (watcher, seen):
        for path in paths:
            path.unlink()
        await poll_until(lambda: only(watcher).status is RootStatus.PAUSED)
        back = metafile(tmp_path / "0", "_metadata_2_.json")
        await seen.whole(back)
        await poll_until(lambda: only(watcher).status is RootStatus.WATCHING)


def test_an_empty_root_is_an_alarm_even_if_its_metafile_was_known_only_from_an_event(tmp_path):
    scanner = RootScanner(
        root_at(tmp_path),
        HintBox(lambda: None),
        known_metafiles=0,
        open_hints=Silent,
        read_mounts=read_mounts,
        state_directory=None,
        granularity_s=0.3,
    )
    with contextlib.closing(scanner):
        scanner.open()
        scanner.scan()
        path = metafile(tmp_path)
        assert [each.found.path for each in scanner.follow([str(tmp_path)], ()).discoveries] == [str(path)]
        path.unlink()
        assert scanner.scan().is_empty


async def test_an_empty_root_is_an_alarm_at_the_start_if_the_journal_knows_metafiles_of_it(tmp_path):
    async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S), known_metafiles={"temca2": 7}) as (watcher, seen):
        assert only(watcher).status is RootStatus.PAUSED
        await seen.whole(metafile(tmp_path / "roi"))
        await poll_until(lambda: only(watcher).status is RootStatus.WATCHING)


async def test_the_log_names_the_directory_and_says_in_words_what_is_wrong_and_what_is_over(tmp_path):
    directory = tmp_path / "later"
    problem = "cannot be accessed: No such file or directory (check that the disk or mount is there)"
    with capture_logs() as lines:
        async with watching(root_at(directory, scan_interval_s=OFTEN_S)) as (watcher, seen):
            await seen.whole(metafile(directory))
            await poll_until(lambda: only(watcher).status is RootStatus.WATCHING)
    states = [line for line in lines if line["event"] == "watch.state"]
    assert {line["directory"] for line in states} == {str(directory)}
    assert [line["new"] for line in states if line["new"]] == [[problem]]
    assert [line["over"] for line in states if line["over"]] == [[problem]]


async def test_an_entry_that_is_no_file_is_a_warning_that_says_what_to_do(tmp_path):
    (tmp_path / "_metadata_1_.json").symlink_to("elsewhere")
    async with watching(root_at(tmp_path)) as (watcher, _):
        (reason,) = only(watcher).reasons
        assert "1 entry with a metafile's name is not a regular file" in reason
        assert reason.endswith(f"in {tmp_path}: put the files themselves there, or delete these entries")


async def test_an_empty_root_without_known_metafiles_is_no_alarm(tmp_path):
    async with watching(root_at(tmp_path)) as (watcher, _):
        assert only(watcher).status is RootStatus.WATCHING


async def test_an_unreadable_directory_is_reported_and_the_others_are_watched(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything; the pass itself is tested as another user in test_scan")
    closed = metafile(tmp_path / "closed").parent
    closed.chmod(0)
    try:
        async with watching(root_at(tmp_path, scan_interval_s=OFTEN_S)) as (watcher, seen):
            assert "1 of its directories cannot be read" in only(watcher).reasons[0]
            closed.chmod(0o755)
            await seen.all_of([closed / "_metadata_1_.json"])
            await poll_until(lambda: only(watcher).reasons == ())
    finally:
        closed.chmod(0o755)


async def test_a_scan_that_hangs_is_reported_and_does_not_delay_the_stop(tmp_path):
    release = threading.Event()

    def hanging_mounts():
        release.wait(600)
        return ()

    watcher = Watcher([root_at(tmp_path)], Seen(), timing=IMPATIENT, read_mounts=hanging_mounts)
    task = asyncio.create_task(watcher.run())
    try:
        await poll_until(lambda: only(watcher).status is RootStatus.UNREACHABLE)
        assert "has not answered for" in only(watcher).reasons[0]
        task.cancel()
        await asyncio.wait([task])
    finally:
        release.set()


# --- delivery of sightings


async def test_a_refused_sighting_is_delivered_again_at_the_next_scan(tmp_path):
    path = metafile(tmp_path)
    seen = Seen()
    seen.faults = [StorageFault("journal", "could not write: No space left on device")]
    async with watching(root_at(tmp_path, scan_interval_s=0.5), seen=seen) as (watcher, _):
        assert only(watcher).undelivered == 1
        assert "1 metafiles wait: journal: could not write" in only(watcher).reasons[0]
        await seen.whole(path)
        await poll_until(lambda: only(watcher).undelivered == 0 and only(watcher).reasons == ())


async def test_a_refused_sighting_delays_no_other_sighting(tmp_path):
    paths = [metafile(tmp_path, f"_metadata_{number}_.json") for number in range(3)]
    seen = Seen()
    seen.faults = [SettingsFault("watch", "refuses this one")]
    async with watching(root_at(tmp_path), seen=seen) as (watcher, _):
        assert seen.paths == paths[1:]
        assert only(watcher).undelivered == 1


async def test_a_receiver_gets_one_sighting_of_a_root_at_a_time(tmp_path):
    for number in range(20):
        metafile(tmp_path, f"_metadata_{number}_.json")
    under_way = maximum = delivered = 0

    async def slow(_):
        nonlocal under_way, maximum, delivered
        under_way += 1
        maximum = max(maximum, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        delivered += 1

    async with watching(root_at(tmp_path), seen=slow):
        assert (maximum, delivered) == (1, 20)


async def test_an_error_in_the_receiver_ends_the_watcher(tmp_path):
    async def broken(_):
        raise KeyError("a bug")

    metafile(tmp_path)
    with pytest.raises(ExceptionGroup) as raised:
        await Watcher([root_at(tmp_path)], broken, timing=QUICK).run()
    assert raised.group_contains(KeyError)


# --- locks, several roots


async def test_a_root_that_another_daemon_locked_is_refused_at_the_start(tmp_path):
    with lock_root(tmp_path), pytest.raises(SettingsFault, match=f"{tmp_path}: is watched by another temwatch"):
        await Watcher([root_at(tmp_path)], Seen()).run()


async def test_a_root_that_another_user_locks_is_watched_and_health_reports_the_lock(tmp_path, monkeypatch):
    root, state = tmp_path / "root", tmp_path / "state"
    path = metafile(root)
    state.mkdir()
    program = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); input(print(flush=True))"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(root), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    monkeypatch.setattr("daemon.system.locks._user_of", lambda _: 65534)
    try:
        assert await other.stdout.readline() == b"\n"
        async with watching(root_at(root), state_directory=state) as (watcher, seen):
            assert seen.paths == [path]
            assert only(watcher).status is RootStatus.WATCHING
            (reason,) = only(watcher).reasons
            assert f"process {other.pid} of user 65534 locks the directory" in reason
    finally:
        other.kill()
        await other.communicate()


async def test_a_root_that_another_process_locked_is_watched_when_that_process_dies(tmp_path):
    root = root_at(tmp_path / "later", scan_interval_s=OFTEN_S)
    program = (
        "import sys, time; from pathlib import Path; from daemon.system.locks import lock_root\n"
        "lock = lock_root(Path(sys.argv[1])); print('mine', flush=True); time.sleep(60)"
    )
    async with watching(root) as (watcher, seen):
        (tmp_path / "made").mkdir()
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(tmp_path / "made"), stdout=subprocess.PIPE, cwd=HERE.parents[2]
        )
        try:
            assert await owner.stdout.readline() == b"mine\n"
            (tmp_path / "made").rename(root.directory)
            path = metafile(root.directory)
            await poll_until(lambda: any(f"process {owner.pid}" in reason for reason in only(watcher).reasons))
            assert seen.paths == []
        finally:
            owner.kill()
            await owner.communicate()
        await seen.whole(path)


async def test_a_stopped_watcher_releases_its_roots(tmp_path, emitter):
    async with watching(root_at(tmp_path), open_hints=emitter):
        with pytest.raises(SettingsFault):
            lock_root(tmp_path)
    lock_root(tmp_path).close()


async def test_roots_are_replaced_while_unchanged_roots_stay_watched(tmp_path, emitter):
    stays, goes, comes = (root_at(tmp_path / name, name=name) for name in ("stays", "goes", "comes"))
    paths = {root.name: metafile(root.directory) for root in (stays, goes, comes)}
    async with watching(stays, goes, open_hints=emitter) as (watcher, seen):
        await watcher.replace_roots([comes, stays])
        await seen.all_of([paths["comes"]])
        assert [health.name for health in watcher.health()] == ["comes", "stays"]
        assert Counter(seen.paths) == Counter(paths.values())
        lock_root(goes.directory).close()
        assert not watcher.is_observable("goes")
        await seen.whole(metafile(stays.directory, "_metadata_2_.json"))


async def test_a_root_whose_settings_change_is_watched_with_the_new_settings(tmp_path, emitter):
    root = root_at(tmp_path)
    old = metafile(tmp_path, "x.meta")
    async with watching(root, open_hints=emitter) as (watcher, seen):
        assert seen.paths == []
        await watcher.replace_roots([replace(root, pattern="*.meta")])
        await seen.all_of([old])


@pytest.fixture
def dead_server(tmp_path, monkeypatch):
    """A directory whose file server does not answer a request for a lock."""
    release, dead = threading.Event(), tmp_path / "dead"
    dead.mkdir()

    def lock(directory, state_directory=None):
        if directory == dead:
            release.wait(600)
        return lock_root(directory, state_directory)

    monkeypatch.setattr("daemon.watching.root.lock_root", lock)
    yield dead, release
    release.set()


async def test_a_dead_file_server_at_the_start_delays_no_other_root(tmp_path, dead_server):
    dead, release = dead_server
    alive = tmp_path / "alive"
    alive.mkdir()
    (alive / "_metadata_1_.json").write_text("{}")
    seen = Seen()
    roots = [replace(root_at(dead), name="dead"), replace(root_at(alive), name="alive")]
    watcher = Watcher(roots, seen, timing=IMPATIENT)
    task = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(60):
            await watcher.watching.wait()
        await poll_until(lambda: watcher.is_observable("alive") and watcher.health()[1].metafiles_seen)
        assert watcher.health()[0].status is RootStatus.UNREACHABLE
        release.set()
        await poll_until(lambda: watcher.is_observable("dead"))
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_stop_waits_for_all_hanging_roots_concurrently_and_once(tmp_path, monkeypatch):
    release = threading.Event()

    def lock_at_last(directory, state_directory):
        release.wait(600)
        return lock_root(directory, state_directory)

    monkeypatch.setattr("daemon.watching.root.lock_root", lock_at_last)
    under_way = maximum = 0
    end = RootCalls.end

    async def count_ends(calls):
        nonlocal under_way, maximum
        under_way += 1
        maximum = max(maximum, under_way)
        await end(calls)
        under_way -= 1

    monkeypatch.setattr(RootCalls, "end", count_ends)
    roots = []
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        roots.append(replace(root_at(tmp_path / str(number)), name=f"r{number}"))
    watcher = Watcher(roots, Seen(), timing=replace(QUICK, opening_s=0.1, stop_s=0.5))
    task = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(60):
            await watcher.watching.wait()
        task.cancel()
        with capture_logs() as lines:
            await asyncio.wait([task])
        assert maximum == len(roots)
        abandoned = [line["watch"] for line in lines if line["event"] == "watch.thread_abandoned"]
        assert sorted(abandoned) == [root.name for root in roots], "each root is waited for once"
    finally:
        release.set()
