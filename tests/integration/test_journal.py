"""The journal on real SQLite files."""

import asyncio
import re
import sqlite3
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import daemon.journal
from daemon.journal.file import connect
from daemon.journal.journal import Journal
from daemon.journal.migration import MIGRATIONS
from daemon.journal.tables import outbox
from daemon.montages.records import Inspection, Outcome, Settled, SettleResult, StaleInspection
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState, Step, fold
from handlers.errors import Evidence, ImageFault, MetafileFault, SettingsFault, StorageFault
from handlers.identity import FileIdentity
from tests.integration.descriptors import descriptors_of

IDENTITY = FileIdentity(100, 1_000, 1_000, 7)
SIGHTING = Sighting("temca2", Path("/data/temca2/_metadata_20170829_1_.json"), IDENTITY, FoundBy.SCAN)
STACK = "em/v1/s_raw"


def settled(digest: str = "aa", tiles: tuple[str, ...] = ("t1", "t2"), mipmapped: str = STACK) -> Settled:
    return Settled(digest, 1050.0, STACK, mipmapped, tiles, ())


async def inspect(journal: Journal, montage_id: int, digest: str | None = "aa") -> Inspection:
    """Return an inspection of an unchanged metafile."""
    montage = await journal.montage(montage_id)
    assert montage is not None
    return Inspection(montage_id, montage.identity, montage.identity if digest else None, digest)


async def settle(journal: Journal, montage_id: int, facts: Settled) -> SettleResult:
    return await journal.settle(await inspect(journal, montage_id, facts.digest), facts)


def changed(**identity: int) -> Sighting:
    return replace(SIGHTING, identity=IDENTITY._replace(**identity))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


async def completed(journal: Journal, sighting: Sighting = SIGHTING, digest: str = "aa") -> int:
    montage_id = await journal.notice(sighting)
    assert montage_id is not None
    kept = (await settle(journal, montage_id, settled(digest))).kept
    for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED):
        await journal.record(kept, event)
    return kept


async def test_a_noticed_metafile_is_remembered_by_the_next_process(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
    async with Journal(path) as journal:
        montage = await journal.montage(montage_id)
        assert montage.metafile == SIGHTING.path
        assert montage.state is MontageState.NOTICED


async def test_the_same_file_seen_again_is_one_montage(path):
    async with Journal(path) as journal:
        await journal.notice(SIGHTING)
        assert await journal.notice(SIGHTING) is None
        assert len(await journal.montages()) == 1


async def test_a_metafile_that_changes_before_it_settles_is_still_one_montage(path):
    async with Journal(path) as journal:
        first = await journal.notice(SIGHTING)
        assert await journal.notice(changed(size=200)) == first
        assert (await journal.montage(first)).identity == (200, 1_000, 1_000, 7)


async def test_a_metafile_touched_after_its_montage_is_complete_is_not_done_twice(path):
    async with Journal(path) as journal:
        done = await completed(journal)
        again = await journal.notice(changed(mtime_ns=2_000))
        assert again != done
        assert (await journal.recognise(await inspect(journal, again, "aa"))).kept == done
        assert [montage.state for montage in await journal.montages()] == [MontageState.COMPLETE]
        assert await journal.notice(changed(mtime_ns=2_000)) is None


async def test_a_metafile_rewritten_with_its_old_size_time_and_inode_is_noticed(path):
    async with Journal(path) as journal:
        done = await completed(journal)
        again = await journal.notice(changed(ctime_ns=2_000))
        assert again not in (None, done)


async def test_a_montage_without_a_change_time_gets_that_of_the_next_sighting(path):
    async with Journal(path) as journal:
        done = await completed(journal)
        await journal.write(lambda connection: connection.execute("UPDATE montages SET ctime_ns = NULL"))
        assert await journal.notice(changed(ctime_ns=2_000)) is None
        assert (await journal.montage(done)).identity == changed(ctime_ns=2_000).identity
        assert await journal.notice(changed(ctime_ns=3_000)) is not None


async def test_another_content_at_the_same_path_supersedes_the_montage(path):
    async with Journal(path) as journal:
        done = await completed(journal)
        again = await journal.notice(changed(mtime_ns=2_000))
        assert await journal.recognise(await inspect(journal, again, "bb")) is None
        settling = await settle(journal, again, settled("bb", ("t2", "t3")))
        assert (settling.kept, [each.id for each in settling.superseded]) == (again, [done])
        assert (await journal.montage(done)).state is MontageState.SUPERSEDED
        assert await journal.unwanted_tile_ids(await journal.montage(again), STACK) == {"t1"}


async def test_a_content_that_returns_is_done_again(path):
    async with Journal(path) as journal:
        first = await completed(journal)
        other = await journal.notice(changed(mtime_ns=2_000))
        await settle(journal, other, settled("bb"))
        back = await journal.notice(changed(mtime_ns=3_000))
        assert await journal.recognise(await inspect(journal, back, "aa")) is None
        settling = await settle(journal, back, settled("aa"))
        assert (settling.kept, [each.id for each in settling.superseded]) == (first, [other])
        assert (await journal.montage(first)).state is MontageState.SETTLED
        assert await journal.montage(back) is None


async def test_a_failed_metafile_that_changes_is_inspected_again(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await journal.fail(montage_id, MetafileFault("x", "is not JSON"))
        assert await journal.notice(changed(size=300)) == montage_id
        montage = await journal.montage(montage_id)
        assert montage.state is MontageState.NOTICED
        assert montage.fault is None


@pytest.mark.parametrize("how", ["refused", "ignored"])
@pytest.mark.parametrize("released", [False, True])
async def test_a_montage_does_not_wait_for_another_one_that_was_released_during_its_inspection(path, how, released):
    async with Journal(path) as journal:
        owner = await journal.notice(SIGHTING)
        await settle(journal, owner, settled())
        waiting = await journal.notice(replace(SIGHTING, path=SIGHTING.path.with_name("_metadata_20170829_2_.json")))
        before = await journal.read(outbox.last_number)
        inspection = replace(await inspect(journal, waiting, "bb"), events_before=before)
        if released:
            await journal.record(owner, Event.SUPERSEDED)
        evidence = Evidence(SIGHTING.path, IDENTITY, or_gone=True)
        if how == "refused":
            await journal.refuse(inspection, MetafileFault("x", "shares tiles").with_evidence(evidence))
        else:
            await journal.ignore(inspection, "imaged again", evidence)
        (awaited,) = await journal.awaited()
        assert awaited.evidence.has_changed(evidence) == released


async def test_the_same_bad_content_failing_twice_stays_one_montage(path):
    async with Journal(path) as journal:
        first = await journal.notice(SIGHTING)
        await journal.refuse(await inspect(journal, first, "cc"), MetafileFault("x", "has no data"))
        again = await journal.notice(changed(mtime_ns=2_000))
        await journal.refuse(await inspect(journal, again, "cc"), MetafileFault("x", "has no data"))
        assert [(montage.id, montage.state) for montage in await journal.montages()] == [(first, MontageState.FAILED)]


OUTCOMES = {
    "recognise": lambda journal, inspection: journal.recognise(inspection),
    "settle": lambda journal, inspection: journal.settle(inspection, settled(inspection.digest)),
    "refuse": lambda journal, inspection: journal.refuse(inspection, MetafileFault("x", "has no data")),
    "ignore": lambda journal, inspection: journal.ignore(inspection, "a lens-correction set"),
}


@pytest.mark.parametrize("digest", ["aa", "bb"])
@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_a_stale_inspection_is_not_recorded(path, outcome, digest):
    async with Journal(path) as journal:
        await completed(journal)
        again = await journal.notice(changed(ctime_ns=2_000))
        inspection = await inspect(journal, again, digest)
        await journal.notice(changed(ctime_ns=3_000))
        before = await journal.events(again)
        with pytest.raises(StaleInspection):
            await OUTCOMES[outcome](journal, inspection)
        assert await journal.events(again) == before
        assert [each.state for each in await journal.montages()] == [MontageState.COMPLETE, MontageState.NOTICED]


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_an_inspection_of_a_file_newer_than_its_sighting_is_recorded(path, outcome):
    async with Journal(path) as journal:
        await completed(journal)
        again = await journal.notice(changed(ctime_ns=2_000))
        inspection = replace(await inspect(journal, again), read=changed(ctime_ns=3_000).identity)
        if outcome in ("refuse", "ignore"):
            inspection = replace(inspection, digest="bb")
        await OUTCOMES[outcome](journal, inspection)
        assert await journal.notice(changed(ctime_ns=3_000)) is None


async def test_a_failed_content_is_not_read_again_beside_a_newer_sighting(path):
    async with Journal(path) as journal:
        first = await journal.notice(SIGHTING)
        await journal.refuse(await inspect(journal, first, "aa"), MetafileFault("x", "has no data"))
        newer = await journal.notice(changed(ctime_ns=2_000))
        assert await journal.retry(first, "an image is there now") is None
        assert await journal.replay(first, Step.INGEST) is None
        await journal.settle(await inspect(journal, newer, "bb"), settled("bb"))
        states = [(each.id, each.state) for each in await journal.montages()]
        assert states == [(first, MontageState.SUPERSEDED), (newer, MontageState.SETTLED)]


async def test_a_predecessor_is_kept_when_its_successor_is_merged_into_a_known_content(path):
    elsewhere = replace(SIGHTING, path=Path("/data/elsewhere.json"))
    async with Journal(path) as journal:
        known = await journal.notice(elsewhere)
        await settle(journal, known, settled("aa", ("t1",)))
        other = await journal.notice(replace(elsewhere, identity=changed(ctime_ns=2_000).identity))
        await settle(journal, other, settled("bb", ("t2",)))
        former = await journal.notice(SIGHTING)
        await settle(journal, former, settled("cc", ("t3",)))
        again = await journal.notice(replace(elsewhere, identity=changed(ctime_ns=3_000).identity))
        assert await journal.move(await journal.montage(former), await journal.montage(again))
        assert (await settle(journal, again, settled("aa", ("t1",)))).kept == known
        assert await journal.unwanted_tile_ids(await journal.montage(known), STACK) == {"t2", "t3"}


async def test_only_the_latest_unfinished_content_of_a_path_is_noticed_as_changed(path):
    async with Journal(path) as journal:
        first = await journal.notice(SIGHTING)
        await settle(journal, first, settled())
        second = await journal.notice_changed(first, SIGHTING)
        assert second not in (None, first)
        assert await journal.notice_changed(first, SIGHTING) is None
        await settle(journal, second, settled("bb"))
        assert await journal.notice_changed(first, SIGHTING) is None
        assert len(await journal.montages()) == 2


async def test_a_content_that_settled_while_its_copy_was_read_is_not_done_twice(path):
    async with Journal(path) as journal:
        first = await journal.notice(SIGHTING)
        await settle(journal, first, settled())
        await journal.fail(first, ImageFault("t", "is truncated"))
        again = await journal.notice(changed(ctime_ns=2_000))
        inspection = await inspect(journal, again)
        assert await journal.recognise(inspection) is None
        await journal.retry(first, "t has changed")  # meanwhile
        settling = await journal.settle(inspection, settled())
        assert (settling.kept, settling.is_known) == (first, True)
        assert [each.state for each in await journal.montages()] == [MontageState.SETTLED]


async def test_a_failed_montage_keeps_its_fault_and_the_state_in_which_it_failed(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await settle(journal, montage_id, settled())
        await journal.begin_attempt(montage_id, Step.INGEST)
        montage = await journal.fail(montage_id, ImageFault("t1.tif", "is truncated", "copy it again"))
        assert montage.failed_in is MontageState.SETTLED
        assert str(montage.fault) == "t1.tif: is truncated (copy it again)"
        assert montage.attempt == 1


async def test_an_attempt_that_never_ended_counts_as_a_crash_until_the_montage_makes_progress(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await settle(journal, montage_id, settled())
    for crashes in (1, 2):
        async with Journal(path) as journal:
            await journal.begin_attempt(montage_id, Step.MIPMAPS)
        async with Journal(path) as journal:
            assert await journal.count_crashes() == 1
            assert (await journal.montage(montage_id)).crashes == crashes
    async with Journal(path) as journal:
        await journal.record_tiles(montage_id, {"t1": None})
        assert (await journal.montage(montage_id)).crashes == 0
        assert [attempt["outcome"] for attempt in await journal.attempts(montage_id)] == ["crashed", "crashed"]


async def test_a_stopped_attempt_does_not_count_as_a_crash(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        attempt = await journal.begin_attempt(montage_id, Step.SETTLE)
        await journal.end_attempt(attempt, Outcome.STOPPED)
        assert await journal.count_crashes() == 0


@pytest.mark.parametrize("turns", [1, 3])
async def test_an_attempt_cancelled_while_it_begins_does_not_count_as_a_crash(path, turns):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        release = threading.Event()
        busy = asyncio.create_task(journal.write(lambda _: release.wait(30)))
        beginning = asyncio.create_task(journal.begin_attempt(montage_id, Step.SETTLE))
        for _ in range(turns):
            await asyncio.sleep(0)
        beginning.cancel()
        release.set()
        await asyncio.wait([busy, beginning])
        assert beginning.cancelled()
        assert [attempt["outcome"] for attempt in await journal.attempts(montage_id)] == ["stopped"]
        assert await journal.count_crashes() == 0


async def test_tiles_made_are_remembered_until_the_montage_is_mipmapped(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await settle(journal, montage_id, settled())
        await journal.record(montage_id, Event.INGESTED)
        await journal.record_tiles(montage_id, {"t1": None})
    async with Journal(path) as journal:
        assert await journal.tiles_made(montage_id) == {"t1"}
        await journal.record(montage_id, Event.MIPMAPPED)
        assert await journal.tiles_made(montage_id) == frozenset()


async def test_a_montage_is_complete_when_all_its_stacks_are_closed(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await settle(journal, montage_id, settled(mipmapped="em/v1/s_mips"))
        for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
            await journal.record(montage_id, event)
        assert await journal.record_closing(STACK, [montage_id]) == ()
    async with Journal(path) as journal:
        assert await journal.record_closing("em/v1/s_mips", [montage_id]) == (montage_id,)
        assert (await journal.montage(montage_id)).state is MontageState.COMPLETE


async def test_a_montage_superseded_while_its_stack_closes_does_not_block_the_others(path):
    async with Journal(path) as journal:
        ids = []
        for number in (1, 2):
            sighting = replace(SIGHTING, path=Path(f"/data/temca2/_metadata_{number}_.json"))
            montage_id = await journal.notice(sighting)
            await settle(journal, montage_id, settled(f"{number}", (f"t{number}",)))
            for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
                await journal.record(montage_id, event)
            ids.append(montage_id)
        await journal.record(ids[0], Event.SUPERSEDED)
        assert await journal.record_closing(STACK, [999, *ids]) == (ids[1],)
        assert [(await journal.montage(each)).state for each in ids] == [
            MontageState.SUPERSEDED,
            MontageState.COMPLETE,
        ]


async def test_a_replay_makes_all_mipmaps_again_and_a_retry_only_the_missing_ones(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await settle(journal, montage_id, settled())
        await journal.record(montage_id, Event.INGESTED)
        await journal.record_tiles(montage_id, {"t1": None})
        await journal.fail(montage_id, ImageFault("t2", "is truncated"))
        await journal.retry(montage_id, "t2 has changed")
        assert await journal.tiles_made(montage_id) == {"t1"}
        await journal.fail(montage_id, ImageFault("t2", "is truncated"))
        await journal.replay(montage_id, Step.MIPMAPS)
        assert await journal.tiles_made(montage_id) == frozenset()


async def test_the_time_of_completion_is_kept_until_a_replay(path):
    async with Journal(path, clock=lambda: 77.0) as journal:
        montage_id = await completed(journal)
        assert (await journal.montage(montage_id)).complete_at == 77.0
        await journal.replay(montage_id, Step.INGEST)
        assert (await journal.montage(montage_id)).complete_at is None


async def test_a_montage_keeps_its_waiting_reason_and_its_findings(path):
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await journal.wait(montage_id, "an image is missing")
        assert (await journal.montage(montage_id)).waiting_for == "an image is missing"
        await settle(journal, montage_id, replace(settled(), findings=("odd", "odder")))
        montage = await journal.montage(montage_id)
        assert (montage.waiting_for, montage.findings) == (None, ("odd", "odder"))


async def test_unfinished_montages_are_listed_for_the_next_process(path):
    async with Journal(path) as journal:
        await completed(journal)
        other = await journal.notice(changed(mtime_ns=2_000))
    async with Journal(path) as journal:
        assert await journal.unfinished() == [(other, SIGHTING.path.name, MontageState.NOTICED, "temca2")]


async def test_montages_are_selected_by_directory_and_not_by_a_prefix_of_its_name(path):
    async with Journal(path) as journal:
        for number, name in enumerate(["/data/a/x.json", "/data/a/b/y.json", "/data/ab/z.json", "/data/a.json"]):
            await journal.notice(Sighting("temca2", Path(name), FileIdentity(1, number, number, number), FoundBy.SCAN))
        below = await journal.montages(below=Path("/data/a"))
        assert sorted(montage.metafile.name for montage in below) == ["x.json", "y.json"]
        assert len(await journal.montages(below=Path("/"))) == 4
        assert [montage.id for montage in await journal.montages(ids=[2, 9])] == [2]


async def test_the_state_is_the_fold_of_the_events(path):
    async with Journal(path) as journal:
        await completed(journal)
        other = await journal.notice(changed(mtime_ns=2_000))
        await settle(journal, other, settled("bb"))
        await journal.fail(other, ImageFault("t", "is truncated"))
        await journal.record(other, Event.RETRIED)
        await journal.fail(other, ImageFault("t", "is truncated"))
        await journal.replay(other, Step.APPLY)
        await journal.restore(
            replace(SIGHTING, path=Path("/data/x.json")), settled(tiles=("t9",)), MontageState.MIPMAPPED, "stacks"
        )
        for montage in await journal.montages():
            events = [
                (
                    Event(event["event"]),
                    next(
                        (MontageState(event["detail"][key]) for key in ("failed_in", "onto") if key in event["detail"]),
                        None,
                    ),
                )
                for event in await journal.events(montage.id)
            ]
            assert fold(events) is montage.state


async def test_an_illegal_event_is_not_recorded(path):
    async with Journal(path) as journal:
        done = await completed(journal)
        before = await journal.events(done)
        with pytest.raises(ValueError, match="cannot happen"):
            await journal.record(done, Event.INGESTED)
        assert await journal.events(done) == before


async def test_a_journal_of_a_newer_version_is_refused_with_a_hint(path):
    with closing(connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(SettingsFault, match="written by a newer temwatch"):
        async with Journal(path):
            pass


async def test_a_journal_whose_directory_is_missing_is_refused_with_a_hint(tmp_path):
    with pytest.raises(StorageFault, match="check that its directory exists"):
        async with Journal(tmp_path / "absent" / "journal.sqlite"):
            pass


async def test_writes_wait_for_a_locked_journal(path, monkeypatch):
    monkeypatch.setattr("daemon.journal.connection.BUSY_S", 0.01)
    async with Journal(path) as journal:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            noticing = asyncio.create_task(journal.notice(SIGHTING))
            while journal.fault is None:  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0.01)
            assert "locked" in str(journal.fault)
            other.execute("ROLLBACK")
        assert await noticing is not None
        assert journal.fault is None


@contextmanager
def locked(path):
    """Lock the journal from another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_reads_do_not_wait_for_a_locked_journal(path):
    async with Journal(path) as journal:
        done = await completed(journal)
        with locked(path):
            noticing = asyncio.create_task(journal.notice(replace(SIGHTING, path=Path("/data/other.json"))))
            async with asyncio.timeout(60):
                assert (await journal.montage(done)).state is MontageState.COMPLETE
                assert await journal.counts() == {("temca2", MontageState.COMPLETE): 1}
                assert len(await journal.montages()) == 1
                assert await journal.events(done)
                assert await journal.oldest_unfinished_s() is None
            assert not noticing.done()
        assert await noticing


async def test_a_read_returns_every_earlier_write(path):
    async with Journal(path) as journal:
        for number in range(200):
            montage_id = await journal.notice(replace(SIGHTING, path=Path(f"/data/{number}.json")))
            assert (await journal.montage(montage_id)).state is MontageState.NOTICED


async def test_a_short_lock_is_no_fault(path):
    async with Journal(path) as journal:
        with locked(path):
            noticing = asyncio.create_task(journal.notice(SIGHTING))
            await asyncio.sleep(1)
            assert journal.fault is None
        assert await noticing


async def test_giving_up_a_locked_journal_cancels_the_waiting_writes(path):
    with ExitStack() as lock:
        async with Journal(path) as journal:
            lock.enter_context(locked(path))
            waiting = [asyncio.create_task(journal.notice(SIGHTING)) for _ in range(50)]
            await asyncio.sleep(0.1)
            journal.give_up()
            async with asyncio.timeout(60):
                done, _ = await asyncio.wait(waiting)
            assert all(task.cancelled() for task in done)


async def test_a_hanging_write_is_a_fault_and_blocks_neither_reads_nor_closing(path, monkeypatch):
    monkeypatch.setattr("daemon.journal.connection.STUCK_S", 0.1)
    monkeypatch.setattr("daemon.journal.connection.CLOSE_S", 0.1)
    release = threading.Event()
    async with Journal(path) as journal:
        hanging = asyncio.create_task(journal.write(lambda _: release.wait()))
        async with asyncio.timeout(60):
            while journal.fault is None:  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0.01)
            assert "has not answered" in str(journal.fault)
            assert await journal.counts() == {}
        hanging.cancel()
    release.set()
    async with asyncio.timeout(60):
        while descriptors_of(path):  # noqa: ASYNC110  threads close them, without an event
            await asyncio.sleep(0.01)


async def test_a_new_journal_has_the_present_version_and_is_durable(path):
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


TWO_UNREAD_CONTENTS = """
INSERT INTO montages (id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, noticed_at, changed_at)
VALUES (1, 'temca2', 'file:///data/a.json', 'aa', 1, 1, 1, 'a.json', 'complete', 0, 0),
    (2, 'temca2', 'file:///data/a.json', NULL, 2, 2, 2, 'a.json', 'superseded', 0, 0),
    (3, 'temca2', 'file:///data/b.json', 'bb', 3, 3, 3, 'b.json', 'superseded', 0, 0),
    (4, 'temca2', 'file:///data/b.json', 'cc', 4, 4, 4, 'b.json', 'noticed', 0, 0),
    (5, 'temca2', 'file:///data/c.json', 'dd', 5, 5, 5, 'c.json', 'noticed', 0, 0),
    (6, 'temca2', 'file:///data/c.json', NULL, 6, 6, 6, 'c.json', 'noticed', 0, 0);
INSERT INTO events (montage_id, at, event, state, detail) VALUES (3, 0, 'superseded', 'superseded', '{"by": 4}');
"""


async def test_migration_repairs_paths_with_two_unread_contents(path):
    with closing(sqlite3.connect(path)) as connection:
        for script in MIGRATIONS[:6]:
            connection.executescript(script)
        connection.executescript(TWO_UNREAD_CONTENTS + "PRAGMA user_version = 6;")
    async with Journal(path) as journal:
        rows = {each.id: (each.digest, each.state) for each in await journal.montages()}
        assert rows == {
            1: ("aa", MontageState.COMPLETE),
            3: ("bb", MontageState.SUPERSEDED),
            4: (None, MontageState.NOTICED),
            5: ("dd", MontageState.SUPERSEDED),
            6: (None, MontageState.NOTICED),
        }
        for name, size, noticed in (("a", 2, True), ("a", 1, False), ("b", 4, False), ("c", 6, False)):
            sighting = Sighting("temca2", Path(f"/data/{name}.json"), FileIdentity(size, size, 9, size), FoundBy.SCAN)
            async with Journal(path.with_name(f"{name}{size}.sqlite")) as copy:
                journal._writer.backup(copy._writer)
                assert (await copy.notice(sighting) is not None) is noticed


async def test_setting_the_clock_does_not_change_ages(path):
    now, set_s = [1000.0], [1.7e9]
    async with Journal(path, clock=lambda: now[0] + set_s[0], steady=lambda: now[0]) as journal:
        assert await journal.oldest_unfinished_s() is None
        montage_id = await journal.notice(SIGHTING)
        now[0] += 60
        set_s[0] += 7200
        assert await journal.oldest_unfinished_s() == pytest.approx(60)
        await journal.notice(replace(SIGHTING, path=Path("/data/other.json")))
        now[0] += 60
        assert await journal.oldest_unfinished_s() == pytest.approx(120)
        assert journal.age_s(await journal.montage(montage_id)) == pytest.approx(120)


async def test_an_attempt_that_ends_late_does_not_overwrite_the_fault_of_a_failed_montage(path):
    """Both stacks of a montage are closed at once: each close is an attempt."""
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        await settle(journal, montage_id, settled())
        for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
            await journal.record(montage_id, event)
        first, second = [await journal.begin_attempt(montage_id, Step.CLOSE) for _ in range(2)]
        await journal.end_attempt(first, Outcome.FAILED, ImageFault("stack", "is locked"))
        await journal.fail(montage_id, ImageFault("stack", "is locked"))
        await journal.end_attempt(second, Outcome.FAILED, StorageFault("other stack", "does not answer"))
        montage = await journal.montage(montage_id)
        assert montage.state is MontageState.FAILED
        assert montage.fault.problem == "is locked"
        assert [each["fault"]["problem"] for each in await journal.attempts(montage_id)] == [
            "is locked",
            "does not answer",
        ]


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED])
async def test_an_attempt_whose_end_is_cancelled_while_the_journal_is_locked_keeps_its_outcome(path, outcome):
    """The daemon stops while another program holds a lock: the attempt must not count as a crash."""
    fault = ImageFault("a.tif", "is truncated") if outcome is Outcome.FAILED else None
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        attempt = await journal.begin_attempt(montage_id, Step.SETTLE)
        with locked(path):
            ending = asyncio.create_task(journal.end_attempt(attempt, outcome, fault))
            await asyncio.sleep(1)  # the write has failed, and waits for its repetition
            ending.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await ending
        ended = (await journal.attempts(montage_id))[0]
        assert ended["outcome"] == outcome
        assert await journal.count_crashes() == 0


def test_no_statement_numbers_its_placeholders() -> None:
    """Python 3.12.0 to 3.12.3 refuse `?1` with a sequence of values where warnings are errors, as in these tests."""
    modules = sorted(Path(daemon.journal.__file__).parent.rglob("*.py"))
    assert modules
    assert not [module for module in modules if re.search(r"\?\d", module.read_text())]


def test_migrations_are_numbered_consecutively_without_duplicates() -> None:
    """If two migrations had one number, a journal with one of them would count as migrated by both."""
    directory = Path(daemon.journal.__file__).parent / "migrations"
    numbers = sorted(int(each.name.partition("_")[0]) for each in directory.glob("*.sql"))
    assert numbers == list(range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize("step", [Step.INGEST, Step.APPLY])
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.STOPPED, Outcome.WAITING, None])
async def test_a_montage_may_be_overwritten_after_an_upload_of_its_predecessor_without_success(
    path: Path, step: Step, outcome: Outcome | None
) -> None:
    async with Journal(path) as journal:
        first = await journal.notice(SIGHTING)
        assert first is not None
        await settle(journal, first, settled("aa"))
        for each in (step, Step.MIPMAPS, Step.CLOSE):
            await journal.end_attempt(await journal.begin_attempt(first, each), Outcome.DONE)
        for each in (Step.SETTLE, Step.MIPMAPS, Step.CLOSE):
            await journal.end_attempt(await journal.begin_attempt(first, each), Outcome.FAILED)
        second = await journal.notice(changed(size=200))
        assert second is not None
        await settle(journal, second, settled("bb"))
        assert not await journal.may_be_overwritten(second)
        attempt = await journal.begin_attempt(first, step)
        if outcome is not None:
            await journal.end_attempt(attempt, outcome)
        assert await journal.may_be_overwritten(second)
        assert not await journal.may_be_overwritten(first)
        third = await journal.notice(changed(size=300))
        assert third is not None
        await settle(journal, third, settled("cc"))
        assert await journal.may_be_overwritten(third)
