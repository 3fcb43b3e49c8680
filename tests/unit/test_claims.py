"""Claims on tiles: which of two metafiles with the same tiles may settle. All cases use real files."""

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
from daemon.pipeline.settling import claims
from daemon.pipeline.settling.claims import RIVAL_PAUSE_S, Claim, Claims, claim_of, find, namesake_fault
from daemon.pipeline.settling.settle import Ignored, NotYet
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


class Rivals:
    """The metafile of a montage, `theirs`, and a settling metafile with tiles of that montage, `own`."""

    def __init__(self, root: Path) -> None:
        self.theirs, self.own = root / "theirs.json", root / "own.json"
        self.theirs.write_bytes(CONTENT)
        self.own.write_bytes(ANOTHER)
        self.digest = sha(ANOTHER)
        """SHA-256 of the settling metafile."""
        self.accessible = True
        self.asked_watches: list[str] = []
        self.shared: tuple[str, ...] = ("t1", "t2")
        self.state, self.failed_in = S.SETTLED, None
        self.identity = self.identity_of(self.theirs)

    @staticmethod
    def identity_of(path: Path) -> FileIdentity:
        found = find_metafile(path)
        assert found is not None
        return found.identity

    @property
    def other(self) -> Any:
        facts = {"id": 5, "watch": "theirs", "digest": sha(CONTENT), "raw_stack": "em/v1/s_raw", "z": 7.0}
        return SimpleNamespace(
            metafile=self.theirs, identity=self.identity, state=self.state, failed_in=self.failed_in, **facts
        )

    async def judge(self) -> Any:
        settling: Any = SimpleNamespace(metafile=self.own)
        return await Claims(self.is_accessible).judge(Rival(self.other, self.shared), settling, self.digest)

    def is_accessible(self, watch: str) -> bool:
        self.asked_watches.append(watch)
        return self.accessible

    def make_a_copy(self) -> None:
        self.own.write_bytes(CONTENT)
        self.digest = sha(CONTENT)

    def make_a_link(self) -> None:
        self.own.unlink()
        os.link(self.theirs, self.own)
        self.digest = sha(CONTENT)
        self.identity = self.identity_of(self.theirs)


@pytest.fixture
def rivals(tmp_path: Path) -> Rivals:
    return Rivals(tmp_path)


# --- the claim of a montage


def test_an_unchanged_metafile_is_present(rivals: Rivals) -> None:
    assert claim_of(rivals.other) is Claim.PRESENT


def test_a_rewritten_metafile_with_the_same_content_is_present(rivals: Rivals) -> None:
    os.utime(rivals.theirs, (1, 1))
    assert claim_of(rivals.other) is Claim.PRESENT


def test_a_metafile_with_another_content_or_with_a_pipe_in_its_place_is_replaced(rivals: Rivals) -> None:
    rivals.theirs.write_bytes(ANOTHER)
    assert claim_of(rivals.other) is Claim.REPLACED
    rivals.theirs.unlink()
    os.mkfifo(rivals.theirs)
    assert claim_of(rivals.other) is Claim.REPLACED


def test_a_deleted_metafile_is_gone(rivals: Rivals) -> None:
    rivals.theirs.unlink()
    assert claim_of(rivals.other) is Claim.GONE


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), NotADirectoryError("gone")])
def test_a_metafile_that_is_deleted_before_it_is_read_is_gone(
    rivals: Rivals, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def read(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(arrival, "read_regular", read)
    rivals.theirs.write_bytes(ANOTHER)
    assert claim_of(rivals.other) is Claim.GONE


def test_a_metafile_that_cannot_be_read_or_accessed_is_a_fault_that_names_it(
    rivals: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(5, "Input/output error")

    rivals.theirs.write_bytes(ANOTHER)
    with monkeypatch.context() as patch:
        patch.setattr(arrival, "read_regular", refuse)
        with pytest.raises(StorageFault, match=str(rivals.theirs)):
            claim_of(rivals.other)
    monkeypatch.setattr(claims, "find_metafile", refuse)
    with pytest.raises(StorageFault, match=f"{rivals.theirs}.*access the metafile"):
        claim_of(rivals.other)


def test_a_link_counts_as_the_file_that_it_leads_to(rivals: Rivals) -> None:
    real = rivals.theirs.rename(rivals.theirs.with_name("real.json"))
    rivals.theirs.symlink_to(real)
    rivals.identity = rivals.identity_of(real)
    assert claim_of(rivals.other) is Claim.PRESENT
    rivals.own.unlink()
    rivals.own.symlink_to(real)
    assert find(rivals.other, rivals.own).claim is Claim.SAME_FILE


def test_the_evidence_of_a_claim_is_the_metafile_of_the_rival_or_its_absence(rivals: Rivals) -> None:
    evidence = find(rivals.other, rivals.own).evidence
    assert (evidence.path, evidence.identity, evidence.or_gone) == (rivals.theirs, rivals.identity, True)
    rivals.theirs.unlink()
    evidence = find(rivals.other, rivals.own).evidence
    assert (evidence.path, evidence.identity, evidence.or_gone) == (rivals.theirs, None, True)


def test_a_deleted_settling_metafile_makes_its_inspection_stale(rivals: Rivals) -> None:
    rivals.own.unlink()
    with pytest.raises(StaleInspection):
        find(rivals.other, rivals.own)


async def test_a_claim_is_unknown_if_its_path_cannot_be_accessed(
    rivals: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims_of_watch = Claims(rivals.is_accessible)
    assert await claims_of_watch.present(rivals.other) is Claim.PRESENT
    rivals.accessible = False
    assert await claims_of_watch.present(rivals.other) is None
    assert rivals.asked_watches == ["theirs", "theirs"]
    rivals.accessible = True

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(claims, "find_metafile", refuse)
    assert await claims_of_watch.present(rivals.other) is None


# --- which montage settles


@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED, S.FAILED])
async def test_tiles_of_a_montage_whose_metafile_is_present_are_refused(rivals: Rivals, state: MontageState) -> None:
    rivals.state = state
    with pytest.raises(MetafileFault) as refused:
        await rivals.judge()
    fault = refused.value
    assert fault.subject == str(rivals.own)
    found = f"shares tiles with {rivals.theirs} in em/v1/s_raw at z 7 (2, such as t1)"
    assert fault.problem == f"{found}: each tile of a stack belongs to one montage"
    assert fault.evidence == find(rivals.other, rivals.own).evidence
    expected = "to replace " if state in FINISHED else "remove one of the two metafiles"
    assert expected in fault.hint
    assert ("temwatch dismiss 5" in fault.hint) is (state in FINISHED)


async def test_a_copy_is_refused_while_its_original_is_present(rivals: Rivals) -> None:
    rivals.make_a_copy()
    for rivals.state in (*UNFINISHED, *FINISHED):
        with pytest.raises(MetafileFault, match="remove one of the two metafiles"):
            await rivals.judge()


@pytest.mark.parametrize("state", [*UNFINISHED, S.FAILED])
async def test_an_unfinished_montage_whose_metafile_is_gone_or_replaced_is_superseded(
    rivals: Rivals, state: MontageState
) -> None:
    rivals.state = state
    rivals.theirs.write_bytes(ANOTHER)
    assert await rivals.judge() == f"its metafile has another content, and {rivals.own} has its images"
    rivals.theirs.unlink()
    assert await rivals.judge() == f"its metafile is gone, and {rivals.own} has its images"


@pytest.mark.parametrize("state", FINISHED)
async def test_a_finished_montage_keeps_its_tiles_without_its_metafile(rivals: Rivals, state: MontageState) -> None:
    rivals.state = state
    release = (
        'to replace that montage instead: `temwatch dismiss 5 --reason "..."`, then this one is retried automatically'
    )
    rivals.theirs.write_bytes(ANOTHER)
    rivals.digest = "of neither"
    with pytest.raises(MetafileFault) as refused:
        await rivals.judge()
    assert refused.value.problem.startswith(f"shares tiles with {rivals.theirs}")
    assert refused.value.problem.endswith(f"; {rivals.theirs} has another content now, but its montage 5 is {state}")
    rivals.theirs.unlink()
    with pytest.raises(MetafileFault) as refused:
        await rivals.judge()
    assert refused.value.problem.endswith(f"; {rivals.theirs} is gone, but its montage 5 is {state}")
    assert refused.value.hint == f"remove this metafile; {release}"


@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED])
async def test_a_moved_metafile_supersedes_its_montage(rivals: Rivals, state: MontageState) -> None:
    rivals.make_a_copy()
    rivals.theirs.unlink()
    rivals.state = state
    assert await rivals.judge() == f"moved to {rivals.own}"


@pytest.mark.parametrize("state", FINISHED)
async def test_a_moved_metafile_supersedes_its_montage_if_its_former_path_has_another_content(
    rivals: Rivals, state: MontageState
) -> None:
    rivals.make_a_copy()
    rivals.theirs.write_bytes(ANOTHER)
    rivals.state = state
    assert await rivals.judge() == f"its metafile has another content, and {rivals.own} has its images"


@pytest.mark.parametrize("state", [S.SETTLED, S.COMPLETE, S.FAILED])
async def test_a_second_path_of_a_settled_file_is_ignored(rivals: Rivals, state: MontageState) -> None:
    rivals.make_a_link()
    rivals.state = state
    rivals.failed_in = S.INGESTED if state is S.FAILED else None
    ignored = await rivals.judge()
    assert isinstance(ignored, Ignored)
    assert ignored.reason == f"it is {rivals.theirs} under another path"
    assert ignored.evidence == Evidence(rivals.theirs, rivals.identity, or_gone=True)


async def test_a_second_path_of_an_unsettled_file_settles_unless_it_shares_tiles(rivals: Rivals) -> None:
    rivals.make_a_link()
    for rivals.state, rivals.failed_in in ((S.NOTICED, None), (S.FAILED, S.NOTICED)):
        rivals.shared = ()
        assert await rivals.judge() is None
        rivals.shared = ("t1",)
        with pytest.raises(MetafileFault):
            await rivals.judge()


# --- unsettled rivals without common tiles: they have the same content or the same file


async def test_a_rival_without_common_tiles_is_superseded_only_if_it_is_gone(rivals: Rivals) -> None:
    rivals.shared, rivals.state = (), S.NOTICED
    assert await rivals.judge() is None
    rivals.theirs.write_bytes(ANOTHER)
    assert await rivals.judge() is None
    rivals.theirs.unlink()
    assert await rivals.judge() == f"its metafile is gone, and {rivals.own} has its images"


async def test_an_unread_metafile_that_is_gone_counts_as_moved(rivals: Rivals, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals.shared, rivals.state = (), S.NOTICED
    rivals.theirs.unlink()
    monkeypatch.setattr(Rivals, "other", SimpleNamespace(**{**vars(rivals.other), "digest": None}))
    assert await rivals.judge() == f"moved to {rivals.own}"


async def test_a_metafile_waits_for_the_watch_of_its_rival_only_if_they_share_tiles(rivals: Rivals) -> None:
    rivals.accessible = False
    waits = await rivals.judge()
    assert isinstance(waits, NotYet)
    assert waits.reason == f"{rivals.theirs} has the same images, and its watch theirs cannot be accessed"
    assert waits.retry_in_s == RIVAL_PAUSE_S
    assert rivals.asked_watches == ["theirs"]
    rivals.shared = ()
    assert await rivals.judge() is None


async def test_a_rival_whose_file_server_does_not_answer_is_named(
    rivals: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def hang(*_: object, **__: object) -> None:
        answers.wait(60)

    monkeypatch.setattr(claims, "find_metafile", hang)
    monkeypatch.setattr(threads, "ANSWER_S", 0.01)
    try:
        with pytest.raises(StorageFault, match="its file server has not answered for") as fault:
            await rivals.judge()
    finally:
        answers.set()
    assert fault.value.subject == str(rivals.theirs)


# --- sections that were imaged again, and copies on a mirror drive


@pytest.fixture
def takes(rivals: Rivals, monkeypatch: pytest.MonkeyPatch) -> set[tuple[Any, ...]]:
    """Pairs of a later and an earlier take; with "mirrored" as third item, pairs of a copy and its original."""
    pairs: set[tuple[Any, ...]] = set()
    monkeypatch.setattr(claims, "is_later_take", lambda later, earlier: (later, earlier) in pairs)
    monkeypatch.setattr(claims, "is_mirrored", lambda one, other: (one, other, "mirrored") in pairs)
    return pairs


async def test_a_later_take_supersedes_an_unfinished_or_finished_earlier_take(
    rivals: Rivals, takes: set[tuple[Any, ...]]
) -> None:
    takes.add((rivals.own, rivals.theirs))
    for rivals.state in (S.SETTLED, S.COMPLETE):
        assert await rivals.judge() == f"imaged again: {rivals.own}"


async def test_an_earlier_take_is_ignored_while_the_later_take_is_present_or_finished(
    rivals: Rivals, takes: set[tuple[Any, ...]]
) -> None:
    takes.add((rivals.theirs, rivals.own))
    ignored = await rivals.judge()
    assert isinstance(ignored, Ignored)
    assert ignored.reason == f"imaged again: {rivals.theirs}"
    assert ignored.evidence == Evidence(rivals.theirs, rivals.identity, or_gone=True)
    rivals.theirs.unlink()
    assert await rivals.judge() == f"its metafile is gone, and {rivals.own} has its images"
    rivals.state = S.COMPLETE
    assert isinstance(await rivals.judge(), Ignored)


async def test_a_copy_on_a_mirror_drive_is_ignored(rivals: Rivals, takes: set[tuple[Any, ...]]) -> None:
    takes.add((rivals.own, rivals.theirs, "mirrored"))
    with pytest.raises(MetafileFault):
        await rivals.judge()
    rivals.make_a_copy()
    ignored = await rivals.judge()
    assert isinstance(ignored, Ignored)
    assert ignored.reason == f"a copy on a mirror drive: {rivals.theirs}"
    assert ignored.evidence == Evidence(rivals.theirs, rivals.identity, or_gone=True)


# --- one stack name from two different header values


def test_the_fault_of_a_namesake_names_both_metafiles_and_both_values(rivals: Rivals) -> None:
    fault = namesake_fault(Namesake(rivals.other, "em/v1/s_raw", "specimen", "1-7", "1_7"), rivals.own)
    assert fault.subject == str(rivals.own)
    assert f"its specimen is '1-7', but stack em/v1/s_raw contains {rivals.theirs} with '1_7'" in fault.problem
    assert fault.evidence is not None
    assert (fault.evidence.path, fault.evidence.or_gone) == (rivals.theirs, True)
    assert replace(fault.evidence, or_gone=False).identity == rivals.identity
