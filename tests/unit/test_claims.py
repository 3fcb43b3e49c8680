"""Which of two metafiles that name the same tiles goes on: each case with real files."""

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.montages.records import Namesake, Rival, StaleInspection
from daemon.montages.states import MontageState
from daemon.pipeline import claims
from daemon.pipeline.claims import RIVAL_PAUSE_S, Claim, Claims, claim_of, find, namesake_fault
from daemon.pipeline.settle import Ignored, NotYet
from daemon.system import threads
from handlers.acquisition import arrival
from handlers.acquisition.presence import find_metafile
from handlers.errors import Evidence, MetafileFault, StorageFault
from handlers.identity import FileIdentity

S = MontageState
CONTENT, ANOTHER = b'[{"a": 1}, {"data": []}]', b'[{"a": 2}, {"data": []}]'
UNFINISHED = [S.NOTICED, S.SETTLED, S.INGESTED, S.MIPMAPPED]
FINISHED = [S.APPLIED, S.COMPLETE]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Two:
    """The metafile of a montage, and one that names its tiles and settles."""

    def __init__(self, root: Path) -> None:
        self.theirs, self.own = root / "theirs.json", root / "own.json"
        self.theirs.write_bytes(CONTENT)
        self.own.write_bytes(ANOTHER)
        self.digest = sha(ANOTHER)
        """Of the settling metafile."""
        self.accessible = True
        self.asked: list[str] = []
        self.shared: tuple[str, ...] = ("t1", "t2")
        self.state, self.failed_in = S.SETTLED, None
        self.identity = self.seen(self.theirs)

    @staticmethod
    def seen(path: Path) -> FileIdentity:
        found = find_metafile(path)
        assert found is not None
        return found.identity

    @property
    def other(self) -> Any:
        facts = {"id": 5, "watch": "theirs", "digest": sha(CONTENT), "raw_stack": "em/v1/s_raw", "z": 7.0}
        return SimpleNamespace(
            metafile=self.theirs, identity=self.identity, state=self.state, failed_in=self.failed_in, **facts
        )

    async def judged(self) -> Any:
        settling: Any = SimpleNamespace(metafile=self.own)
        return await Claims(self.is_accessible).judge(Rival(self.other, self.shared), settling, self.digest)

    def is_accessible(self, watch: str) -> bool:
        self.asked.append(watch)
        return self.accessible

    def make_a_copy(self) -> None:
        self.own.write_bytes(CONTENT)
        self.digest = sha(CONTENT)

    def make_a_link(self) -> None:
        self.own.unlink()
        os.link(self.theirs, self.own)
        self.digest = sha(CONTENT)
        self.identity = self.seen(self.theirs)


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


# --- what the other path holds


def test_a_path_that_holds_what_its_montage_stands_for_stands(two: Two) -> None:
    assert claim_of(two.other) is Claim.PRESENT


def test_a_rewritten_path_stands_if_its_content_is_the_same(two: Two) -> None:
    os.utime(two.theirs, (1, 1))
    assert claim_of(two.other) is Claim.PRESENT


def test_a_path_with_another_content_or_no_metafile_any_more_is_replaced(two: Two) -> None:
    two.theirs.write_bytes(ANOTHER)
    assert claim_of(two.other) is Claim.REPLACED
    two.theirs.unlink()
    os.mkfifo(two.theirs)
    assert claim_of(two.other) is Claim.REPLACED


def test_a_path_without_a_file_is_gone(two: Two) -> None:
    two.theirs.unlink()
    assert claim_of(two.other) is Claim.GONE


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), NotADirectoryError("gone")])
def test_a_file_that_goes_between_look_and_read_is_gone(
    two: Two, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def read(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(arrival, "read_regular", read)
    two.theirs.write_bytes(ANOTHER)
    assert claim_of(two.other) is Claim.GONE


def test_a_file_that_cannot_be_read_or_looked_at_is_a_fault_that_names_it(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(5, "Input/output error")

    two.theirs.write_bytes(ANOTHER)
    with monkeypatch.context() as patch:
        patch.setattr(arrival, "read_regular", refuse)
        with pytest.raises(StorageFault, match=str(two.theirs)):
            claim_of(two.other)
    monkeypatch.setattr(claims, "find_metafile", refuse)
    with pytest.raises(StorageFault, match=f"{two.theirs}.*access the metafile"):
        claim_of(two.other)


def test_a_link_shows_the_file_that_it_leads_to(two: Two) -> None:
    real = two.theirs.rename(two.theirs.with_name("real.json"))
    two.theirs.symlink_to(real)
    two.identity = two.seen(real)
    assert claim_of(two.other) is Claim.PRESENT
    two.own.unlink()
    two.own.symlink_to(real)
    assert find(two.other, two.own).claim is Claim.SAME_FILE


def test_the_file_that_proves_a_claim_is_that_of_the_rival_and_its_absence_counts(two: Two) -> None:
    evidence = find(two.other, two.own).evidence
    assert (evidence.path, evidence.identity, evidence.or_gone) == (two.theirs, two.identity, True)
    two.theirs.unlink()
    evidence = find(two.other, two.own).evidence
    assert (evidence.path, evidence.identity, evidence.or_gone) == (two.theirs, None, True)


def test_a_settling_metafile_that_is_gone_is_inspected_again(two: Two) -> None:
    two.own.unlink()
    with pytest.raises(StaleInspection):
        find(two.other, two.own)


async def test_what_a_path_holds_is_unknown_if_it_cannot_be_accessed(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Claims(two.is_accessible)
    assert await asked.present(two.other) is Claim.PRESENT
    two.accessible = False
    assert await asked.present(two.other) is None
    assert two.asked == ["theirs", "theirs"]
    two.accessible = True

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(claims, "find_metafile", refuse)
    assert await asked.present(two.other) is None


# --- who goes on


@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED, S.FAILED])
async def test_tiles_of_a_montage_whose_metafile_is_there_are_refused(two: Two, state: MontageState) -> None:
    two.state = state
    with pytest.raises(MetafileFault) as refused:
        await two.judged()
    fault = refused.value
    assert fault.subject == str(two.own)
    found = f"shares tiles with {two.theirs} in em/v1/s_raw at z 7 (2, such as t1)"
    assert fault.problem == f"{found}: each tile of a stack belongs to one montage"
    assert fault.evidence == find(two.other, two.own).evidence
    expected = "to replace " if state in FINISHED else "remove one of the two metafiles"
    assert expected in fault.hint
    assert ("temwatch dismiss 5" in fault.hint) is (state in FINISHED)


async def test_a_copy_is_refused_as_long_as_its_original_is_there(two: Two) -> None:
    two.make_a_copy()
    for two.state in (*UNFINISHED, *FINISHED):
        with pytest.raises(MetafileFault, match="remove one of the two metafiles"):
            await two.judged()


@pytest.mark.parametrize("state", [*UNFINISHED, S.FAILED])
async def test_an_unfinished_montage_ends_when_its_metafile_is_gone_or_replaced(two: Two, state: MontageState) -> None:
    two.state = state
    two.theirs.write_bytes(ANOTHER)
    assert await two.judged() == f"its metafile has another content, and {two.own} has its images"
    two.theirs.unlink()
    assert await two.judged() == f"its metafile is gone, and {two.own} has its images"


@pytest.mark.parametrize("state", FINISHED)
async def test_a_finished_montage_keeps_its_tiles_without_its_metafile(two: Two, state: MontageState) -> None:
    two.state = state
    release = (
        'to replace that montage instead: `temwatch dismiss 5 --reason "..."`, then this one is retried automatically'
    )
    two.theirs.write_bytes(ANOTHER)
    two.digest = "of neither"
    with pytest.raises(MetafileFault) as refused:
        await two.judged()
    assert refused.value.problem.startswith(f"shares tiles with {two.theirs}")
    assert refused.value.problem.endswith(f"; {two.theirs} has another content now, but its montage 5 is {state}")
    two.theirs.unlink()
    with pytest.raises(MetafileFault) as refused:
        await two.judged()
    assert refused.value.problem.endswith(f"; {two.theirs} is gone, but its montage 5 is {state}")
    assert refused.value.hint == f"remove this metafile; {release}"


@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED])
async def test_a_metafile_that_moved_takes_the_place_of_its_montage(two: Two, state: MontageState) -> None:
    two.make_a_copy()
    two.theirs.unlink()
    two.state = state
    assert await two.judged() == f"moved to {two.own}"


@pytest.mark.parametrize("state", FINISHED)
async def test_a_metafile_whose_former_path_holds_another_content_takes_the_place_of_its_montage(
    two: Two, state: MontageState
) -> None:
    two.make_a_copy()
    two.theirs.write_bytes(ANOTHER)
    two.state = state
    assert await two.judged() == f"its metafile has another content, and {two.own} has its images"


@pytest.mark.parametrize("state", [S.SETTLED, S.COMPLETE, S.FAILED])
async def test_a_second_path_of_a_settled_file_is_ignored(two: Two, state: MontageState) -> None:
    two.make_a_link()
    two.state = state
    two.failed_in = S.INGESTED if state is S.FAILED else None
    ignored = await two.judged()
    assert isinstance(ignored, Ignored)
    assert ignored.reason == f"it is {two.theirs} under another path"
    assert ignored.evidence == Evidence(two.theirs, two.identity, or_gone=True)


async def test_a_second_path_of_a_file_that_never_settled_is_refused_or_settles(two: Two) -> None:
    two.make_a_link()
    for two.state, two.failed_in in ((S.NOTICED, None), (S.FAILED, S.NOTICED)):
        two.shared = ()
        assert await two.judged() is None
        two.shared = ("t1",)
        with pytest.raises(MetafileFault):
            await two.judged()


# --- rivals without common tiles: the same content or file, unsettled


async def test_a_rival_without_common_tiles_ends_if_it_is_gone_and_lets_both_settle_otherwise(two: Two) -> None:
    two.shared, two.state = (), S.NOTICED
    assert await two.judged() is None
    two.theirs.write_bytes(ANOTHER)
    assert await two.judged() is None
    two.theirs.unlink()
    assert await two.judged() == f"its metafile is gone, and {two.own} has its images"


async def test_an_unread_metafile_that_vanished_counts_as_moved(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.shared, two.state = (), S.NOTICED
    two.theirs.unlink()
    monkeypatch.setattr(Two, "other", SimpleNamespace(**{**vars(two.other), "digest": None}))
    assert await two.judged() == f"moved to {two.own}"


async def test_a_rival_of_a_watch_that_cannot_be_accessed_is_waited_for_if_it_has_common_tiles(two: Two) -> None:
    two.accessible = False
    waits = await two.judged()
    assert isinstance(waits, NotYet)
    assert waits.reason == f"{two.theirs} has the same images, and its watch theirs cannot be accessed"
    assert waits.retry_in_s == RIVAL_PAUSE_S
    assert two.asked == ["theirs"]
    two.shared = ()
    assert await two.judged() is None


async def test_a_rival_whose_file_server_does_not_answer_is_named(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def hang(*_: object, **__: object) -> None:
        answers.wait(60)

    monkeypatch.setattr(claims, "find_metafile", hang)
    monkeypatch.setattr(threads, "ANSWER_S", 0.01)
    try:
        with pytest.raises(StorageFault, match="its file server has not answered for") as fault:
            await two.judged()
    finally:
        answers.set()
    assert fault.value.subject == str(two.theirs)


# --- sections that were imaged again, and copies on a mirror drive


@pytest.fixture
def takes(two: Two, monkeypatch: pytest.MonkeyPatch) -> set[tuple[Path, Path]]:
    """Pairs of a later and an earlier take."""
    pairs: set[tuple[Path, Path]] = set()
    monkeypatch.setattr(claims, "is_later_take", lambda later, earlier: (later, earlier) in pairs)
    monkeypatch.setattr(claims, "is_mirrored", lambda one, other: (one, other, "mirrored") in pairs)
    return pairs


async def test_a_later_take_replaces_an_earlier_one_whatever_its_path_holds(two: Two, takes: set[Any]) -> None:
    takes.add((two.own, two.theirs))
    for two.state in (S.SETTLED, S.COMPLETE):
        assert await two.judged() == f"imaged again: {two.own}"


async def test_an_earlier_take_is_ignored_while_the_later_one_stands_or_is_finished(two: Two, takes: set[Any]) -> None:
    takes.add((two.theirs, two.own))
    ignored = await two.judged()
    assert isinstance(ignored, Ignored)
    assert ignored.reason == f"imaged again: {two.theirs}"
    assert ignored.evidence == Evidence(two.theirs, two.identity, or_gone=True)
    two.theirs.unlink()
    assert await two.judged() == f"its metafile is gone, and {two.own} has its images"
    two.state = S.COMPLETE
    assert isinstance(await two.judged(), Ignored)


async def test_a_copy_on_a_mirror_drive_is_ignored(two: Two, takes: set[Any]) -> None:
    takes.add((two.own, two.theirs, "mirrored"))
    with pytest.raises(MetafileFault):
        await two.judged()
    two.make_a_copy()
    ignored = await two.judged()
    assert isinstance(ignored, Ignored)
    assert ignored.reason == f"a copy on a mirror drive: {two.theirs}"
    assert ignored.evidence == Evidence(two.theirs, two.identity, or_gone=True)


# --- stacks of one name from two header values


def test_the_fault_of_a_namesake_names_both_metafiles_and_both_values(two: Two) -> None:
    fault = namesake_fault(Namesake(two.other, "em/v1/s_raw", "specimen", "1-7", "1_7"), two.own)
    assert fault.subject == str(two.own)
    assert f"its specimen is '1-7', but stack em/v1/s_raw contains {two.theirs} with '1_7'" in fault.problem
    assert fault.evidence is not None
    assert (fault.evidence.path, fault.evidence.or_gone) == (two.theirs, True)
    assert replace(fault.evidence, or_gone=False).identity == two.identity
