"""The journal's record of the images that a montage's mipmaps were made from."""

import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.journal.journal import Journal
from daemon.journal.migration import MIGRATIONS
from daemon.journal.tables.images_read import MAX_CHANGES, pack, unpack
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, IllegalTransition, MontageState, Step, fold
from handlers.identity import FileIdentity
from handlers.images.digest import DIGEST_BYTES, FileContent

TILES = 2772
"""Number of tiles of a full section."""
IDENTITY = FileIdentity(100, 1_000, 1_000, 7)
SIGHTING = Sighting("temca2", Path("/data/temca2/_metadata_20170829_1_.json"), IDENTITY, FoundBy.SCAN)
STACK = "em/v1/s_raw"
numbers = st.integers(-(2**63), 2**63 - 1)


def content(number: int) -> FileContent:
    """Return identity and digest of the n-th image of a microscope."""
    chance = random.Random(number)
    written_ns = 1_504_011_706_000_000_000 + number * 900_000_000 + chance.randrange(10**9)
    changed_ns = written_ns + chance.randrange(10**7)
    return FileContent(
        FileIdentity(14_745_722, written_ns, changed_ns, 5_000_000 + number * 3), chance.randbytes(DIGEST_BYTES)
    )


def tile_ids(count: int) -> tuple[str, ...]:
    return tuple(
        f"201708291301{100_000 + number}_295434_5LC_0064_01_redo_001050_0_{number % 60}_{number // 60}.1050.0"
        for number in range(count)
    )


CONTENTS = st.builds(
    FileContent,
    st.builds(FileIdentity, numbers, numbers, numbers, numbers),
    st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES),
)


@given(st.dictionaries(st.text(), CONTENTS))
def test_unpacking_a_block_returns_the_packed_contents(contents):
    assert unpack(pack(contents)) == contents


@pytest.mark.parametrize(("seconds", "inode"), [(-11_644_473_600, 1), (2**40, 2**64 - 1)])
def test_every_time_and_inode_can_be_packed(seconds, inode):
    ns = seconds * 10**9
    identity = FileIdentity.of(os.stat_result((0, inode, *[0] * 8, 0.0, 0.0, 0.0, ns, ns, ns)))
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT ?, ?, ?, ?", identity).fetchone() == identity
    assert unpack(pack({"a": FileContent(identity, bytes(DIGEST_BYTES))}))["a"].identity == identity


def test_a_block_of_another_layout_is_refused():
    with pytest.raises(ValueError, match="found 9"):
        unpack(b"\x09" + pack({})[1:])


def test_the_images_of_a_full_section_take_less_than_130_kilobytes():
    contents = {tile_id: content(number) for number, tile_id in enumerate(tile_ids(TILES))}
    assert len(pack(contents)) < 130_000


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


async def ingested(journal: Journal, count: int = 3) -> int:
    montage_id = await journal.notice(SIGHTING)
    assert montage_id is not None
    settled = Settled("aa", 1050.0, STACK, STACK, tile_ids(count), ("odd",))
    await journal.settle(Inspection(montage_id, IDENTITY, IDENTITY, "aa"), settled)
    await journal.record(montage_id, Event.INGESTED)
    return montage_id


async def complete(journal: Journal, count: int = 3) -> int:
    montage_id = await ingested(journal, count)
    await journal.record_tiles(montage_id, {tile_id: content(number) for number, tile_id in enumerate(tile_ids(count))})
    for event in (Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED):
        await journal.record(montage_id, event)
    return montage_id


async def require_that_events_fold_to_the_state(journal: Journal, montage_id: int) -> None:
    montage = await journal.montage(montage_id)
    events = [
        (Event(each["event"]), each["detail"].get("onto") or each["detail"].get("failed_in"))
        for each in await journal.events(montage_id)
    ]
    assert montage is not None
    assert fold((event, named and MontageState(named)) for event, named in events) is montage.state


async def test_the_images_read_are_kept_until_the_montage_is_done_again(journal):
    montage_id = await complete(journal)
    expected = {tile_id: content(number) for number, tile_id in enumerate(tile_ids(3))}
    assert await journal.images_read(montage_id) == expected
    assert await journal.tiles_made(montage_id) == frozenset()
    await journal.replay(montage_id, Step.APPLY)
    assert await journal.images_read(montage_id) == expected
    for event in (Event.APPLIED, Event.COMPLETED):
        await journal.record(montage_id, event)
    await journal.replay(montage_id, Step.MIPMAPS)
    assert await journal.images_read(montage_id) == {}


async def test_the_images_read_are_kept_when_the_process_ends_during_the_mipmaps(tmp_path):
    async with Journal(tmp_path / "journal.sqlite") as journal:
        montage_id = await ingested(journal)
        await journal.record_tiles(montage_id, {tile_ids(3)[0]: content(0)})
    async with Journal(tmp_path / "journal.sqlite") as journal:
        await journal.record_tiles(montage_id, {tile_ids(3)[1]: content(1), tile_ids(3)[2]: None})
        await journal.record(montage_id, Event.MIPMAPPED)
        assert await journal.images_read(montage_id) == {tile_ids(3)[0]: content(0), tile_ids(3)[1]: content(1)}


@pytest.mark.parametrize("state", [MontageState.MIPMAPPED, MontageState.APPLIED, MontageState.COMPLETE])
async def test_only_changed_images_are_read_again(journal, state):
    montage_id = await complete(journal)
    if state is not MontageState.COMPLETE:
        await journal.replay(montage_id, Step.APPLY)
    if state is MontageState.APPLIED:
        await journal.record(montage_id, Event.APPLIED)
    first, *others = tile_ids(3)
    montage = await journal.change_images(montage_id, {first: "a.tif"})
    assert montage.state is MontageState.INGESTED
    assert montage.findings == ("odd", "1 images changed after their mipmaps were made: a.tif")
    assert montage.waiting_for == "making the mipmaps of 1 changed images again: a.tif"
    assert await journal.tiles_made(montage_id) == set(others)
    last = (await journal.events(montage_id))[-1]
    assert (last["event"], last["detail"]) == ("images_changed", {"images": 1, "names": ["a.tif"]})
    await require_that_events_fold_to_the_state(journal, montage_id)
    await journal.record_tiles(montage_id, {first: content(99)})
    await journal.record(montage_id, Event.MIPMAPPED)
    expected = {first: content(99), others[0]: content(1), others[1]: content(2)}
    assert await journal.images_read(montage_id) == expected


async def test_a_montage_keeps_only_the_newest_findings_about_changed_images(journal):
    montage_id = await complete(journal)
    for number in range(2 * MAX_CHANGES):
        montage = await journal.change_images(montage_id, {tile_ids(3)[0]: f"{number}.tif"})
        await journal.record_tiles(montage_id, {tile_ids(3)[0]: content(number)})
        for event in (Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED):
            await journal.record(montage_id, event)
    assert montage.findings[0] == "odd"
    assert len(montage.findings) == 1 + MAX_CHANGES
    assert montage.findings[-1].endswith(f": {2 * MAX_CHANGES - 1}.tif")


async def test_many_changed_images_are_counted_and_a_few_are_named(journal):
    montage_id = await complete(journal, 50)
    montage = await journal.change_images(montage_id, {tile_id: f"{tile_id}.tif" for tile_id in tile_ids(50)})
    assert montage.findings[-1].startswith("50 images changed after their mipmaps were made: ")
    assert montage.findings[-1].endswith(" and 45 more")


async def test_changed_images_of_a_superseded_montage_are_not_recorded(journal):
    montage_id = await complete(journal)
    await journal.record(montage_id, Event.SUPERSEDED)
    with pytest.raises(IllegalTransition):
        await journal.change_images(montage_id, {tile_ids(3)[0]: "a.tif"})
    assert await journal.images_read(montage_id) == {}


async def test_a_new_identity_is_adopted_only_if_the_bytes_are_the_same(journal):
    montage_id = await complete(journal)
    first, second, _ = tile_ids(3)
    touched = FileContent(content(0).identity._replace(ctime_ns=5), content(0).digest)
    other = FileContent(content(1).identity._replace(ctime_ns=5), content(9).digest)
    events = len(await journal.events(montage_id))
    await journal.adopt_images(montage_id, {first: touched, second: other, "unknown": touched})
    assert await journal.images_read(montage_id) == {first: touched, second: content(1), tile_ids(3)[2]: content(2)}
    assert len(await journal.events(montage_id)) == events


async def test_images_are_watched_from_complete_until_the_watching_ends(journal):
    montage_id = await complete(journal)
    ((found, watch, complete_at),) = await journal.watched_images()
    montage = await journal.montage(montage_id)
    assert (found, watch, complete_at) == (montage_id, "temca2", montage.complete_at)
    await journal.end_watching_images(montage_id)
    assert await journal.watched_images() == []
    await journal.replay(montage_id, Step.APPLY)
    for event in (Event.APPLIED, Event.COMPLETED):
        await journal.record(montage_id, event)
    assert len(await journal.watched_images()) == 1


async def test_tiles_of_an_older_journal_count_as_made_without_known_images(tmp_path):
    path = tmp_path / "journal.sqlite"
    async with Journal(path) as journal:
        montage_id = await ingested(journal)
        await journal.record_tiles(montage_id, dict.fromkeys(tile_ids(3)))
    async with Journal(path) as journal:
        assert await journal.tiles_made(montage_id) == set(tile_ids(3))
        await journal.record(montage_id, Event.MIPMAPPED)
        assert await journal.images_read(montage_id) == {}
        assert await journal.watched_images() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
