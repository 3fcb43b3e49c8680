"""The outbox: announcements, their order, and their commit in the transaction of the state."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.journal.tables import outbox
from daemon.montages.announcements import Kind
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, IllegalTransition, MontageState, Step
from daemon.pipeline.stacks.opened_stacks import OpenedStacks
from handlers.errors import MetafileFault
from handlers.identity import FileIdentity
from handlers.render.names import StackId
from tests.integration.inprocess import bench
from tests.outbox import announced

RAW, MIPS = "em/v1/s_raw", "em/v1/s_mips"
SIGHTING = Sighting(
    "temca2", Path("/data/temca2/_metadata_20170829_1_.json"), FileIdentity(100, 1_000, 1_000, 7), FoundBy.SCAN
)
SETTLED = Settled(
    "aa",
    1050.0,
    RAW,
    MIPS,
    ("t1", "t2"),
    (),
    section_id="1050.0",
    bounds=(0.0, 0.0, 7000.0, 3840.0),
    output_dir="/data/mipmaps",
)


async def kinds(journal: Journal) -> list[str]:
    return [str(each.kind) for each in await announced(journal)]


async def settle(journal: Journal, montage_id: int, settled: Settled = SETTLED) -> int:
    montage = await journal.montage(montage_id)
    assert montage
    return (await journal.settle(Inspection(montage_id, montage.identity, montage.identity, "aa"), settled)).kept


async def completed(journal: Journal) -> int:
    montage_id = await journal.notice(SIGHTING)
    assert montage_id is not None
    await settle(journal, montage_id)
    for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED):
        await journal.record(montage_id, event)
    return montage_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


async def test_each_state_of_a_montage_is_announced_once_in_order(path: Path) -> None:
    async with Journal(path) as journal:
        montage_id = await completed(journal)
        events = await announced(journal)
        assert [str(each.kind) for each in events] == [
            f"montage.{name}" for name in ("noticed", "settled", "ingested", "mipmapped", "applied", "complete")
        ]
        assert [each.number for each in events] == [1, 2, 3, 4, 5, 6]
        assert {each.subject for each in events} == {f"montages/{montage_id}"}
        assert len({each.event_id for each in events}) == 6


async def test_an_announcement_contains_all_facts_of_the_montage(path: Path) -> None:
    async with Journal(path, clock=lambda: 1_500_000_000.25) as journal:
        montage_id = await completed(journal)
        (*_, last) = await announced(journal)
        assert last.data == {
            "montage": montage_id,
            "watch": "temca2",
            "state": "complete",
            "metafile": "/data/temca2/_metadata_20170829_1_.json",
            "metafile_uri": "file:///data/temca2/_metadata_20170829_1_.json",
            "z": 1050.0,
            "section_id": "1050.0",
            "tiles": 2,
            "bounds": {"min_x": 0.0, "min_y": 0.0, "max_x": 7000.0, "max_y": 3840.0},
            "raw_stack": {"owner": "em", "project": "v1", "stack": "s_raw"},
            "mipmapped_stack": {"owner": "em", "project": "v1", "stack": "s_mips"},
            "output_dir": "/data/mipmaps",
            "noticed_at": "2017-07-14T02:40:00.250Z",
            "changed_at": "2017-07-14T02:40:00.250Z",
            "complete_at": "2017-07-14T02:40:00.250Z",
            "verdict": None,
            "rules": [],
            "decided_by": None,
            "fault": None,
            "reason": None,
            "superseded_by": None,
        }


async def test_a_failure_is_announced_with_its_fault_and_a_retry_with_its_reason(path: Path) -> None:
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        assert montage_id is not None
        await journal.fail(montage_id, MetafileFault("x\x1b.json", "is not JSON", "write it again"))
        await journal.retry(montage_id, "the file changed")
        _, failed, repeated = await announced(journal)
        assert (failed.kind, failed.data["state"]) == (Kind.MONTAGE_FAILED, "failed")
        assert failed.data["fault"] == {
            "kind": "MetafileFault",
            "subject": "x\\x1b.json",
            "problem": "is not JSON",
            "hint": "write it again",
        }
        assert (repeated.kind, repeated.data["state"]) == (Kind.MONTAGE_REPEATED, "noticed")
        assert (repeated.data["reason"], repeated.data["fault"]) == ("the file changed", None)


async def test_a_superseded_montage_names_its_successor(path: Path) -> None:
    async with Journal(path) as journal:
        done = await completed(journal)
        again = await journal.notice_again(SIGHTING)
        montage = await journal.montage(again)
        assert montage
        inspection = Inspection(again, montage.identity, montage.identity, "bb")
        other = Settled("bb", 1050.0, RAW, MIPS, ("t3",), ())
        await journal.settle(inspection, other)
        (event,) = [each for each in await announced(journal) if each.kind is Kind.MONTAGE_SUPERSEDED]
        assert (event.subject, event.data["superseded_by"]) == (f"montages/{done}", again)


async def test_an_event_that_is_rolled_back_is_not_announced(path: Path) -> None:
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        assert montage_id is not None
        with pytest.raises(IllegalTransition):
            await journal.record(montage_id, Event.COMPLETED)

        def record_and_break(connection: sqlite3.Connection) -> None:
            outbox.open_stack(connection, RAW, "temca2", 1.0)
            outbox.close_stack(connection, RAW, "temca2", [], 1.0)
            raise LookupError

        with pytest.raises(LookupError):
            await journal.write(record_and_break)
        assert await kinds(journal) == ["montage.noticed"]
        assert await journal.open_stacks() == []


async def test_a_rebuilt_montage_is_not_announced(path: Path) -> None:
    async with Journal(path) as journal:
        await journal.restore(SIGHTING, SETTLED, MontageState.COMPLETE, "all levels are there")
        assert await kinds(journal) == []


async def test_a_number_is_not_used_again_after_old_events_were_deleted(path: Path) -> None:
    async with Journal(path) as journal:
        await completed(journal)
        await journal.write(lambda connection: connection.execute("DELETE FROM outbox"))
    async with Journal(path) as journal:
        assert await journal.read(outbox.last_number) == 6
        await journal.replay(1, Step.APPLY)
        assert [each.number for each in await announced(journal)] == [7]


async def test_closing_and_reopening_a_stack_is_announced(path: Path) -> None:
    async with Journal(path) as journal:
        montage_id = await journal.notice(SIGHTING)
        assert montage_id is not None
        await settle(journal, montage_id)
        await journal.open_stack(RAW, "temca2")
        for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
            await journal.record(montage_id, event)
        await journal.close_stack(RAW, "temca2", [1050.0])
        await journal.open_stack(RAW, "temca2")
        await journal.reopen_stack(RAW, "temca2", "another program closed it")
        events = [each for each in await announced(journal) if each.subject == f"stacks/{RAW}"]
        assert [str(each.kind) for each in events] == ["stack.closed", "stack.reopened", "stack.reopened"]
        assert events[0].data == {
            "stack": {"owner": "em", "project": "v1", "stack": "s_raw"},
            "watch": "temca2",
            "sections": [1050.0],
            "reason": None,
        }
        assert [each.data["reason"] for each in events[1:]] == [None, "another program closed it"]
        assert await journal.open_stacks() == [(RAW, "temca2")]


async def test_a_close_is_announced_with_the_sections_that_waited_for_it(path: Path) -> None:
    async with Journal(path) as journal:
        opened = OpenedStacks(journal)
        ids = []
        for number, z in enumerate((1051.0, 1050.0, 1052.0)):
            path_of_section = SIGHTING.path.with_name(f"_metadata_{number}_.json")
            ids.append(await journal.notice(replace(SIGHTING, path=path_of_section)))
            await settle(journal, ids[-1] or 0, replace(SETTLED, z=z, section_id=str(z), tile_ids=(f"t{number}",)))
        first, second, late = [each or 0 for each in ids]
        await opened.add(StackId.parse(RAW), "temca2")
        for montage_id in (first, second):
            for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
                await journal.record(montage_id, event)
        waiting = await journal.montages(states=[MontageState.APPLIED], stack=RAW)
        # While render-ws derives the stack, the close of the other stack makes one montage COMPLETE, and a third one
        # becomes APPLIED, whose tiles the derivation may not have seen.
        await journal.record(first, Event.COMPLETED)
        for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
            await journal.record(late, event)
        await opened.close(StackId.parse(RAW), waiting)
        (closed,) = [each.data for each in await announced(journal) if each.kind is Kind.STACK_CLOSED]
        assert closed["sections"] == [1050.0, 1051.0]


def from_file(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT kind, subject, data FROM outbox ORDER BY number").fetchall()
    connection.close()
    return [(kind, subject, json.loads(data)) for kind, subject, data in rows]


async def test_the_daemon_announces_each_state_of_a_section_and_the_close_of_its_stacks(tmp_path: Path) -> None:
    async with bench(tmp_path) as daemon:
        metafile = daemon.write(grid=7, tiles=2, size=(64, 48))
        await daemon.notice(metafile)
        montage = await daemon.reaches(metafile, MontageState.COMPLETE)
    events = from_file(tmp_path / "journal.sqlite")
    own = [kind for kind, subject, _ in events if subject == f"montages/{montage.id}"]
    states = ("noticed", "settled", "ingested", "mipmapped", "qc", "applied", "complete")
    assert own == [f"montage.{name}" for name in states]
    closed = {subject: data["sections"] for kind, subject, data in events if kind == "stack.closed"}
    assert closed == {"stacks/em/test/s_raw": [7.0], "stacks/em/test/s_mips": [7.0]}
    last = next(data for kind, _, data in events if kind == "montage.complete")
    assert (last["section_id"], last["output_dir"]) == ("7.0", str(tmp_path / "mipmaps"))
    assert last["bounds"]["min_x"] == 0.0
    assert last["bounds"]["max_x"] >= 64.0
    assert last["bounds"]["max_y"] >= 48.0
