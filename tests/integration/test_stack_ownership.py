"""Sections that would replace tiles of another section, or share a stack by accident, are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.montages.states import Event, MontageState
from daemon.pipeline.steps.failures import FailureHandler
from handlers.render.names import StackId
from tests.integration.inprocess import Bench, bench

pytestmark = pytest.mark.usefixtures("fast_retries")

FAILED, COMPLETE = MontageState.FAILED, MontageState.COMPLETE


def rewrite(metafile: Path, **header: Any) -> Path:
    """Replace fields of a metafile's header."""
    document = json.loads(metafile.read_bytes())
    document[0]["metadata"] |= header
    metafile.write_text(json.dumps(document))
    return metafile


async def ingest(running: Bench, metafile: Path, *states: MontageState) -> Any:
    await running.notice(metafile)
    return await running.reaches(metafile, *states)


async def test_a_copied_section_with_other_positions_does_not_replace_the_specs_of_a_complete_montage(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as running:
        owner = running.write(1050)
        await ingest(running, owner, COMPLETE)
        client, raw = running.assembly.client, StackId("em", "test", "s_raw")
        before = await client.resolved_tiles(raw, 1050.0)
        copy = owner.parent.parent / "copy" / owner.name
        copy.parent.mkdir()
        for image in owner.parent.glob("*.tif"):
            (copy.parent / image.name).write_bytes(image.read_bytes())
        document = json.loads(owner.read_bytes())
        for tile in document[1]["data"]:
            tile["img_meta"]["stage_pos"] = [each + 4_000.0 for each in tile["img_meta"]["stage_pos"]]
        copy.write_text(json.dumps(document))
        refused = await ingest(running, copy, FAILED)
        assert str(copy) in str(refused.fault)
        assert str(owner) in str(refused.fault)
        assert await client.resolved_tiles(raw, 1050.0) == before
        assert (await running.reaches(owner, COMPLETE)).state is COMPLETE


@pytest.mark.parametrize("value", ["___", "é", ".."])
async def test_a_header_value_without_a_letter_or_digit_cannot_name_a_stack(tmp_path: Path, value: str) -> None:
    async with bench(tmp_path, raw="{specimen_id}_raw", mipmapped="{specimen_id}_mips") as running:
        failed = await ingest(running, rewrite(running.write(1050), specimen_id=value), FAILED)
        assert f"specimen_id is {value!r}" in str(failed.fault)
        assert await running.assembly.client.stack(StackId("em", "test", "raw")) is None


async def test_two_header_values_that_give_the_same_stack_name_do_not_share_the_stack(tmp_path: Path) -> None:
    async with bench(tmp_path, raw="{specimen_id}_raw", mipmapped="{specimen_id}_mips") as running:
        first = rewrite(running.write(1050), specimen_id="17797-1R")
        second = rewrite(running.write(1051), specimen_id="17797_1R")
        await ingest(running, first, COMPLETE)
        failed = await ingest(running, second, FAILED)
        for text in (str(second), str(first), "'17797-1R'", "'17797_1R'", "em/test/17797_1R_raw"):
            assert text in str(failed.fault)
        third = rewrite(running.write(1052), specimen_id="17797-1R")
        await ingest(running, third, COMPLETE)
        rewrite(first, specimen_id="17797-2R")
        rewrite(third, specimen_id="17797-2R")
        for corrected in (first, third):
            await ingest(running, corrected, COMPLETE)
        await running.reaches(second, COMPLETE)


async def test_a_metafile_is_retried_if_its_stack_is_released_before_the_refusal_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, raw="{specimen_id}_raw", mipmapped="{specimen_id}_mips") as running:
        owner = rewrite(running.write(1050), specimen_id="17797-1R")
        refused = rewrite(running.write(1051), specimen_id="17797_1R")
        await ingest(running, owner, COMPLETE)
        rewrite(owner, specimen_id="17797-2R")  # not noticed yet, so its former content still has the stack
        fail = FailureHandler.fail

        async def fail_later(*arguments: Any) -> None:
            monkeypatch.undo()
            await ingest(running, owner, COMPLETE)
            await fail(*arguments)

        monkeypatch.setattr(FailureHandler, "fail", fail_later)
        done = await ingest(running, refused, COMPLETE)
        events = [event["event"] for event in await running.assembly.journal.events(done.id)]
        assert (events.count(Event.FAILED), events.count(Event.RETRIED)) == (1, 1)


async def test_header_values_that_differ_may_share_a_stack_whose_name_does_not_contain_them(tmp_path: Path) -> None:
    async with bench(tmp_path, raw="all_raw", mipmapped="{specimen_id}_mips") as running:
        for grid, value in ((1050, "a"), (1051, "b")):
            await ingest(running, rewrite(running.write(grid), specimen_id=value), COMPLETE)
