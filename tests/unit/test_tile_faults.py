"""Faults of single tiles: which one is the fault of the montage, and which file must change before a retry."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.pipeline.steps import changing_images
from daemon.pipeline.steps.changing_images import ChangingImages
from daemon.pipeline.steps.tile_faults import add_evidence, image_evidence, merge_faults
from handlers.errors import (
    Evidence,
    Fault,
    ImageChanging,
    ImageFault,
    MetafileFault,
    StorageFault,
    Waiting,
    WorkerFault,
)
from handlers.identity import FileIdentity
from handlers.images.mrc_header import StackSection

MONTAGE: Any = SimpleNamespace(id=1, metafile=Path("/data/_metadata_1_.json"))
WATCH: Any = SimpleNamespace(settle_s=1.0)
IDENTITY = FileIdentity(1, 2, 3, 4)


def test_the_fault_of_a_single_tile_is_that_of_the_montage():
    fault = ImageFault("/data/a.tif", "shows nothing", "copy it again")
    assert merge_faults(MONTAGE, [fault], 4) is fault


@pytest.mark.parametrize(
    ("faults", "kind", "hint"),
    [
        ([StorageFault("a", "x", "wait"), ImageFault("b", "y", "copy it")], ImageFault, "copy it"),
        ([StorageFault("a", "x", "wait"), WorkerFault("b", "y", "see the log")], WorkerFault, "see the log"),
        ([StorageFault("a", "x", "wait"), StorageFault("b", "y", "other")], StorageFault, "wait"),
        ([WorkerFault("a", "x", "see"), MetafileFault("b", "y", "never")], ImageFault, "never"),
    ],
)
def test_the_fault_that_waiting_helps_least_decides_for_the_montage(faults, kind, hint):
    merged = merge_faults(MONTAGE, faults, 4)
    assert (type(merged), merged.subject, merged.hint) == (kind, str(MONTAGE.metafile), hint)
    assert merged.problem == "mipmaps of 2 of 4 tiles could not be made: a: x; b: y"


def test_the_same_faults_give_the_same_text_in_whatever_order_tiles_fail():
    full = [StorageFault(f"/mips/1/{name}.tif", "could not write level 1: No space left on device") for name in "abcd"]
    gone = ImageFault("/data/e.tif", "is truncated")
    text = (
        "mipmaps of 5 of 9 tiles could not be made: a.tif, b.tif, c.tif and 1 more: could not write level 1: "
        "No space left on device; e.tif: is truncated"
    )
    for faults in ([*full, gone], [gone, *reversed(full)]):
        assert merge_faults(MONTAGE, faults, 9).problem == text


def test_the_montage_waits_for_the_file_of_the_fault_that_decides():
    evidence = Evidence(Path("/data/b.tif"), IDENTITY)
    other = StorageFault("/data/a.tif", "x").with_evidence(Evidence(Path("/data/a.tif"), IDENTITY))
    assert (
        merge_faults(MONTAGE, [other, ImageFault("/data/b.tif", "y").with_evidence(evidence)], 4).evidence == evidence
    )
    assert merge_faults(MONTAGE, [other, ImageFault("/data/b.tif", "y")], 4).evidence is None


async def test_a_fault_waits_for_its_image_as_it_was_before_the_job(tmp_path: Path) -> None:
    image, other, stack = tmp_path / "a.tif", tmp_path / "level.tif", tmp_path / "run.mrc"
    image.write_bytes(b"broken")
    stack.write_bytes(b"also broken")
    of_stack = SimpleNamespace(level0=tmp_path / "extracted.tif", stack=StackSection(stack, 1))
    jobs: Any = [*[SimpleNamespace(level0=image, stack=None)] * 2, of_stack]
    before = image_evidence(jobs)
    assert before == {str(image): Evidence.of(image), str(stack): Evidence.of(stack)}
    image.write_bytes(b"repaired during the job")
    assert (await add_evidence(ImageFault(str(image), "is broken"), before)).evidence == before[str(image)]
    assert (await add_evidence(ImageFault(str(other), "is broken"), before)).evidence == Evidence(other, None)


@pytest.mark.parametrize(
    "fault",
    [StorageFault("/data/a.tif", "is full"), ImageFault("tile 7", "is broken")],
    ids=["waiting helps always", "no path"],
)
async def test_a_fault_without_a_file_to_wait_for_gets_no_evidence(fault: Fault) -> None:
    assert (await add_evidence(fault, {})).evidence is None


class TestChangingImages:
    """Images that changed after their mipmaps were made."""

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1_000.0]
        monkeypatch.setattr(changing_images, "time", SimpleNamespace(monotonic=lambda: now[0]))
        return now

    def broken(self, identity: FileIdentity | None = IDENTITY) -> Fault:
        return ImageFault("/data/a.tif", "is truncated", "copy it").with_evidence(
            Evidence(Path("/data/a.tif"), identity)
        )

    def test_a_fault_is_final_immediately_if_no_change_is_expected(self, now: list[float]) -> None:
        fault = self.broken()
        assert ChangingImages().fault_or_changing(1, WATCH, fault) is fault

    def test_a_fault_is_not_final_before_the_image_is_unchanged_for_some_time(self, now: list[float]) -> None:
        images, fault = ChangingImages(), self.broken()
        images.expect(1)
        for now[0] in (1_000.0, 1_029.0):
            waits = images.fault_or_changing(1, WATCH, fault)
            assert isinstance(waits, ImageChanging)
            assert waits.waiting_helps is Waiting.ALWAYS
            assert (waits.subject, waits.hint) == ("/data/a.tif", "copy it")
            assert waits.problem.startswith("is truncated; it changed")
        now[0] = 1_030.0
        assert images.fault_or_changing(1, WATCH, fault) is fault

    def test_an_image_that_changes_again_is_waited_for_again(self, now: list[float]) -> None:
        images = ChangingImages()
        images.expect(1)
        images.fault_or_changing(1, WATCH, self.broken())
        now[0] += 30.0
        again = self.broken(FileIdentity(5, 6, 7, 8))
        assert isinstance(images.fault_or_changing(1, WATCH, again), ImageChanging)
        images.expect(1)  # a second change of the montage keeps what is known
        now[0] += 30.0
        assert images.fault_or_changing(1, WATCH, again) is again

    def test_a_missing_image_never_counts_as_unchanged(self, now: list[float]) -> None:
        images = ChangingImages()
        images.expect(1)
        for _ in range(3):
            assert isinstance(images.fault_or_changing(1, WATCH, self.broken(None)), ImageChanging)
            now[0] += 100.0

    def test_a_finished_montage_is_forgotten(self, now: list[float]) -> None:
        images, fault = ChangingImages(), self.broken()
        images.expect(1)
        images.forget(1)
        images.forget(1)
        assert images.fault_or_changing(1, WATCH, fault) is fault

    def test_only_faults_of_images_wait(self, now: list[float]) -> None:
        images = ChangingImages()
        images.expect(1)
        for fault in (
            WorkerFault("/data/a.tif", "died").with_evidence(Evidence(Path("/data/a.tif"), IDENTITY)),
            ImageFault("t", "x"),
        ):
            assert images.fault_or_changing(1, WATCH, fault) is fault
