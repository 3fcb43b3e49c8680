"""Effects of a metafile that was read on the montages of its path and of other paths, in a journal in memory."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.migration import migrate
from daemon.journal.tables import retries, settling, sightings, tile_sets
from daemon.journal.tables.rows import need, record
from daemon.montages.records import Inspection, Montage, Settled, SettleResult, StaleInspection
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState
from handlers.errors import Evidence, ImageFault, MetafileFault
from handlers.identity import FileIdentity

S = MontageState
PATH, OTHER = Path("/data/a/_metadata_20260102_1_.json"), Path("/data/b/_metadata_20260102_1_.json")
RAW, MIPS = "em/v1/s_raw", "em/v1/s_mips"
NOW = 1000.0
AWAITED = Evidence(Path("/data/a/t1.tif"), FileIdentity(5, 6, 7, 8), or_gone=True)
FAULT = MetafileFault(str(PATH), "is invalid", "export it again").with_evidence(AWAITED)
PROGRESS = (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED)


class Rows:
    """A journal in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.inode = 0

    def sight(self, path: Path = PATH, identity: FileIdentity | None = None) -> int:
        """Notice a new file at a path."""
        self.inode += 1
        seen = identity or FileIdentity(100, 1000, 1000, self.inode)
        found = sightings.notice(self.connection, Sighting("w", path, seen, FoundBy.SCAN), NOW)
        assert found is not None
        return found

    def inspection(self, montage_id: int, digest: str | None = "aa") -> Inspection:
        identity = self[montage_id].identity
        return Inspection(montage_id, identity, identity if digest else None, digest)

    def settle(self, montage_id: int, digest: str = "aa", **options: Any) -> SettleResult:
        moved, apart = options.pop("moved", {}), options.pop("apart", ())
        values = settled(digest, **options)
        return settling.settle(self.connection, self.inspection(montage_id, digest), values, moved, apart, NOW)

    def done(self, digest: str = "aa", path: Path = PATH, *, until: Event = Event.COMPLETED, **options: Any) -> int:
        """Notice and settle a new file, and record the events of its montage up to one of them."""
        kept = self.settle(self.sight(path), digest, **options).kept
        for event in PROGRESS[: PROGRESS.index(until) + 1] if until in PROGRESS else ():
            record(self.connection, kept, event, NOW, {})
        return kept

    def fail(self, montage_id: int) -> None:
        settling.fail(self.connection, montage_id, FAULT, NOW)

    def __getitem__(self, montage_id: int) -> Montage:
        return need(self.connection, montage_id)

    def state(self, montage_id: int) -> MontageState:
        return self[montage_id].state

    def column(self, name: str, montage_id: int) -> Any:
        query = f"SELECT {name} FROM montages WHERE id = ?"
        return self.connection.execute(query, (montage_id,)).fetchone()[0]

    def ids(self) -> list[int]:
        return [row[0] for row in self.connection.execute("SELECT id FROM montages ORDER BY id")]

    def events(self, montage_id: int) -> list[tuple[str, dict[str, Any]]]:
        query = "SELECT event, detail FROM events WHERE montage_id = ? ORDER BY id"
        return [(event, json.loads(detail)) for event, detail in self.connection.execute(query, (montage_id,))]


@pytest.fixture
def rows() -> Iterator[Rows]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, Path("journal.sqlite"))
        yield Rows(connection)


def settled(digest: str = "aa", tiles: tuple[str, ...] = ("t1", "t2"), **options: Any) -> Settled:
    return Settled(**{"digest": digest, "z": 7.0, "raw_stack": RAW, "mipmapped_stack": MIPS, "tile_ids": tiles,
                      "findings": (), **options})  # fmt: skip


# --- a content settles


def test_the_values_of_a_settled_content_are_stored(rows):
    facts = {"raw_fields": '{"a": "1"}', "mipmapped_fields": '{"b": "2"}', "section_id": "7.0", "output_dir": "file:/m"}
    rows.done("other", OTHER, tiles=("u1",))
    montage_id = rows.done(
        until=Event.SETTLED, findings=("one", "two"), bounds=(1.0, 2.0, 3.0, 4.0), scope="t1", tape="x", **facts
    )
    montage = rows[montage_id]
    assert (montage.state, montage.digest, montage.z) == (S.SETTLED, "aa", 7.0)
    assert (montage.raw_stack, montage.mipmapped_stack, montage.tile_count) == (RAW, MIPS, 2)
    assert (montage.findings, montage.bounds) == (("one", "two"), (1.0, 2.0, 3.0, 4.0))
    assert (montage.scope, montage.tape) == ("t1", "x")
    assert {name: rows.column(name, montage_id) for name in facts} == facts
    assert rows.column("seen_digest", montage_id) is None
    assert tile_sets.tile_ids(rows.connection, montage_id) == {"t1", "t2"}
    assert rows.events(montage_id)[-1] == ("settled", {"tiles": 2, "z": 7.0})


def test_a_montage_without_bounds_has_none(rows):
    assert rows[rows.done(until=Event.SETTLED)].bounds is None


def test_a_content_that_settles_supersedes_the_other_contents_of_its_path(rows):
    complete = rows.done("old")
    failed = rows.done("bad", until=Event.SETTLED)
    rows.fail(failed)
    result = rows.settle(rows.sight(), "new")
    assert [rows.state(each) for each in (complete, failed, result.kept)] == [S.SUPERSEDED, S.SUPERSEDED, S.SETTLED]
    assert not result.is_known
    assert [each.id for each in result.superseded] == [failed]  # the complete one was superseded by the failed one
    assert rows.column("superseded_by", failed) == result.kept
    assert rows.events(failed)[-1] == ("superseded", {"by": result.kept})


def test_a_content_that_had_settled_is_seen_again_and_supersedes_the_others(rows):
    known = rows.done("aa")
    bad = rows.sight()
    rows.connection.execute("UPDATE montages SET digest = 'bad', state = 'failed' WHERE id = ?", (bad,))
    identity = FileIdentity(9, 9, 9, 99)
    again = rows.sight(identity=identity)
    result = rows.settle(again, "aa")
    assert (result.kept, result.is_known, result.rivals) == (known, True, ())
    assert [each.id for each in result.superseded] == [bad]
    assert rows.column("superseded_by", bad) == known
    assert rows.ids() == [known, bad]
    assert (rows[known].identity, rows.state(known)) == (identity, S.COMPLETE)
    assert rows.column("sighted", known) == 3
    assert rows.events(known)[-1] == ("seen_again", {})


def test_a_content_is_recognised_before_it_settles_if_it_had_settled(rows):
    known = rows.done("aa", until=Event.INGESTED)
    result = settling.recognise(rows.connection, rows.inspection(rows.sight(), "aa"), NOW)
    assert result == SettleResult(known, (), is_known=True)
    assert (rows.state(known), rows.ids()) == (S.INGESTED, [known])


@pytest.mark.parametrize("digest", ["other", None])
def test_another_content_is_not_recognised_and_nothing_is_recorded(rows, digest):
    known = rows.done("aa")
    montage_id = rows.sight()
    assert settling.recognise(rows.connection, rows.inspection(montage_id, digest), NOW) is None
    assert [rows.state(each) for each in (known, montage_id)] == [S.COMPLETE, S.NOTICED]


def test_a_content_that_had_failed_is_not_recognised_but_settles_again_in_its_own_row(rows):
    failed = rows.done("aa", until=Event.INGESTED)
    rows.fail(failed)
    again = rows.sight()
    assert settling.recognise(rows.connection, rows.inspection(again), NOW) is None
    result = rows.settle(again, "aa")
    assert (result.kept, result.is_known, result.superseded) == (failed, False, ())
    assert (rows.ids(), rows.state(failed), rows[failed].digest) == ([failed], S.SETTLED, "aa")
    expected = {"tiles": 2, "z": 7.0, "reason": "the metafile holds this content again"}
    assert rows.events(failed)[-1] == ("replayed", expected)


def test_a_content_that_was_ignored_is_noticed_again_and_settles(rows):
    ignored = rows.sight()
    settling.ignore(rows.connection, rows.inspection(ignored), "lens correction", None, NOW)
    result = rows.settle(rows.sight(), "aa")
    assert (result.kept, rows.state(ignored), rows.ids()) == (ignored, S.SETTLED, [ignored])
    assert rows.events(ignored)[-2:] == [("renoticed", {}), ("settled", {"tiles": 2, "z": 7.0})]


def test_the_successor_of_a_merged_row_is_the_row_that_is_kept(rows):
    known = rows.done("aa")
    former = rows.done("old", OTHER, tiles=("u1",))
    again = rows.sight()
    record(rows.connection, former, Event.SUPERSEDED, NOW, {"by": again})
    rows.settle(again, "aa")
    assert rows.column("superseded_by", former) == known


# --- rivals: montages of other metafiles


def test_a_metafile_that_names_a_tile_of_another_montage_records_nothing_and_names_it(rows):
    owner = rows.done("bb", OTHER, until=Event.SETTLED, tiles=("t2", "t3"))
    montage_id = rows.sight()
    result = rows.settle(montage_id, apart=[owner])
    assert (result.kept, result.superseded, rows.state(montage_id)) == (montage_id, (), S.NOTICED)
    ((montage, shared),) = ((rival.montage, rival.shared) for rival in result.rivals)
    assert (montage.id, shared) == (owner, ("t2",))


def test_a_rival_that_moved_is_superseded_with_its_reason(rows):
    owner = rows.done("bb", OTHER, until=Event.SETTLED)
    montage_id = rows.sight()
    result = rows.settle(montage_id, moved={rows[owner]: "moved to a"})
    assert (result.kept, rows.state(montage_id), rows.state(owner)) == (montage_id, S.SETTLED, S.SUPERSEDED)
    assert [each.id for each in result.superseded] == [owner]
    assert rows.events(owner)[-1] == ("superseded", {"by": montage_id, "because": "moved to a"})


def test_a_rival_that_changed_since_it_was_checked_makes_the_inspection_stale(rows):
    owner = rows.done("bb", OTHER, until=Event.SETTLED)
    before = rows[owner]
    record(rows.connection, owner, Event.INGESTED, NOW, {})
    with pytest.raises(StaleInspection):
        rows.settle(rows.sight(), moved={before: "moved"})


def test_a_rival_without_a_common_tile_does_not_prevent_settling_after_it_was_checked(rows):
    same_content = rows.sight(OTHER)
    rows.connection.execute("UPDATE montages SET seen_digest = 'aa' WHERE id = ?", (same_content,))
    montage_id = rows.sight()
    assert [rival.montage.id for rival in rows.settle(montage_id).rivals] == [same_content]
    result = rows.settle(montage_id, apart=[same_content])
    assert (result.rivals, rows.state(montage_id)) == ((), S.SETTLED)


def test_the_identity_that_was_read_shows_the_same_file_under_another_path(rows):
    identity = FileIdentity(100, 1000, 2000, 77)
    other = rows.sight(OTHER, identity)
    montage_id = rows.sight()
    inspection = replace(rows.inspection(montage_id), read=identity)
    result = settling.settle(rows.connection, inspection, settled(), {}, (), NOW)
    assert [rival.montage.id for rival in result.rivals] == [other]


def test_a_stack_name_of_other_header_values_is_refused(rows):
    other = rows.done("bb", OTHER, until=Event.SETTLED, tiles=("u1",), raw_fields='{"specimen": "1-7"}')
    montage_id = rows.sight()
    result = rows.settle(montage_id, raw_fields='{"specimen": "1_7"}')
    assert result.namesake is not None
    assert (result.namesake.montage.id, result.namesake.own_value) == (other, "1_7")
    assert (result.kept, rows.state(montage_id)) == (montage_id, S.NOTICED)


def test_a_montage_that_moved_is_not_a_namesake(rows):
    other = rows.done("bb", OTHER, until=Event.SETTLED, raw_fields='{"specimen": "1-7"}')
    result = rows.settle(rows.sight(), raw_fields='{"specimen": "1_7"}', moved={rows[other]: "moved"})
    assert result.namesake is None
    assert rows.state(result.kept) is S.SETTLED


def test_contents_that_a_moved_metafile_had_replaced_are_superseded_except_finished_ones(rows):
    failed = rows.done("old", OTHER, until=Event.SETTLED, tiles=("u1",))
    rows.fail(failed)
    rows.sight(OTHER)
    moved = rows.connection.execute("SELECT max(id) FROM montages").fetchone()[0]
    montage_id = rows.sight()
    result = rows.settle(montage_id, moved={rows[moved]: "moved"})
    assert [each.id for each in result.superseded] == [moved, failed]
    assert rows.column("superseded_by", failed) == moved
    for until in (Event.APPLIED, Event.COMPLETED):
        path = Path(f"/data/{until}/_metadata_1_.json")
        finished = rows.done(f"old {until}", path, until=until, tiles=(f"v{until}",))
        rows.sight(path)
        moved = rows.connection.execute("SELECT max(id) FROM montages").fetchone()[0]
        rows.settle(rows.sight(), f"new {until}", moved={rows[moved]: "moved"})
        assert rows.state(finished) is not S.SUPERSEDED


def test_all_contents_that_several_moved_metafiles_had_replaced_are_reported(rows):
    replaced, moved = [], {}
    for name in ("c", "d"):
        path = Path(f"/data/{name}/_metadata_1_.json")
        replaced.append(rows.done(f"old {name}", path, until=Event.SETTLED, tiles=(name,)))
        rows.fail(replaced[-1])
        moved[rows[rows.sight(path)]] = "moved"
    result = rows.settle(rows.sight(), moved=moved)
    assert [each.id for each in result.superseded] == [*(each.id for each in moved), *replaced]


# --- a metafile that moved without settling


@pytest.fixture
def moved(rows: Rows) -> tuple[int, int]:
    """An unread montage whose metafile moved, and a montage that it had replaced at its path."""
    replaced = rows.done("old", OTHER, until=Event.SETTLED, tiles=("u1",))
    rows.fail(replaced)
    return rows.sight(OTHER), replaced


def test_a_montage_that_moved_onto_an_unread_one_is_superseded_with_those_that_it_had_replaced(rows, moved):
    unread, replaced = moved
    onto = rows.sight()
    result = settling.move(rows.connection, rows[unread], rows[onto], NOW)
    assert [each.id for each in result] == [unread, replaced]
    assert rows.events(unread)[-1] == ("superseded", {"by": onto, "because": f"moved to {PATH}"})
    assert (rows.column("superseded_by", unread), rows.column("superseded_by", replaced)) == (onto, unread)


def test_a_montage_with_tiles_is_not_superseded_if_the_metafile_moved_onto_a_settled_one(rows, moved):
    unread, replaced = moved
    onto = rows.done("bb", until=Event.INGESTED)
    assert [each.id for each in settling.move(rows.connection, rows[unread], rows[onto], NOW)] == [unread]
    assert rows.state(replaced) is S.FAILED


def test_a_montage_without_tiles_is_superseded_even_if_the_metafile_moved_onto_a_failed_one(rows):
    replaced = rows.sight(OTHER)
    settling.refuse(rows.connection, rows.inspection(replaced, "bad"), FAULT, NOW)
    unread = rows.sight(OTHER)
    onto = rows.done("bb", until=Event.INGESTED)
    rows.fail(onto)
    result = settling.move(rows.connection, rows[unread], rows[onto], NOW)
    assert [each.id for each in result] == [unread, replaced]


def test_no_montage_is_superseded_if_the_moved_montage_changed_meanwhile(rows, moved):
    unread, replaced = moved
    before = rows[unread]
    rows.sight(OTHER)
    assert settling.move(rows.connection, before, rows[rows.sight()], NOW) == ()
    assert (rows.state(unread), rows.state(replaced)) == (S.NOTICED, S.FAILED)


def test_contents_of_a_path_with_a_later_sighting_are_not_superseded(rows):
    first = rows.done("old", OTHER, until=Event.SETTLED, tiles=("u1",))
    rows.fail(first)
    second = rows.done("newer", OTHER, until=Event.INGESTED, tiles=("u2",))
    rows.connection.execute("UPDATE montages SET state = 'failed' WHERE id = ?", (first,))
    later = rows.sight(OTHER)
    onto = rows.sight()
    assert [each.id for each in settling.move(rows.connection, rows[second], rows[onto], NOW)] == [second]
    assert (rows.state(first), rows.state(later)) == (S.FAILED, S.NOTICED)


# --- a content that is not ingested


def test_a_refused_content_is_failed_with_its_digest_fault_and_awaited_file(rows):
    montage_id = rows.sight()
    result, montage = settling.refuse(rows.connection, rows.inspection(montage_id, "bad"), FAULT, NOW)
    assert (result.kept, montage.id, montage.state, montage.digest) == (montage_id, montage_id, S.FAILED, "bad")
    assert montage.fault is not None
    assert (montage.fault.kind, montage.fault.problem) == ("MetafileFault", "is invalid")
    (awaited,) = retries.awaited(rows.connection)
    assert (awaited.montage_id, awaited.evidence) == (montage_id, AWAITED)
    event, detail = rows.events(montage_id)[-1]
    assert (event, detail["attempt"], detail["fault"]["problem"]) == ("failed", 0, "is invalid")


def test_a_fault_keeps_the_number_of_its_attempt(rows):
    montage_id = rows.done(until=Event.SETTLED)
    rows.connection.execute("UPDATE montages SET attempt = 4 WHERE id = ?", (montage_id,))
    assert settling.fail(rows.connection, montage_id, ImageFault("i", "is black"), NOW).attempt == 4
    assert rows.events(montage_id)[-1][1]["attempt"] == 4
    assert retries.awaited(rows.connection) == []


def test_a_content_that_is_refused_twice_has_one_row(rows):
    first = rows.sight()
    settling.refuse(rows.connection, rows.inspection(first, "bad"), FAULT, NOW)
    identity = FileIdentity(3, 3, 3, 3)
    result, montage = settling.refuse(
        rows.connection, rows.inspection(rows.sight(identity=identity), "bad"), FAULT, NOW
    )
    assert (result.kept, rows.ids(), montage.identity) == (first, [first], identity)
    assert [event for event, _ in rows.events(first)] == ["noticed", "failed", "renoticed", "failed"]


def test_a_refused_or_ignored_content_supersedes_all_others_of_its_path_except_complete_ones(rows):
    complete = rows.done("aa")
    refused = rows.sight()
    settling.refuse(rows.connection, rows.inspection(refused, "bad"), FAULT, NOW)
    ignored = rows.sight()
    result = settling.ignore(rows.connection, rows.inspection(ignored, "lens"), "lens correction", AWAITED, NOW)
    assert (result.kept, [each.id for each in result.superseded]) == (ignored, [refused])
    assert rows.column("superseded_by", refused) == ignored
    assert [rows.state(each) for each in (complete, refused, ignored)] == [S.COMPLETE, S.SUPERSEDED, S.IGNORED]
    assert (rows[ignored].waiting_for, rows[ignored].digest) == ("lens correction", "lens")
    assert [each.montage_id for each in retries.awaited(rows.connection)] == [ignored]
    assert rows.events(ignored)[-1] == ("ignored", {"reason": "lens correction"})


def test_a_content_that_has_settled_is_never_refused(rows):
    rows.done("aa", until=Event.INGESTED)
    inspection = rows.inspection(rows.sight(), "aa")
    with pytest.raises(StaleInspection):
        settling.refuse(rows.connection, inspection, FAULT, NOW)


MISSING = MetafileFault(str(PATH), "is missing").with_evidence(Evidence(PATH, None))


@pytest.mark.parametrize("until", [Event.SETTLED, Event.INGESTED, Event.MIPMAPPED])
def test_a_missing_metafile_supersedes_the_unfinished_contents_of_its_path(rows, until):
    unfinished = rows.done("aa", until=until)
    unread = rows.sight()
    result, montage = settling.refuse(rows.connection, rows.inspection(unread, None), MISSING, NOW)
    assert ([each.id for each in result.superseded], result.kept) == ([unfinished], unread)
    assert rows.column("superseded_by", unfinished) == unread
    assert (rows.state(unfinished), montage.state, montage.digest) == (S.SUPERSEDED, S.FAILED, None)


@pytest.mark.parametrize("until", [Event.APPLIED, Event.COMPLETED])
def test_a_missing_metafile_does_not_supersede_finished_contents(rows, until):
    finished = rows.done("aa", until=until)
    before = rows.state(finished)
    result, _ = settling.refuse(rows.connection, rows.inspection(rows.sight(), None), MISSING, NOW)
    assert (result.superseded, rows.state(finished)) == ((), before)


def test_a_metafile_that_is_ignored_unread_supersedes_no_other_content(rows):
    unfinished = rows.done("aa", until=Event.INGESTED)
    unread = rows.sight()
    result = settling.ignore(rows.connection, rows.inspection(unread, None), "a second path", None, NOW)
    assert (result.kept, result.superseded, rows.state(unread)) == (unread, (), S.IGNORED)
    assert rows.state(unfinished) is S.INGESTED


def test_a_metafile_that_cannot_be_read_supersedes_no_other_content(rows):
    unfinished = rows.done("aa", until=Event.INGESTED)
    unread = rows.sight()
    result, montage = settling.refuse(rows.connection, rows.inspection(unread, None), FAULT, NOW)
    assert (result.superseded, rows.state(unfinished), montage.state) == ((), S.INGESTED, S.FAILED)


# --- which sighting an outcome belongs to


def test_an_outcome_of_a_newer_file_than_the_sighting_is_recorded_with_its_identity(rows):
    montage_id = rows.sight()
    newer = FileIdentity(5, 5, 5, 5)
    inspection = replace(rows.inspection(montage_id), read=newer)
    settling.settle(rows.connection, inspection, settled(), {}, (), NOW)
    assert (rows[montage_id].identity, rows.state(montage_id)) == (newer, S.SETTLED)


def test_an_outcome_of_the_newest_sighting_is_recorded_although_the_inspection_expected_another(rows):
    montage_id = rows.sight()
    newest = rows[montage_id].identity
    inspection = Inspection(montage_id, FileIdentity(1, 1, 1, 1), newest, "aa")
    assert settling.settle(rows.connection, inspection, settled(), {}, (), NOW).kept == montage_id


def test_an_outcome_of_another_sighting_or_of_a_montage_that_is_not_noticed_is_stale(rows):
    montage_id = rows.sight()
    before = rows.inspection(montage_id)
    rows.sight()
    for outdated in (before, replace(before, read=FileIdentity(2, 2, 2, 2)), replace(before, read=None)):
        with pytest.raises(StaleInspection):
            settling.settle(rows.connection, outdated, settled(), {}, (), NOW)
    present = rows.inspection(montage_id)
    rows.settle(montage_id)
    for late in (present, replace(present, montage_id=99)):
        with pytest.raises(StaleInspection):
            settling.settle(rows.connection, late, settled(), {}, (), NOW)


# --- waiting


def test_a_reason_to_wait_is_stored_with_the_digest_that_was_seen(rows):
    montage_id = rows.sight()
    settling.wait(rows.connection, montage_id, "images are missing", "aa")
    settling.wait(rows.connection, montage_id, "an image is truncated", None)
    assert rows[montage_id].waiting_for == "an image is truncated"
    assert rows.column("seen_digest", montage_id) == "aa"
    settling.wait(rows.connection, montage_id, "an image is truncated", "bb")
    assert rows.column("seen_digest", montage_id) == "bb"


def test_an_unchanged_reason_to_wait_is_not_written_again(rows):
    montage_id = rows.sight()
    settling.wait(rows.connection, montage_id, "images are missing", "aa")
    before = rows.connection.total_changes
    settling.wait(rows.connection, montage_id, "images are missing", "aa")
    settling.wait(rows.connection, montage_id, "images are missing", None)
    assert rows.connection.total_changes == before


# --- a rebuilt journal


def test_a_montage_of_a_rebuilt_journal_is_restored_in_its_state(rows):
    sighting = Sighting("w", PATH, FileIdentity(1, 2, 3, 4), FoundBy.REBUILD)
    montage_id = settling.restore(rows.connection, sighting, settled(), S.APPLIED, "by its tiles", NOW)
    assert montage_id is not None
    montage = rows[montage_id]
    assert (montage.state, montage.digest, montage.identity) == (S.APPLIED, "aa", sighting.identity)
    assert rows.events(montage_id)[-1] == ("rebuilt", {"onto": "applied", "evidence": "by its tiles"})
    assert tile_sets.tile_ids(rows.connection, montage_id) == {"t1", "t2"}


def test_a_montage_whose_tiles_another_one_owns_is_not_restored(rows):
    rows.done("bb", OTHER, until=Event.SETTLED, tiles=("t2",))
    sighting = Sighting("w", PATH, FileIdentity(1, 2, 3, 4), FoundBy.REBUILD)
    before = rows.ids()
    assert settling.restore(rows.connection, sighting, settled(), S.COMPLETE, "", NOW) is None
    assert rows.ids() == before
