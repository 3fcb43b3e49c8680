"""Uploads of a superseded content that render-ws finishes after the new content was put and read back."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import daemon.pipeline.stacks.closer
from daemon.montages.states import MontageState
from daemon.pipeline.changes import late_changes
from daemon.pipeline.steps.perform import Steps
from handlers.errors import AnswerLate
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.names import StackId
from handlers.render.responses import StackState
from tests.integration.inprocess import MIPS, RAW, Bench, bench, retry_fast

Z = 1050.0


class LateUpload:
    """The first upload into a stack. Its client gives up; render-ws finishes it when the test calls `finish`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stack: StackId, on_late: Callable[[], Awaitable[None]]) -> None:
        self._real = RenderClient.put_tiles
        self._stack, self._on_late = stack, on_late
        self._held: tuple[Any, ...] = ()
        self.is_over = False

        async def put_tiles(client: RenderClient, *arguments: Any, **options: Any) -> int:
            return await self._put(client, *arguments, **options)

        monkeypatch.setattr(RenderClient, "put_tiles", put_tiles)

    async def _put(self, client: RenderClient, stack: StackId, *arguments: Any, **options: Any) -> int:
        if stack != self._stack or self._held:
            return await self._real(client, stack, *arguments, **options)
        self._held = (client, stack, *arguments)
        await self._on_late()
        raise AnswerLate(str(stack), "tried to put tiles, and render-ws sent nothing for 120 s")

    async def finish(self) -> None:
        """Finish the upload."""
        if self._held and not self.is_over:
            self.is_over = True
            await self._real(*self._held)


def replace_content(metafile: Path) -> None:
    """Write the metafile with one tile less, and another position of the last one."""
    head, data = json.loads(metafile.read_text())
    data["data"].pop()
    data["data"][-1]["img_meta"]["stage_pos"][0] -= 8
    metafile.write_text(json.dumps([head, data]))


async def shown(client: RenderClient, stack: StackId) -> dict[str, str]:
    """Return the translation of each tile of the section."""
    found = await client.resolved_tiles(stack, Z)
    assert found is not None
    tiles = found.tile_id_to_spec_map.values()
    return {tile["tileId"]: tile["transforms"]["specList"][0]["dataString"] for tile in tiles}


@pytest.mark.parametrize(
    ("stack", "moment"), [(RAW, "before apply"), (RAW, "before the close"), (MIPS, "before the close")], ids=str
)
async def test_late_tiles_of_a_replaced_content_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: StackId, moment: str
) -> None:
    retry_fast(monkeypatch)
    real_mipmaps, real_close = Steps.make_mipmaps, close_stack

    async def replace() -> None:
        replace_content(metafile)
        await running.notice(metafile)

    async def make_mipmaps(steps: Steps, section: Any) -> Any:
        if moment == "before apply" and len(section.specs) == 2:
            await late.finish()
        return await real_mipmaps(steps, section)

    async def close(client: RenderClient, closed: StackId, *arguments: Any, **options: Any) -> Any:
        montage = await running.montage(metafile)
        is_replaced = montage is not None and (montage.tile_count, montage.state) == (2, MontageState.APPLIED)
        if closed == stack and moment == "before the close" and is_replaced:
            await client.set_state(stack, StackState.LOADING)
            await late.finish()
        return await real_close(client, closed, *arguments, **options)

    monkeypatch.setattr(Steps, "make_mipmaps", make_mipmaps)
    monkeypatch.setattr(daemon.pipeline.stacks.closer, "close_stack", close)
    late = LateUpload(monkeypatch, stack, replace)
    async with bench(tmp_path, close_after_s=0.3) as running:
        metafile = running.write(tiles=3)
        await running.notice(metafile)
        await running.until(lambda: late.is_over, timeout_s=60)
        await running.reaches(metafile, MontageState.COMPLETE)
        tiles = {each: await shown(running.assembly.client, each) for each in (RAW, MIPS)}
        undisturbed = await expected(tmp_path / "other", metafile)
        assert tiles == {RAW: undisturbed, MIPS: undisturbed}


@pytest.mark.parametrize("stack", [RAW, MIPS], ids=str)
async def test_tiles_of_a_replaced_content_that_arrive_after_the_close_are_replaced_and_the_stack_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: StackId
) -> None:
    retry_fast(monkeypatch)
    monkeypatch.setattr(late_changes, "FIRST_CHECK_S", 0.05)
    monkeypatch.setattr(late_changes, "GROWTH", 1.3)

    async def replace() -> None:
        replace_content(metafile)
        await running.notice(metafile)

    late = LateUpload(monkeypatch, stack, replace)
    async with bench(tmp_path, close_after_s=0.3) as running:
        metafile = running.write(tiles=3)
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        await running.assembly.client.set_state(stack, StackState.LOADING)
        await late.finish()
        await running.assembly.client.set_state(stack, StackState.COMPLETE)
        await running.until(lambda: events_of(running, "tiles.overwritten"), timeout_s=60)
        await running.reaches(metafile, MontageState.COMPLETE)
        tiles = {each: await shown(running.assembly.client, each) for each in (RAW, MIPS)}
        undisturbed = await expected(tmp_path / "other", metafile)
        assert tiles == {RAW: undisturbed, MIPS: undisturbed}
        for each in (RAW, MIPS):
            found = await running.assembly.client.stack(each)
            assert found is not None
            assert found.state is StackState.COMPLETE


def events_of(running: Bench, name: str) -> list[Any]:
    return [line for line in running.log_lines if line["event"] == name]


async def expected(root: Path, metafile: Path) -> dict[str, str]:
    """Return the translations of the present content in another stand-in, without a late upload."""
    root.mkdir()
    async with bench(root) as running:
        copy = running.write(tiles=3)
        copy.write_bytes(metafile.read_bytes())
        await running.notice(copy)
        await running.reaches(copy, MontageState.COMPLETE)
        return await shown(running.assembly.client, RAW)
