"""Images that change after their mipmaps were made, with all parts in this process, real files and real times."""

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daemon.montages.records import Montage
from daemon.montages.states import Event, MontageState
from daemon.pipeline.changes import compare_images, late_changes
from daemon.pipeline.changes.late_changes import LateChanges, next_check_s
from daemon.pipeline.stacks import closer
from handlers.errors import RenderUnavailable
from handlers.identity import FileIdentity
from handlers.images.decode import verify_level
from handlers.images.digest import FileContent
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from tests.integration.inprocess import MIPS, Bench, bench, retry_fast

SIZE = (64, 64)
COMPLETE, FAILED = MontageState.COMPLETE, MontageState.FAILED


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    retry_fast(monkeypatch)
    monkeypatch.setattr(late_changes, "FIRST_CHECK_S", 0.05)
    async with bench(tmp_path) as made:
        yield made


def images_of(metafile: Path) -> list[Path]:
    return sorted(metafile.parent.glob("*.tif"))


def pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, SIZE[::-1], np.uint8)


def levels_are_right(root: Path, image: Path) -> bool:
    """Whether level 1 is the area mean of the present image."""
    with Image.open(image) as opened:
        full = np.asarray(opened).astype(float)
    exact = full.reshape(SIZE[1] // 2, 2, SIZE[0] // 2, 2).mean((1, 3))
    made = verify_level(root / "mipmaps" / "1" / f"{image.relative_to('/')}.tif", SIZE[0] // 2, SIZE[1] // 2, "L")
    return bool(np.abs(made - exact).max() <= 0.5)


async def changes_of(world: Bench, metafile: Path) -> list[dict[str, Any]]:
    montage = await world.montage(metafile)
    assert montage is not None
    events = await world.assembly.journal.events(montage.id)
    return [event["detail"] for event in events if event["event"] == Event.IMAGES_CHANGED]


async def made_again(world: Bench, metafile: Path) -> Montage:
    """Wait until a change of images was found and the montage is COMPLETE again; return it."""
    await wait_for_changes(world, metafile, 1)
    return await world.reaches(metafile, COMPLETE, FAILED)


async def wait_for_changes(world: Bench, metafile: Path, times: int) -> None:
    await world.until(lambda: len([line for line in world.log_lines if line["event"] == "image.changed"]) >= times)


# --- changes


def in_place_under_its_old_time(image: Path) -> None:
    times = image.stat()
    content = image.with_name("other")
    Image.fromarray(pixels(7)).save(content, "TIFF")
    image.write_bytes(content.read_bytes())
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced_under_an_older_time(image: Path) -> None:
    other = image.with_name("other")
    Image.fromarray(pixels(8)).save(other, "TIFF")
    os.utime(other, (1_400_000_000, 1_400_000_000))
    other.replace(image)


def replaced_under_a_time_in_the_future(image: Path) -> None:
    other = image.with_name("other")
    Image.fromarray(pixels(9)).save(other, "TIFF")
    os.utime(other, (4_000_000_000, 4_000_000_000))
    other.replace(image)


@pytest.mark.parametrize(
    "change", [in_place_under_its_old_time, replaced_under_an_older_time, replaced_under_a_time_in_the_future]
)
async def test_only_the_changed_image_of_a_complete_montage_is_made_again(world, change):
    metafile = world.write(size=SIZE)
    await world.notice(metafile)
    await world.reaches(metafile, COMPLETE)
    first, second = images_of(metafile)
    level_of_other = world.root / "mipmaps" / "1" / f"{second.relative_to('/')}.tif"
    before = FileIdentity.of(level_of_other.stat())
    change(first)
    montage = await made_again(world, metafile)
    assert montage.state is COMPLETE
    assert levels_are_right(world.root, first)
    assert FileIdentity.of(level_of_other.stat()) == before
    assert montage.findings[-1] == f"1 images changed after their mipmaps were made: {first.name}"
    (detail,) = await changes_of(world, metafile)
    assert detail == {"images": 1, "names": [first.name]}
    (line,) = [each for each in world.log_lines if each["event"] == "image.changed"]
    assert (line["log_level"], line["images"], line["first"]) == ("warning", 1, first.name)


async def test_an_image_that_changes_twice_is_made_again_twice(world):
    metafile = world.write(size=SIZE)
    await world.notice(metafile)
    await world.reaches(metafile, COMPLETE)
    first, _ = images_of(metafile)
    replaced_under_an_older_time(first)
    await made_again(world, metafile)
    in_place_under_its_old_time(first)
    await wait_for_changes(world, metafile, 2)
    await world.reaches(metafile, COMPLETE)
    assert levels_are_right(world.root, first)


async def test_an_image_that_becomes_a_link_out_of_the_watch_is_changed_and_not_read(world, monkeypatch):
    metafile = world.write(size=SIZE)
    await world.notice(metafile)
    await world.reaches(metafile, COMPLETE)
    first, _ = images_of(metafile)
    private = world.root / "private.tif"
    private.write_bytes(first.read_bytes())
    first.unlink()
    first.symlink_to(private)
    read = []
    monkeypatch.setattr(compare_images, "content_of", read.append)
    await wait_for_changes(world, metafile, 1)
    montage = await world.reaches(metafile, FAILED)
    assert read == []
    assert "lies outside" in montage.fault.problem


async def test_a_directory_that_becomes_a_link_out_of_the_watch_is_not_read(done, monkeypatch):
    world, alone, montage = done
    directory = montage.metafile.parent
    directory.rename(world.root / "private")
    directory.symlink_to(world.root / "private")
    monkeypatch.setattr(compare_images, "tile_ids_for", None)
    alone.late.follow(montage)
    alone.now += 60.0
    assert await alone.check() == 1
    (line,) = [each for each in world.log_lines if each["event"] == "images.not_checked"]
    assert "lies outside the watched directory" in line["fault"]


def touched(image: Path) -> None:
    os.utime(image, (1_500_000_000, 1_500_000_000))


def chmodded(image: Path) -> None:
    image.chmod(0o640)


def copied_away_and_back(image: Path) -> None:
    other = image.with_name("other")
    other.write_bytes(image.read_bytes())
    other.replace(image)


def deleted(image: Path) -> None:
    image.unlink()


@pytest.mark.parametrize("change", [touched, chmodded, copied_away_and_back, deleted])
async def test_a_file_with_the_same_bytes_or_a_missing_file_is_no_change(world, change):
    metafile = world.write(size=SIZE)
    await world.notice(metafile)
    montage = await world.reaches(metafile, COMPLETE)
    first, second = images_of(metafile)
    change(first)
    replaced_under_an_older_time(second)  # when this change is found, the other image has been checked
    await made_again(world, metafile)
    (detail,) = await changes_of(world, metafile)
    assert detail["names"] == [second.name]
    if change is not deleted:
        read = await world.assembly.journal.images_read(montage.id)
        assert FileIdentity.of(first.stat()) in [content.identity for content in read.values()]


def overwritten(image: Path) -> None:
    image.write_bytes(b"no image at all")


def cut_short(image: Path) -> None:
    os.truncate(image, image.stat().st_size - 100)


def a_pipe(image: Path) -> None:
    image.unlink()
    os.mkfifo(image)


@pytest.mark.parametrize(
    ("change", "text"), [(overwritten, "no image"), (cut_short, "is truncated"), (a_pipe, "is not a regular file")]
)
async def test_a_changed_file_that_is_no_image_fails_the_montage_when_it_does_not_change_any_more(
    world, monkeypatch, change, text
):
    monkeypatch.setattr("daemon.pipeline.settling.settle.MIN_INCOMPLETE_TIMEOUT_S", 0.3)
    metafile = world.write(size=SIZE)
    await world.notice(metafile)
    await world.reaches(metafile, COMPLETE)
    first, _ = images_of(metafile)
    whole = first.read_bytes()
    change(first)
    montage = await world.reaches(metafile, FAILED)
    assert montage.fault is not None
    assert text in montage.fault.problem
    assert first.name in f"{montage.fault.subject} {montage.fault.problem}"
    assert "may still be written" not in montage.fault.problem
    first.unlink()
    first.write_bytes(whole)
    await world.reaches(metafile, COMPLETE)


async def test_an_image_that_is_being_written_does_not_fail_the_montage(world, monkeypatch):
    monkeypatch.setattr("daemon.pipeline.settling.settle.MIN_INCOMPLETE_TIMEOUT_S", 3_600.0)
    metafile = world.write(size=SIZE)
    await world.notice(metafile)
    montage = await world.reaches(metafile, COMPLETE)
    first, _ = images_of(metafile)
    replacement = first.with_name("other")
    Image.fromarray(pixels(11)).save(replacement, "TIFF")
    whole = replacement.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    await world.until(lambda: [line for line in world.log_lines if line["event"] == "step.waits"])
    waiting = await world.assembly.journal.montage(montage.id)
    assert waiting.state is MontageState.INGESTED
    assert "may still be written" in waiting.fault.problem
    first.write_bytes(whole)
    await world.reaches(metafile, COMPLETE)
    assert levels_are_right(world.root, first)
    assert not [event for event in await world.assembly.journal.events(montage.id) if event["event"] == Event.FAILED]


# --- times of the checks


async def test_a_montage_whose_image_changes_before_the_close_is_made_again_and_not_complete(tmp_path, monkeypatch):
    retry_fast(monkeypatch)
    monkeypatch.setattr(late_changes, "FIRST_CHECK_S", 1_000.0)
    async with bench(tmp_path, close_after_s=3_600.0) as world:
        metafile = world.write(size=SIZE)
        await world.notice(metafile)
        montage = await world.reaches(metafile, MontageState.APPLIED)
        first, _ = images_of(metafile)
        in_place_under_its_old_time(first)
        await world.assembly.late_changes.check_before_complete([montage])
        following = await world.montage(metafile)
        assert following.state is not MontageState.APPLIED
        await world.reaches(metafile, MontageState.APPLIED)
        assert levels_are_right(world.root, first)


async def test_closing_a_stack_checks_the_images_of_its_montages(tmp_path, monkeypatch):
    retry_fast(monkeypatch)
    monkeypatch.setattr(late_changes, "FIRST_CHECK_S", 1_000.0)
    async with bench(tmp_path) as world:
        changed = False
        close = closer.close_stack

        async def close_and_change(client: RenderClient, stack: StackId, *arguments: Any, **named: Any) -> Any:
            nonlocal changed
            if not changed and stack == MIPS:
                in_place_under_its_old_time(images_of(metafile)[0])
                changed = True
            return await close(client, stack, *arguments, **named)

        monkeypatch.setattr(closer, "close_stack", close_and_change)
        metafile = world.write(size=SIZE)
        await world.notice(metafile)
        montage = await made_again(world, metafile)
        assert montage.state is COMPLETE
        assert levels_are_right(world.root, images_of(metafile)[0])
        events = [event["event"] for event in await world.assembly.journal.events(montage.id)]
        assert events.index("images_changed") < events.index("completed")
        assert events.count("completed") == 1


def test_the_intervals_between_checks_grow_and_the_last_check_is_at_the_end():
    ages, age_s = [], 0.0
    while (due_s := next_check_s(age_s, 3600.0)) is not None:
        ages.append(due_s)
        age_s = due_s
    assert ages == [5, 15, 45, 135, 405, 1215, 3600]
    assert next_check_s(0.0, 0.0) is None
    assert next_check_s(0.0, 3.0) == 3.0


class IsolatedChecks:
    """Checks of images without the other parts of the daemon, with clocks that tests set."""

    def __init__(self, world: Bench) -> None:
        self.now, self.wall = 1_000.0, 2_000_000_000.0
        self.observable = True
        self.enqueued: list[int] = []
        self.compared = 0
        self.is_overwritten = False
        self.is_render_away = False
        self.late = LateChanges(
            world.assembly.settings,
            world.assembly.journal,
            is_observable=lambda _: self.observable,
            on_change=self._on_change,
            reset_if_overwritten=self._reset_if_overwritten,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )

    async def _on_change(self, montage: Montage) -> None:
        self.enqueued.append(montage.id)

    async def _reset_if_overwritten(self, montage: Montage) -> bool:
        self.compared += 1
        if self.is_render_away:
            raise RenderUnavailable("render", "refused")
        return self.is_overwritten

    async def check(self) -> int:
        """Check the due montages; return their number."""
        taken = self.late._take_due()
        for watch, due in taken.items():
            await self.late._check_in_turn(watch, due)
        return sum(map(len, taken.values()))


@pytest.fixture
async def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Bench, IsolatedChecks, Montage]]:
    retry_fast(monkeypatch)
    monkeypatch.setattr(late_changes, "FIRST_CHECK_S", 5.0)
    async with bench(tmp_path) as world:
        metafile = world.write(size=SIZE)
        await world.notice(metafile)
        montage = await world.reaches(metafile, COMPLETE)
        # The bench's own first check is due in 5 s: a slow test would include it.
        monkeypatch.setattr(world.assembly.late_changes, "_is_observable", lambda _: False)
        yield world, IsolatedChecks(world), montage


async def test_a_montage_is_checked_at_growing_intervals_for_an_hour(done):
    world, alone, montage = done
    alone.late.follow(montage)
    seconds = []
    for second in range(4_000):
        if await alone.check():
            seconds.append(second)
        alone.now += 1.0
    assert seconds == [5, 15, 45, 135, 405, 1215, 3600]
    assert await world.assembly.journal.watched_images() == []
    assert alone.enqueued == []


@pytest.mark.parametrize("age_s", [1.0, 100.0, 4_000.0, -1e6])
async def test_the_next_process_resumes_the_checks_and_checks_once_even_after_their_time(done, age_s):
    world, alone, montage = done
    in_place_under_its_old_time(images_of(montage.metafile)[0])
    alone.wall = montage.complete_at + age_s
    await alone.late._resume()
    assert await alone.check() == 0
    alone.now += 5.0
    assert await alone.check() == 1
    assert alone.enqueued == [montage.id]
    assert (await world.assembly.journal.montage(montage.id)).state is MontageState.INGESTED


async def test_a_montage_is_not_checked_after_its_last_check(done):
    world, alone, montage = done
    alone.wall = montage.complete_at + 4_000.0
    await alone.late._resume()
    alone.now += 5.0
    assert await alone.check() == 1
    assert await world.assembly.journal.watched_images() == []
    alone.now += 10_000.0
    assert await alone.check() == 0


async def test_a_missing_mount_is_no_change_and_its_images_are_checked_when_it_is_back(done):
    world, alone, montage = done
    alone.late.follow(montage)
    in_place_under_its_old_time(images_of(montage.metafile)[0])
    alone.observable = False
    for _ in range(200):
        alone.now += 60.0
        await alone.check()
    assert alone.enqueued == []
    assert await world.assembly.journal.watched_images() != []
    alone.observable = True
    alone.now += 60.0
    assert await alone.check() == 1
    assert alone.enqueued == [montage.id]


async def test_the_only_montage_is_checked_again_when_its_directory_is_back(world, monkeypatch):
    monkeypatch.setattr(late_changes, "INACCESSIBLE_RETRY_S", 0.05)
    metafile = world.write(size=SIZE)
    home, elsewhere = metafile.parent, world.root / "elsewhere"
    await world.notice(metafile)
    await world.reaches(metafile, COMPLETE)
    home.rename(elsewhere)
    await world.until(lambda: [line for line in world.log_lines if line["event"] == "images.not_checked"])
    in_place_under_its_old_time(images_of(elsewhere / metafile.name)[0])
    elsewhere.rename(home)
    assert (await made_again(world, metafile)).state is COMPLETE
    assert levels_are_right(world.root, images_of(metafile)[0])


async def test_a_moved_section_is_not_checked_after_its_time(done):
    world, alone, montage = done
    alone.late.follow(montage)
    montage.metafile.parent.rename(world.root / "archive")
    alone.now += 5.0
    assert await alone.check() == 1
    assert await world.assembly.journal.watched_images() != []
    alone.now += 4_000.0
    assert await alone.check() == 1
    assert await world.assembly.journal.watched_images() == []
    assert alone.enqueued == []


async def test_a_hanging_check_blocks_nothing_and_is_repeated_only_after_its_end(done, monkeypatch):
    world, alone, montage = done
    monkeypatch.setattr(late_changes, "STUCK_S", 0.1)
    release, begun = threading.Event(), []
    compare = late_changes.compare_images

    def hanging(*arguments: Any) -> Any:
        begun.append(1)
        release.wait(30)
        return compare(*arguments)

    monkeypatch.setattr(late_changes, "compare_images", hanging)
    alone.late.follow(montage)
    try:
        for _ in range(5):
            alone.now += 60.0
            await alone.check()
        await alone.late.check_before_complete([montage])
        assert len(begun) == 1
    finally:
        release.set()
    await world.until(lambda: not alone.late._stuck)
    alone.now += 60.0
    await alone.check()
    assert len(begun) == 2


@pytest.mark.parametrize(
    "failing_call",
    ["compare_images", "images_read", "change_images", "adopt_images", "end_watching_images", "montage"],
)
async def test_a_check_that_raises_an_exception_is_logged_and_repeated(done, monkeypatch, failing_call):
    world, alone, montage = done
    first, second = images_of(montage.metafile)
    in_place_under_its_old_time(first)
    touched(second)
    alone.late.follow(montage)
    alone.now += 4_000.0 if failing_call == "end_watching_images" else 5.0
    with monkeypatch.context() as patch:
        owner = late_changes if failing_call == "compare_images" else world.assembly.journal
        patch.setattr(owner, failing_call, lambda *_: 1 / 0)
        assert await alone.check() == 1
        await alone.late.check_before_complete([montage])
    assert [line for line in world.log_lines if line["event"] == "images.bug"]
    alone.now += 60.0
    assert await alone.check() == 1
    assert alone.enqueued == [montage.id]


async def test_tiles_are_compared_with_the_images_and_a_montage_that_is_set_back_is_not_checked_any_more(done):
    _, alone, montage = done
    alone.late.follow(montage)
    alone.now += 5.0
    assert (await alone.check(), alone.compared) == (1, 1)
    alone.is_overwritten = True
    in_place_under_its_old_time(images_of(montage.metafile)[0])
    alone.now += 10.0
    assert (await alone.check(), alone.compared) == (1, 2)
    alone.now += 10_000.0
    assert await alone.check() == 0
    assert alone.enqueued == []


async def test_tiles_are_compared_after_their_time_if_render_ws_was_away(done):
    world, alone, montage = done
    alone.late.follow(montage)
    alone.is_render_away = True
    alone.now += 4_000.0
    assert await alone.check() == 1
    assert await world.assembly.journal.watched_images() != []
    alone.is_render_away = False
    alone.now += 60.0
    assert (await alone.check(), alone.compared) == (1, 2)
    assert await world.assembly.journal.watched_images() == []


async def test_a_superseded_montage_is_not_checked_any_more(done):
    world, alone, montage = done
    alone.late.follow(montage)
    await world.assembly.journal.record(montage.id, Event.SUPERSEDED)
    in_place_under_its_old_time(images_of(montage.metafile)[0])
    alone.now += 5.0
    await alone.check()
    assert alone.enqueued == []
    alone.now += 10_000.0
    assert await alone.check() == 0


async def test_images_of_a_metafile_with_another_content_are_not_compared(done):
    _, alone, montage = done
    alone.late.follow(montage)
    montage.metafile.write_text("[]")
    in_place_under_its_old_time(images_of(montage.metafile)[0])
    alone.now += 5.0
    assert await alone.check() == 1
    assert alone.enqueued == []


async def test_only_images_of_another_identity_are_read(done, monkeypatch):
    _, alone, montage = done
    read: list[int] = []
    content_of = compare_images.content_of

    def counting(descriptor: int) -> FileContent:
        read.append(descriptor)
        return content_of(descriptor)

    monkeypatch.setattr(compare_images, "content_of", counting)
    alone.late.follow(montage)
    alone.now += 5.0
    await alone.check()
    assert read == []
    touched(images_of(montage.metafile)[0])
    for seconds in (10.0, 30.0):
        alone.now += seconds
        assert await alone.check() == 1
    assert len(read) == 1


async def test_a_mask_that_changes_is_made_again(tmp_path, monkeypatch):
    retry_fast(monkeypatch)
    monkeypatch.setattr(late_changes, "FIRST_CHECK_S", 0.05)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full(SIZE[::-1], 255, np.uint8)).save(mask)
    async with bench(tmp_path) as world:
        settings = world.assembly.settings()
        tilespecs = settings.watch[0].tilespecs.model_copy(update={"mask": mask})
        masked = settings.watch[0].model_copy(update={"tilespecs": tilespecs})
        object.__setattr__(settings, "watch", (masked,))  # frozen; every part reads the settings again
        metafile = world.write(size=SIZE)
        await world.notice(metafile)
        await world.reaches(metafile, COMPLETE)
        Image.fromarray(np.zeros(SIZE[::-1], np.uint8)).save(mask)
        await made_again(world, metafile)
        level = world.root / "mipmaps" / "1" / f"{mask.relative_to('/')}.tif"
        assert not verify_level(level, SIZE[0] // 2, SIZE[1] // 2, "L").any()
