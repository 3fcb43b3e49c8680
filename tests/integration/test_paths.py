"""Renames, copies and rewrites of metafiles: in the end, stacks and journal agree with the files on disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.journal.tables.duplicates import MAX_PATHS
from daemon.montages.records import Montage
from daemon.montages.states import MontageState, Step
from daemon.pipeline.requests.dismissal import DismissRequest, dismiss
from daemon.pipeline.settling.claims import Claim, Claims
from tests.integration.small_world import ARRIVAL_TIMEOUT_S, AWAITED, BAD, LENS_SET, MIPS, RAW, World, ids_of, text_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    yield world
    await world.stop()


def tiles_in(world: World, stack: str = MIPS) -> set[str]:
    return {tile_id.split(".")[0] for tile_id in world.stacks[stack]}


# --- a metafile that changes during its inspection


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (text_of("t1 t2"), text_of("t2 t3")),
        (BAD, text_of("t2 t3")),
        (LENS_SET, text_of("t2 t3")),
        (text_of("t1", note=AWAITED), text_of("t2 t3")),
    ],
    ids=["settled", "failed", "ignored", "waiting"],
)
async def test_a_metafile_rewritten_during_its_inspection_is_ingested_with_its_last_content(
    world, before, after, restarted
):
    path = world.path("a")
    world.write(path, before)

    async def rewrite() -> None:
        world.write(path, after)
        await world.see(path)

    world.when("examine", path, rewrite)
    await world.work(1)
    if restarted:
        await world.restart()
    await world.finish()
    assert await world.states() == {"a": "complete"}
    assert tiles_in(world) == {"t2", "t3"}


@pytest.mark.parametrize("again", ["noticed", "retried"])
async def test_a_montage_enqueued_while_its_failed_step_ends_is_processed(world, monkeypatch, again):
    path = world.path("a")
    world.write(path, text_of("t1", note=AWAITED))
    await world.scan()
    if again == "noticed":
        path.unlink()
    real = world.journal.refuse

    async def refuse_and_go_on(*args: object, **kwargs: object) -> object:
        monkeypatch.undo()
        refused = await real(*args, **kwargs)
        if again == "noticed":
            world.write(path, text_of("t1"))
            await world.see(path)
        else:
            world.image.touch()
            await world.recheck.check()
        return refused

    monkeypatch.setattr(world.journal, "refuse", refuse_and_go_on)
    for _ in range(3):
        await world.run_for(ARRIVAL_TIMEOUT_S / 2)
    assert await world.states() == {"a": "complete"}


async def test_a_known_content_rewritten_while_it_is_recognised_is_ingested_with_its_last_content(world, monkeypatch):
    path = world.path("a")
    world.write(path, text_of("t1 t2"))
    await world.work()
    world.write(path, text_of("t1 t2"))
    real = world.journal.recognise

    async def rewrite_first(*args: object, **kwargs: object) -> object:
        monkeypatch.undo()
        world.write(path, text_of("t2 t3"))
        await world.see(path)
        return await real(*args, **kwargs)

    monkeypatch.setattr(world.journal, "recognise", rewrite_first)
    await world.finish()
    assert await world.states() == {"a": "complete"}
    assert tiles_in(world) == {"t2", "t3"}


async def test_a_rewrite_that_stat_does_not_show_is_ingested_after_a_step_has_read_it(world):
    path = world.path("a")
    world.write(path, text_of("t1 t2"))

    async def rewrite() -> None:
        world.write(path, text_of("t2 t3"))
        world.hide_change(path)

    world.when("section", path, rewrite)
    await world.finish()
    assert await world.states() == {"a": "complete"}
    assert tiles_in(world) == {"t2", "t3"}


# --- a failed section that is copied again


@pytest.mark.parametrize("again", [text_of("t1 t2"), text_of("t1 t2 t3")], ids=["same content", "other content"])
async def test_a_path_is_still_watched_after_its_failed_section_was_copied_again(world, again):
    path = world.path("a")
    world.write(path, text_of("t1 t2", note=AWAITED))
    await world.finish()
    assert await world.states() == {"a": "failed"}
    world.write(path, again)
    await world.see(path)  # the copy is noticed first, then the failed montage is retried
    world.image.touch()
    await world.recheck.check()
    await world.finish()
    assert await world.states() == {"a": "complete"}
    world.write(path, text_of("t4"))
    await world.finish()
    assert await world.states() == {"a": "complete"}
    assert tiles_in(world) == {"t4"}


# --- two metafiles that name the same tiles


async def test_the_second_of_two_metafiles_that_name_a_tile_is_refused_with_both_names(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.write(world.path("a", 2), text_of("t2 t3"))
    world.write(world.path("b"), text_of("t1 t2"))
    await world.finish()
    assert await world.states() == {"a": "complete failed", "b": "failed"}
    for path in (world.path("a", 2), world.path("b")):
        (refused,) = await world.at(path)
        assert str(path) in str(refused.fault)
        assert str(world.path("a")) in str(refused.fault)
        assert "t2" in str(refused.fault) or "t1" in str(refused.fault)
    assert world.stacks[RAW] == dict.fromkeys(ids_of(text_of("t1 t2")), str(world.path("a")))


async def test_metafiles_with_the_same_images_at_another_z_or_with_other_images_are_accepted(world):
    world.write(world.path("a"), text_of("t1 t2"))
    world.write(world.path("b"), text_of("t3"))
    world.write(world.path("c"), text_of("t1 t2", z=2))
    await world.finish()
    assert await world.states() == dict.fromkeys("abc", "complete")


async def test_a_refused_metafile_is_retried_when_the_owner_of_its_tiles_cannot_settle_again(world):
    first, second = world.path("a"), world.path("b")
    world.image.touch()
    world.write(first, text_of("t1", note=AWAITED))
    world.broken.add(str(first))
    await world.work()
    world.write(second, text_of("t1"))
    await world.work()
    assert await world.states() == {"a": "failed", "b": "failed"}
    world.image.unlink()
    first.touch()
    await world.finish()
    assert await world.states() == {"a": "failed", "b": "complete"}
    world.image.touch()
    await world.finish()
    assert await world.states() == {"a": "failed", "b": "complete"}
    assert str(second) in str((await world.at(first))[0].fault)


async def test_a_refused_metafile_is_retried_when_the_owner_of_its_tiles_no_longer_names_them(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.write(world.path("b"), text_of("t1 t3"))
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "failed"}
    world.write(world.path("a"), text_of("t2"))
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "complete"}
    assert tiles_in(world) == {"t1", "t2", "t3"}


@pytest.mark.parametrize("how", ["deleted", "moved away", "invalid"])
@pytest.mark.parametrize("order", ["before", "after"])
async def test_a_complete_montage_whose_metafile_is_archived_keeps_its_tiles_until_it_is_dismissed(world, how, order):
    def archive() -> None:
        if how == "invalid":
            world.write(world.path("a"), BAD)
        elif how == "deleted":
            world.remove("a")
        else:
            world.move("a", "../a")

    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    if order == "before":
        archive()
        await world.finish()
    world.write(world.path("b"), text_of("t1 t3"))
    await world.finish()
    if order == "after":
        archive()
        await world.finish()
    (refused,) = await world.at(world.path("b"))
    owner = (await world.at(world.path("a")))[0]
    assert (owner.state, refused.state) == (MontageState.COMPLETE, MontageState.FAILED)
    for text in (str(world.path("a")), str(world.path("b")), "t1", "gone" if how != "invalid" else "another content"):
        assert text in str(refused.fault)
    assert f"temwatch dismiss {owner.id}" in refused.fault.hint
    assert world.stacks[RAW] == dict.fromkeys(ids_of(text_of("t1 t2")), str(world.path("a")))
    await world.restart()
    await world.finish()
    assert (await world.at(world.path("b")))[0].state is MontageState.FAILED
    (outcome,) = await dismiss(world.journal, DismissRequest(ids=(owner.id,), reason="imaged again"))
    assert outcome["dismissed"], outcome
    await world.finish()
    assert (await world.at(world.path("b")))[0].state is MontageState.COMPLETE
    assert (await world.journal.montage(owner.id)).state is MontageState.SUPERSEDED
    assert tiles_in(world, RAW) == tiles_in(world) == {"t1", "t3"}


async def test_a_metafile_that_waits_for_tiles_is_checked_again_when_their_montage_is_set_back_and_its_metafile_is_gone(
    world,
):
    """After a replay, or after another program deleted its tiles, it can never finish."""
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.remove("a")
    world.write(world.path("b"), text_of("t1 t3"))
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "failed"}
    (owner,) = await world.at(world.path("a"))
    assert await world.journal.replay(owner.id, Step.INGEST) is not None
    await world.restart()
    await world.finish()
    assert (await world.at(world.path("b")))[0].state is MontageState.COMPLETE
    assert tiles_in(world, RAW) == tiles_in(world) == {"t1", "t3"}


async def test_a_complete_montage_cannot_be_dismissed_while_its_metafile_is_there(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.finish()
    (owner,) = await world.at(world.path("a"))
    (outcome,) = await dismiss(world.journal, DismissRequest(ids=(owner.id,), reason="imaged again"))
    assert (outcome["dismissed"], "its metafile exists" in outcome["note"]) == (False, True)
    assert await world.states() == {"a": "complete"}


async def test_a_dismissed_montage_keeps_its_tiles_from_metafiles_that_do_not_name_them(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.finish()
    (owner,) = await world.at(world.path("a"))
    world.remove("a")
    await dismiss(world.journal, DismissRequest(ids=(owner.id,), reason="archived"))
    world.write(world.path("b"), text_of("t3"))
    await world.finish()
    assert await world.states() == {"a": "dismissed", "b": "complete"}
    assert tiles_in(world) == {"t1", "t2", "t3"}


async def test_an_unfinished_montage_releases_its_tiles_when_its_metafile_is_deleted(world):
    world.image.touch()
    world.write(world.path("a"), text_of("t1", note=AWAITED))
    world.broken.add(str(world.path("a")))
    await world.work()
    world.write(world.path("b"), text_of("t1"))
    await world.work()
    assert await world.states() == {"a": "failed", "b": "failed"}
    world.remove("a")
    await world.finish()
    assert await world.states() == {"a": "superseded", "b": "complete"}


@pytest.mark.parametrize("how", ["refused", "ignored"])
async def test_a_refused_metafile_that_is_removed_is_superseded(world, how):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    if how == "refused":
        world.write(world.path("b"), text_of("t1 t3"))
    else:
        world.link("a", "b")
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "failed" if how == "refused" else "ignored"}
    text = world.path("b").read_text()
    world.remove("b")
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "superseded"}
    assert tiles_in(world) == {"t1", "t2"}
    world.write(world.path("b"), text)
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "failed"}


async def test_a_copy_is_ingested_when_its_original_is_removed(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.copy("a", "b")
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "failed"}
    world.remove("a")
    await world.finish()
    assert await world.states() == {"a": "superseded", "b": "complete"}
    assert set(world.stacks[RAW].values()) == {str(world.path("b"))}


async def test_two_sections_that_exchange_paths_are_both_complete(world):
    world.write(world.path("a"), text_of("t1 t2"))
    world.write(world.path("b"), text_of("t3"))
    await world.work()
    world.move("a", "c")
    world.move("b", "a")
    world.move("c", "b")
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "complete"}
    for stack in (RAW, MIPS):
        assert {key.split(".")[0]: Path(value).parent.name for key, value in world.stacks[stack].items()} == {
            "t1": "b",
            "t2": "b",
            "t3": "a",
        }


async def test_a_file_under_two_paths_is_ingested_once_and_follows_the_remaining_path(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.link("a", "b")
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "ignored"}
    world.remove("a")
    await world.finish()
    assert await world.states() == {"a": "superseded", "b": "complete"}
    assert set(world.stacks[RAW].values()) == {str(world.path("b"))}


@pytest.mark.parametrize("how", ["linked", "copied", "rewritten"])
async def test_two_paths_of_a_file_that_settle_at_once_are_ingested_once(world, how):
    first, second = world.path("a"), world.path("b")
    world.write(first, text_of("t1 t2"))
    if how == "linked":
        world.link("a", "b")
    else:
        world.write(second, text_of("t1 t2", note="" if how == "copied" else "again"))
    world.when("examine", first, world.turn)
    world.when("examine", second, world.turn)
    await world.finish()
    assert sorted((await world.states()).values()) == ["complete", "ignored" if how == "linked" else "failed"]


async def test_a_metafile_is_not_ignored_because_of_a_failed_montage_of_its_other_path(world):
    world.write(world.path("a"), text_of("t1 t2", note=AWAITED))
    world.link("a", "b")
    await world.finish()
    assert await world.states() == {"a": "failed", "b": "failed"}
    world.image.touch()  # found for one of the two paths: the images were not linked
    first, second = await world.journal.montages()
    await world.pipeline.enqueue(await world.journal.retry(first.id, "its image is there now"))
    await world.run_for(1)
    assert await world.states() == {"a": "complete", "b": "failed"}
    await world.pipeline.enqueue(await world.journal.retry(second.id, "its image is there now"))
    await world.run_for(1)
    assert await world.states() == {"a": "complete", "b": "ignored"}


# --- moves


@pytest.mark.parametrize("how", ["renamed", "renamed twice", "copied and deleted", "linked and deleted"])
@pytest.mark.parametrize("was_read", [False, True])
async def test_a_metafile_moved_while_it_waits_is_superseded_by_its_new_path(world, how, was_read):
    world.write(world.path("old"), text_of("t1 t2", note=AWAITED))
    if was_read:
        await world.work(30)
    else:
        await world.scan()
    if how == "renamed twice":
        world.move("old", "between")
        await world.scan()
        world.move("between", "new")
    elif how == "renamed":
        world.move("old", "new")
    else:
        (world.copy if how == "copied and deleted" else world.link)("old", "new")
        await world.scan()
        world.remove("old")
    await world.work(30)
    world.image.touch()
    await world.finish()
    found = await world.states()
    assert found.pop("new") == "complete"
    if how == "copied and deleted" and not was_read:
        assert found == {"old": "failed"}  # its content was not read, and the copy is another file
    else:
        assert set(found.values()) == {"superseded"}


@pytest.mark.parametrize("had_failed", [False, True])
async def test_a_moved_metafile_that_fails_is_one_failure_only(world, had_failed):
    world.write(world.path("old"), text_of("t1 t2", note=AWAITED))
    await (world.finish() if had_failed else world.work(30))
    assert await world.states() == {"old": "failed" if had_failed else "noticed"}
    world.move("old", "new")
    await world.finish()
    assert await world.states() == {"old": "superseded", "new": "failed"}


async def test_tiles_of_a_renamed_section_stay_when_its_old_path_is_reused(world):
    world.write(world.path("old"), text_of("t1 t2"))
    await world.work()
    world.move("old", "new")
    await world.work()
    world.write(world.path("old"), text_of("t1"))
    await world.finish()
    assert (await world.states())["new"] == "complete"
    assert tiles_in(world, RAW) == tiles_in(world) == {"t1", "t2"}


async def test_no_tile_of_a_current_montage_is_deleted_by_another_montage(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.write(world.path("a"), text_of("t1"))
    world.write(world.path("b"), text_of("t2"))
    await world.finish()
    world.write(world.path("a"), text_of("t1", note="again"))
    await world.finish()
    assert await world.states() == {"a": "complete", "b": "complete"}
    assert tiles_in(world, RAW) == tiles_in(world) == {"t1", "t2"}


async def test_a_section_that_was_missing_at_a_check_and_is_back_is_noticed_again(world):
    world.write(world.path("a"), text_of("t1 t2"))
    await world.work()
    world.copy("a", "b")
    world.move("a", "../a")
    await world.see(world.path("b"))
    await world.run_for(1)
    assert await world.states() == {"a": "superseded", "b": "complete"}
    world.move("../a", "a")
    await world.finish()
    assert await world.states() == {"a": "failed", "b": "complete"}


async def test_a_tile_that_a_content_no_longer_names_is_deleted_even_after_a_rename(world):
    path = world.path("old")
    world.write(path, text_of("t1 t2"))
    await world.work()
    world.write(path, text_of("t1"))
    await world.scan()
    while not [row for row in await world.at(path) if row.state is MontageState.SETTLED]:
        await world.turn()
    world.move("old", "new")
    await world.finish()
    assert await world.states() == {"old": "superseded", "new": "complete"}
    assert tiles_in(world, RAW) == tiles_in(world) == {"t1"}


async def test_a_section_moved_and_rewritten_at_once_leaves_no_url_of_its_old_path(world):
    world.write(world.path("old"), text_of("t1 t2"))
    world.broken.add(str(world.path("old")))
    await world.work(5)
    world.move("old", "new")
    world.write(world.path("new"), text_of("t1"))
    await world.finish()
    assert await world.states() == {"old": "superseded", "new": "complete"}
    for stack in (RAW, MIPS):
        assert world.stacks[stack] == dict.fromkeys(ids_of(text_of("t1")), str(world.path("new")))


async def test_a_missing_metafile_fails_once_even_if_it_was_touched_before(world):
    path = world.path("a")
    world.write(path, text_of("t1"))
    world.broken.add(str(path))
    await world.work()
    assert await world.states() == {"a": "failed"}
    world.broken.clear()
    world.write(path, text_of("t1"))
    await world.scan()
    world.remove("a")
    await world.finish()
    assert await world.states() == {"a": "failed"}
    world.write(path, text_of("t1"))
    await world.finish()
    assert await world.states() == {"a": "complete"}


@pytest.mark.parametrize("was_there", [False, True], ids=["to a new path", "back to its path"])
@pytest.mark.parametrize("state", ["mipmapped", "failed", "ignored"])
@pytest.mark.parametrize("text", [BAD, LENS_SET, text_of("t3")], ids=["bad", "lens set", "valid"])
async def test_a_content_is_superseded_when_the_metafile_that_replaced_it_moves(world, state, text, was_there):
    path = world.path("old")
    if was_there:
        world.write(world.path("new"), text)
        await world.work()
    world.write(path, text_of("t1 t2") if state != "ignored" else f"{LENS_SET}of another day")
    if state == "failed":
        world.broken.add(str(path))
    await world.scan()
    while not [row for row in await world.at(path) if row.state == state]:
        await world.turn()
    if was_there:
        world.remove("old")
        world.move("new", "old")
    else:
        world.write(path, text)
    await world.scan()
    world.move("old", "new")
    await world.finish()
    following = {BAD: "failed", LENS_SET: "ignored"}.get(text, "complete")
    keeps_tiles = was_there and following == "complete" and state != "ignored"
    assert await world.states() == {"old": "failed" if keeps_tiles else "superseded", "new": following}
    if following == "complete":
        # Tiles are deleted only by a montage that supersedes theirs. Without one, their montage remains.
        assert tiles_in(world, RAW) == ({"t1", "t2", "t3"} if keeps_tiles else {"t3"})


async def test_a_removed_metafile_is_a_failure_although_its_former_path_holds_another_content(world):
    world.write(world.path("old"), text_of("t1"))
    await world.work()
    world.move("old", "new")
    world.write(world.path("old"), text_of("t2", note=AWAITED))
    await world.scan()
    world.remove("new")
    await world.finish()
    assert await world.states() == {"old": "complete failed", "new": "failed"}


# --- contents that are replaced and return


@pytest.mark.parametrize("step", ["applied", "mipmapped", "ingested", "failed"])
@pytest.mark.parametrize("text", [BAD, LENS_SET])
async def test_an_unfinished_montage_is_superseded_by_a_content_that_is_not_ingested(world, text, step):
    path = world.path("a")
    world.write(path, text_of("t1 t2"))
    if step == "failed":
        world.broken.add(str(path))
    await world.scan()
    while not [row for row in await world.at(path) if row.state == step]:
        await world.turn()
    world.write(path, text)
    await world.finish()
    assert await world.states() == {"a": "failed" if text == BAD else "ignored"}
    assert world.closed == {RAW, MIPS} or step != "applied"


async def test_a_complete_montage_is_kept_when_its_path_holds_a_content_that_is_not_ingested(world):
    path = world.path("a")
    world.write(path, text_of("t1 t2"))
    await world.work()
    world.write(path, BAD)
    await world.finish()
    assert await world.states() == {"a": "complete failed"}
    world.write(path, text_of("t1 t2"))
    await world.finish()
    assert await world.states() == {"a": "complete"}


@pytest.mark.parametrize("text", [text_of("t1"), BAD, LENS_SET], ids=["valid", "bad", "ignored"])
async def test_a_content_that_returns_is_the_present_content_of_its_path(world, text):
    path = world.path("a")
    for each in (text, text_of("t2"), text, BAD, text):
        world.write(path, each)
        await world.finish()
    count = len(await world.montages())
    await world.restart()
    await world.scan()
    assert [row.metafile for row in await world.unfinished()] == []
    assert len(await world.montages()) == count


# --- many metafiles with one content, for example after a full disk


async def test_many_metafiles_of_one_content_fail_and_move_one_by_one(world):
    olds, news = ([f"{name}{number}" for number in range(2 * MAX_PATHS + 3)] for name in ("old", "new"))
    for name in olds:
        world.write(world.path(name), BAD)
    await world.finish()
    assert await world.states() == dict.fromkeys(olds, "failed")
    for old, new in zip(olds, news, strict=True):
        world.move(old, new)
    await world.finish()
    assert await world.states() == dict.fromkeys(olds, "superseded") | dict.fromkeys(news, "failed")


async def test_a_refused_metafile_is_compared_with_a_bounded_number_of_paths(world, monkeypatch):
    compared: list[Path] = []
    real = Claims.present

    async def count(claims: Claims, montage: Montage) -> Claim | None:
        compared.append(montage.metafile)
        return await real(claims, montage)

    for number in range(2 * MAX_PATHS):
        world.write(world.path(f"a{number}"), BAD)
    await world.finish()
    monkeypatch.setattr(Claims, "present", count)
    world.write(world.path("last"), BAD)
    await world.finish()
    assert 0 < len(compared) <= MAX_PATHS
