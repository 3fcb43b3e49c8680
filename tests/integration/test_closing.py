"""Closing stacks while other programs and montages interfere, with all parts of the daemon in this process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import daemon.pipeline.stacks.closer
import daemon.pipeline.stacks.keeper
from daemon.montages.states import Event, MontageState
from daemon.pipeline.steps.perform import Steps
from daemon.pipeline.steps.section import Section
from daemon.simulator.standin.server import serve_standin
from handlers.errors import ImageFault, StackLocked
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.names import StackId
from handlers.render.opening import ensure_loading
from handlers.render.responses import StackState
from tests.integration.inprocess import MIPS, RAW, Bench, bench

pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture
async def client() -> AsyncIterator[RenderClient]:
    async with serve_standin() as url, RenderClient(url) as client:
        yield client


async def state_of(client: RenderClient, stack: StackId) -> StackState | None:
    meta = await client.stack(stack)
    return meta.state if meta else None


async def wait_until_closed(client: RenderClient, *stacks: StackId) -> None:
    async with asyncio.timeout(60):
        while {await state_of(client, stack) for stack in stacks} != {StackState.COMPLETE}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_montage_superseded_while_its_stack_is_being_closed_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, close_after_s=0.2) as running:
        journal = running.assembly.journal

        real = close_stack

        async def lock_and_supersede(client: RenderClient, stack: StackId, *arguments: Any, **options: Any) -> Any:
            montage = await running.montage(metafile)
            if stack != RAW or montage is None or montage.state is not MontageState.APPLIED:
                return await real(client, stack, *arguments, **options)
            await journal.record(montage.id, Event.SUPERSEDED)
            raise StackLocked(str(stack), "the stack is READ_ONLY")

        metafile = running.write()
        with monkeypatch.context() as locked:
            locked.setattr(daemon.pipeline.stacks.closer, "close_stack", lock_and_supersede)
            await running.notice(metafile)
            await running.reaches(metafile, MontageState.SUPERSEDED)
            await running.until(lambda: any(line["event"] == "stack.close_failed" for line in running.log_lines))
        later = running.write(1051)
        await running.notice(later)
        await running.reaches(later, MontageState.COMPLETE)
        assert not [line for line in running.log_lines if line["event"] == "stack.close_bug"]


async def test_a_montage_whose_tiles_another_program_deletes_repeatedly_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = close_stack

    async def delete_and_close(client: RenderClient, stack: StackId, zs: Any = (), **options: Any) -> Any:
        if stack == MIPS and 1050.0 in zs:
            await client.set_state(stack, StackState.LOADING)
            tile = (await client.tile_bounds(stack, 1050.0))[0]
            await client.delete_tile(stack, tile.tile_id)
        return await real(client, stack, zs, **options)

    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", delete_and_close)
    async with bench(tmp_path, close_after_s=0.3) as running:
        bad, good = running.write(1050), running.write(1051)
        for metafile in (bad, good):
            await running.notice(metafile)
        failed = await running.reaches(bad, MontageState.FAILED)
        await running.reaches(good, MontageState.COMPLETE)
        assert failed.fault is not None
        assert failed.fault.problem.startswith(f"lacks 1 of 2 tiles of {bad.name} after closing, such as ")
        montage = await running.montage(good)
        assert montage is not None
        events = [event["event"] for event in await running.assembly.journal.events(montage.id)]
        assert events == ["noticed", "settled", "ingested", "mipmapped", "judged", "applied", "completed"]
        assert await state_of(running.assembly.client, MIPS) is StackState.COMPLETE


async def test_a_stack_that_another_program_empties_is_filled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, emptied = close_stack, []

    async def empty_and_close(client: RenderClient, stack: StackId, zs: Any = (), **options: Any) -> Any:
        if stack == MIPS and zs and not emptied:
            emptied.append(stack)
            await client.set_state(stack, StackState.LOADING)
            await client.delete_tiles(stack, 1050.0, [tile.tile_id for tile in await client.tile_bounds(stack, 1050.0)])
        return await real(client, stack, zs, **options)

    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", empty_and_close)
    async with bench(tmp_path) as running:
        metafile = running.write(1050)
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        assert emptied
        assert len(await running.assembly.client.tile_bounds(MIPS, 1050.0)) == 2


async def test_a_foreign_tile_without_a_section_id_does_not_keep_a_stack_open(
    tmp_path: Path, client: RenderClient
) -> None:
    foreign = {
        "tileId": "foreign",
        "z": 1050.0,
        "width": 8,
        "height": 8,
        "mipmapLevels": {"0": {"imageUrl": "file:///data/foreign.tif"}},
        "transforms": {"type": "list", "specList": []},
    }
    for stack in (RAW, MIPS):
        await ensure_loading(client, stack, (4.0, 4.0, 45.0))
        await client.put_tiles(stack, 1050.0, [foreign])
    async with bench(tmp_path, client) as running:
        metafile = running.write(1050)
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        assert len(await client.tile_bounds(MIPS, 1050.0)) == 3


async def write_on(running: Bench, metafiles: list[Path], enough: asyncio.Event) -> None:
    """Write one section after the other, so that the stacks are never quiet for `close_after_s`."""
    while not enough.is_set():
        metafiles.append(running.write(1050 + len(metafiles)))
        await running.notice(metafiles[-1])
        await running.reaches(metafiles[-1], MontageState.APPLIED, MontageState.COMPLETE)
        await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
async def test_a_stack_that_is_never_quiet_is_closed_at_its_latest_time_and_reopened(
    tmp_path: Path, client: RenderClient, in_place: bool
) -> None:
    stacks = {"mipmapped": None} if in_place else {}
    async with bench(tmp_path, client, close_after_s=60.0, close_at_latest_s=0.6, **stacks) as running:
        metafiles: list[Path] = []
        enough = asyncio.Event()
        writing = asyncio.create_task(write_on(running, metafiles, enough))
        await running.until(lambda: len(metafiles) >= 3)
        for _ in range(2):
            await running.reaches(metafiles[-1], MontageState.COMPLETE)
        enough.set()
        await writing
        for metafile in metafiles:
            await running.reaches(metafile, MontageState.COMPLETE)
        await wait_until_closed(client, RAW)


async def test_montages_are_complete_while_other_layers_of_the_closed_stack_are_still_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, may_continue = RenderClient.tile_bounds, asyncio.Event()

    async def wait_for_the_last_layer(client: RenderClient, stack: StackId, z: float) -> Any:
        if z == 1052.0 and (await client.existing_stack(stack)).state is StackState.COMPLETE:
            await may_continue.wait()
        return await real(client, stack, z)

    monkeypatch.setattr(RenderClient, "tile_bounds", wait_for_the_last_layer)
    monkeypatch.setattr(daemon.pipeline.stacks.closer, "RECORD_EVERY_S", 0.0)
    async with bench(tmp_path) as running:
        metafiles = [running.write(1050 + number) for number in range(3)]
        async with running.assembly.keeper.holding(RAW), running.assembly.keeper.holding(MIPS):
            for metafile in metafiles:
                await running.notice(metafile)
            for metafile in metafiles:
                await running.reaches(metafile, MontageState.APPLIED)
        for metafile in metafiles[:2]:
            await running.reaches(metafile, MontageState.COMPLETE)
        last = await running.montage(metafiles[2])
        assert last is not None
        assert last.state is MontageState.APPLIED
        await running.until(lambda: not running.assembly.keeper.is_blocked(MIPS))
        may_continue.set()
        await running.reaches(metafiles[2], MontageState.COMPLETE)


async def test_a_stack_that_is_never_quiet_stays_open_without_a_latest_time(
    tmp_path: Path, client: RenderClient
) -> None:
    async with bench(tmp_path, client, close_after_s=0.5, close_at_latest_s=0.0) as running:
        metafiles: list[Path] = []
        async with asyncio.timeout(60):
            async with running.assembly.keeper.holding(RAW):
                metafiles.append(running.write(1050))
                await running.notice(metafiles[0])
                await wait_until_closed(client, MIPS)
                assert (await running.reaches(metafiles[0], MontageState.APPLIED)).state is MontageState.APPLIED
                assert await state_of(client, RAW) is StackState.LOADING
        await running.reaches(metafiles[0], MontageState.COMPLETE)


async def test_no_step_begins_to_write_to_a_stack_whose_close_is_overdue(tmp_path: Path, client: RenderClient) -> None:
    async with bench(tmp_path, client, close_after_s=60.0, close_at_latest_s=0.3) as running:
        keeper = running.assembly.keeper
        done: list[str] = []
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def write(name: str) -> None:
            async def effect() -> None:
                await client.put_tiles(RAW, 1.0, [{**TILE, "tileId": name}])
                if name == "long":
                    begun.set()
                    await may_end.wait()
                done.append(f"{name} in version {(await client.stack(RAW)).current_version_number}")  # type: ignore[union-attr]

            await keeper.write("w", RAW, (4.0, 4.0, 45.0), effect)

        long = asyncio.create_task(write("long"))
        await begun.wait()
        await write("short")
        await running.until(lambda: keeper.is_blocked(RAW))
        late = asyncio.create_task(write("late"))
        await running.until(lambda: keeper._uses[RAW].holders == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert keeper._uses[RAW].writers == 1, "the late step waits"
        may_end.set()
        await asyncio.wait([long, late])
        assert done == ["short in version 0", "long in version 0", "late in version 1"]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[StackId]:
    """The stacks whose close has begun. No close ends."""
    begun: list[StackId] = []

    async def hang(_: RenderClient, stack: StackId, *arguments: Any, **options: Any) -> None:
        begun.append(stack)
        await asyncio.Event().wait()

    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", hang)
    return begun


async def test_a_close_that_never_ends_blocks_writers_for_a_limited_time(
    tmp_path: Path, client: RenderClient, monkeypatch: pytest.MonkeyPatch, begun: list[StackId]
) -> None:
    monkeypatch.setattr(daemon.pipeline.stacks.keeper, "MAX_BLOCKED_S", 0.3)
    async with bench(tmp_path, client, close_after_s=0.0) as running:
        first, second = running.write(1050), running.write(1051)
        await running.notice(first)
        await running.reaches(first, MontageState.APPLIED)
        await running.until(lambda: set(begun) == {RAW, MIPS})
        await running.notice(second)
        await running.reaches(second, MontageState.APPLIED)
        assert len(begun) == 2


TILE = {
    "z": 1.0,
    "width": 8,
    "height": 8,
    "layout": {"sectionId": "1.0"},
    "mipmapLevels": {"0": {"imageUrl": "file:///data/a.tif"}},
    "transforms": {"type": "list", "specList": []},
}


async def fail_mipmaps(_: Steps, section: Section) -> None:
    raise ImageFault(str(section.montage.metafile), "shows nothing")


async def test_a_stack_reopened_for_a_montage_that_fails_is_closed_again(
    tmp_path: Path, client: RenderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, client) as running:
        good, bad = running.write(1050), running.write(1051)
        await running.notice(good)
        await running.reaches(good, MontageState.COMPLETE)
        monkeypatch.setattr(Steps, "make_mipmaps", fail_mipmaps)
        await running.notice(bad)
        await running.reaches(bad, MontageState.FAILED)
        await wait_until_closed(client, RAW, MIPS)
        assert len(await client.tile_bounds(RAW, 1051.0)) == 2
        assert await running.assembly.journal.open_stacks() == []


async def test_a_stack_left_open_by_a_former_process_is_closed_by_the_next_one(
    tmp_path: Path, client: RenderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(Steps, "make_mipmaps", fail_mipmaps)
        async with bench(tmp_path, client, close_after_s=60.0) as running:
            metafile = running.write(1050)
            await running.notice(metafile)
            await running.reaches(metafile, MontageState.FAILED)
            assert await state_of(client, RAW) is StackState.LOADING
    async with bench(tmp_path, client):
        await wait_until_closed(client, RAW)


async def test_a_read_only_stack_is_not_closed_again(
    tmp_path: Path, client: RenderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Steps, "make_mipmaps", fail_mipmaps)
    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", locked)
    async with bench(tmp_path, client, close_after_s=0.5) as running:
        metafile = running.write(1050)
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.FAILED)
        await running.until(lambda: any(line["event"] == "stack.close_failed" for line in running.log_lines))
        async with asyncio.timeout(60):
            while await running.assembly.journal.open_stacks():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [line["event"] for line in running.log_lines].count("stack.close_failed") == 1


async def locked(_: RenderClient, stack: StackId, *arguments: Any, **options: Any) -> None:
    raise StackLocked(str(stack), "the stack is READ_ONLY")


async def test_a_stopped_keeper_begins_no_close_and_a_cancelled_close_is_no_crash(
    tmp_path: Path, client: RenderClient, begun: list[StackId]
) -> None:
    async with bench(tmp_path, client, close_after_s=0.3) as running:
        first, second = running.write(1050), running.write(1051)
        await running.notice(first)
        await running.reaches(first, MontageState.APPLIED)
        await running.until(lambda: set(begun) == {RAW, MIPS})
        await running.stop()
        assert len(begun) == 2
        montage = await running.montage(first)
        assert montage is not None
        outcomes = [
            each["outcome"] for each in await running.assembly.journal.attempts(montage.id) if each["step"] == "close"
        ]
        # The close of the raw stack may have begun before the montage was APPLIED. Then it is not one of its attempts.
        assert outcomes in (["stopped"], ["stopped", "stopped"])
        assert await running.assembly.journal.count_crashes() == 0
    async with bench(tmp_path, client) as running:
        running.assembly.keeper.stop()
        await running.notice(second)
        await running.reaches(second, MontageState.APPLIED)
        await asyncio.sleep(0.2)  # a close without a quiet time would begin at once
        assert len(begun) == 2


async def test_a_montage_whose_tiles_the_section_data_lack_waits_alone(
    tmp_path: Path, client: RenderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program continues to write to its section."""
    real = RenderClient.section_data

    async def miss_a_tile(client: RenderClient, *arguments: Any) -> Any:
        found = await real(client, *arguments)
        return tuple(
            msgspec.structs.replace(each, tile_count=each.tile_count - 1) if each.z == 1050.0 else each
            for each in found
        )

    async with bench(tmp_path, client, close_after_s=0.3) as running:
        missed, seen = running.write(1050), running.write(1051)
        with monkeypatch.context() as racing:
            racing.setattr(RenderClient, "section_data", miss_a_tile)
            for metafile in (missed, seen):
                await running.notice(metafile)
            await running.reaches(seen, MontageState.COMPLETE)
            await running.reaches(missed, MontageState.APPLIED)
            await running.until(lambda: any(line["event"] == "montage.not_closed" for line in running.log_lines))
            problems = {str(line["fault"]) for line in running.log_lines if line["event"] == "montage.not_closed"}
            assert all("its section data lack tiles of section 1050.0 at z 1050" in each for each in problems)
            assert {line["metafile"] for line in running.log_lines if line["event"] == "montage.not_closed"} == {
                str(missed)
            }
        await running.reaches(missed, MontageState.COMPLETE)


async def test_a_montage_whose_tile_is_deleted_during_the_close_is_applied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = close_stack
    deleted: list[str] = []

    async def delete_and_close(client: RenderClient, stack: StackId, zs: Any = (), **options: Any) -> Any:
        if stack == MIPS and not deleted:
            layer = await client.tile_bounds(stack, 1050.0)
            deleted.append(layer[0].tile_id)
            await client.delete_tiles(stack, 1050.0, deleted)
        return await real(client, stack, zs, **options)

    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", delete_and_close)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        shown = {tile.tile_id for tile in await running.assembly.client.tile_bounds(MIPS, 1050.0)}
        assert deleted
        assert shown == await running.assembly.journal.tile_ids(montage.id)
        events = [event["event"] for event in await running.assembly.journal.events(montage.id)]
        assert events.count(Event.TILES_LOST) == 1


async def test_an_unexpected_exception_fails_the_close_which_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = close_stack
    failed: list[StackId] = []

    async def fail_once(client: RenderClient, stack: StackId, zs: Any = (), **options: Any) -> Any:
        if zs and stack not in failed:  # a close for a montage, not only for an opened stack
            failed.append(stack)
            raise KeyError("planted")
        return await real(client, stack, zs, **options)

    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", fail_once)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        closed = [{"event": "stack.closed", "stack": str(stack), "montages": 1}.items() for stack in (RAW, MIPS)]
        await running.until(lambda: all(any(each <= line.items() for line in running.log_lines) for each in closed))
        attempts = [each for each in await running.assembly.journal.attempts(montage.id) if each["step"] == "close"]
        assert sorted(each["outcome"] for each in attempts) == ["done", "done", "failed", "failed"]
        assert {RAW, MIPS} == set(failed)
        for each in attempts:
            assert ("planted" in str(each["fault"])) == (each["outcome"] == "failed")
        assert await running.assembly.journal.count_crashes() == 0


async def test_no_metafile_stays_in_memory_once_its_montage_is_applied(tmp_path: Path) -> None:
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        assert not running.assembly.steps.metafiles._kept
