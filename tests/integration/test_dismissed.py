"""FAILED montages that an operator dismisses."""

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState, Step, fold
from handlers.errors import Evidence, ImageFault
from handlers.identity import FileIdentity

SIGHTING = Sighting("temca2", Path("/data/temca2/_metadata_1_.json"), FileIdentity(100, 1, 1, 7), FoundBy.SCAN)
STACK = "em/v1/s_raw"
IMAGE = Evidence(Path("/data/temca2/t1.tif"), FileIdentity(1, 1, 1, 1))


@pytest.fixture
async def journal(tmp_path):
    async with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


async def settled(journal: Journal, digest: str = "aa", sighting: Sighting = SIGHTING) -> int:
    montage_id = await journal.notice(sighting)
    inspection = Inspection(montage_id, sighting.identity, sighting.identity, digest)
    return (await journal.settle(inspection, Settled(digest, 1.0, STACK, STACK, ("t1",), ()))).kept


async def failed(journal: Journal) -> int:
    montage_id = await settled(journal)
    await journal.record(montage_id, Event.INGESTED)
    await journal.fail(montage_id, ImageFault("t1", "is truncated").with_evidence(IMAGE))
    return montage_id


async def test_a_dismissed_montage_keeps_its_fault_and_the_reason_and_is_not_counted_as_failed(journal):
    montage_id = await failed(journal)
    montage = await journal.dismiss(montage_id, "deleted on purpose")
    assert (montage.state, montage.waiting_for) == (MontageState.DISMISSED, "deleted on purpose")
    assert (montage.fault.problem, montage.failed_in) == ("is truncated", MontageState.INGESTED)
    assert await journal.counts() == {("temca2", MontageState.DISMISSED): 1}
    events = await journal.events(montage_id)
    assert events[-1]["event"] == "dismissed"
    assert events[-1]["detail"]["reason"] == "deleted on purpose"
    assert fold([(Event(each["event"]), None) for each in events]) is MontageState.DISMISSED


async def test_a_dismissed_montage_is_not_retried_when_its_file_changes(journal):
    montage_id = await failed(journal)
    assert len(await journal.awaited()) == 1
    await journal.dismiss(montage_id, "deleted on purpose")
    assert await journal.awaited() == []
    assert await journal.retry(montage_id, "t1.tif has changed") is None


async def test_a_replay_of_a_dismissed_montage_begins_in_the_state_in_which_it_failed(journal):
    montage_id = await failed(journal)
    await journal.dismiss(montage_id, "deleted on purpose")
    montage = await journal.replay(montage_id, Step.APPLY)
    assert (montage.state, montage.waiting_for, montage.fault) == (MontageState.INGESTED, None, None)


async def test_only_a_failed_montage_can_be_dismissed(journal):
    montage_id = await settled(journal)
    assert await journal.dismiss(montage_id, "deleted on purpose") is None
    assert await journal.dismiss(99, "deleted on purpose") is None
    assert (await journal.montage(montage_id)).state is MontageState.SETTLED


async def test_the_changed_metafile_of_a_dismissed_montage_is_read_again(journal):
    montage_id = await failed(journal)
    await journal.dismiss(montage_id, "deleted on purpose")
    changed = replace(SIGHTING, identity=FileIdentity(200, 2, 2, 8))
    other = await settled(journal, "bb", changed)
    states = {each.id: each.state for each in await journal.montages()}
    assert states == {montage_id: MontageState.SUPERSEDED, other: MontageState.SETTLED}


async def test_a_montage_that_never_settled_is_dismissed_and_read_again_when_its_metafile_changes(journal):
    montage_id = await journal.notice(SIGHTING)
    await journal.fail(montage_id, ImageFault("m", "is no JSON"))
    assert (await journal.dismiss(montage_id, "a test")).state is MontageState.DISMISSED
    assert await journal.notice(SIGHTING) is None
    assert await journal.notice(replace(SIGHTING, identity=FileIdentity(200, 2, 2, 8))) == montage_id
    assert (await journal.montage(montage_id)).state is MontageState.NOTICED
