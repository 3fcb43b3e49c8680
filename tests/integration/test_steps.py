"""The steps that write to stacks, after other programs have changed the stacks."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import daemon.pipeline.steps.perform
from daemon.montages.states import MontageState
from daemon.pipeline.steps.perform import Steps
from daemon.pipeline.steps.section import Section
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.opening import ensure_loading
from handlers.render.responses import StackState
from handlers.uris import path_to_uri
from tests.integration.inprocess import MIPS, RAW, bench, retry_fast

Z = 1050.0
Disturb = Callable[[RenderClient], Awaitable[object]]


async def delete_raw_stack(client: RenderClient) -> None:
    await client.delete_stack(RAW)


async def delete_raw_tile(client: RenderClient) -> None:
    await client.set_state(RAW, StackState.LOADING)
    await client.delete_tile(RAW, (await client.tile_bounds(RAW, Z))[0].tile_id)


async def nothing(client: RenderClient) -> None:
    return None


@pytest.mark.parametrize(
    ("disturb", "is_ingested_again"), [(nothing, False), (delete_raw_stack, True), (delete_raw_tile, True)]
)
async def test_raw_tiles_that_are_missing_when_the_levels_are_applied_are_put_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disturb: Disturb, is_ingested_again: bool
) -> None:
    retry_fast(monkeypatch)
    real, ingest, ingested = Steps.make_mipmaps, Steps.ingest, []

    async def make_mipmaps(steps: Steps, section: Section) -> bytes:
        numbers = await real(steps, section)
        await disturb(steps._client)
        return numbers

    async def count(steps: Steps, section: Section) -> None:
        ingested.append(section.raw)
        await ingest(steps, section)

    monkeypatch.setattr(Steps, "make_mipmaps", make_mipmaps)
    monkeypatch.setattr(Steps, "ingest", count)
    async with bench(tmp_path, close_after_s=2.0) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        for stack in (RAW, MIPS):
            assert len(await running.assembly.client.tile_bounds(stack, Z)) == 2
        assert len(ingested) == 1 + is_ingested_again


@pytest.mark.parametrize("apply", ["tiles", "path_builder"])
async def test_levels_are_applied_in_the_configured_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apply: str
) -> None:
    if apply == "path_builder" and "%" in path_to_uri(tmp_path):
        pytest.skip("a path builder cannot be used with images in a path whose URL has escapes")
    retry_fast(monkeypatch)
    limits: list[tuple[Path, int]] = []

    def access_timeout(path: Path, accesses: int = 1) -> Any:
        limits.append((path, accesses))
        return contextlib.nullcontext()

    monkeypatch.setattr(daemon.pipeline.steps.perform, "access_timeout", access_timeout)
    async with bench(tmp_path, mipmaps={"apply": apply}) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        client = running.assembly.client
        builder, found = await client.path_builder(MIPS), await client.resolved_tiles(MIPS, Z)
        assert found is not None
        levels = {key for tile in found.tile_id_to_spec_map.values() for key in tile["mipmapLevels"]}
        is_derived = apply == "path_builder"
        assert (builder is not None, levels) == (is_derived, {"0"} if is_derived else {"0", "1"})
        assert limits == [(tmp_path / "mipmaps", 2)]  # the time for two tiles with one level
        assert running.assembly.metrics.registry.get_sample_value("temwatch_tiles_mipmapped_total") == 2.0


async def put(client: RenderClient, stack: StackId, specs: Any) -> None:
    await ensure_loading(client, stack, (4.0, 4.0, 45.0))
    await client.put_tiles(stack, Z, specs)


@pytest.mark.parametrize("is_put_before", [False, True])
async def test_tiles_that_another_writer_put_are_counted_as_one_montage_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_put_before: bool
) -> None:
    retry_fast(monkeypatch)
    real = Steps.ingest

    async def ingest(steps: Steps, section: Section) -> None:
        if is_put_before:
            await put(steps._client, section.raw, section.specs)
        await real(steps, section)

    monkeypatch.setattr(Steps, "ingest", ingest)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        assert running.assembly.steps.put_by_others == is_put_before
        named = [line for line in running.log_lines if line["event"] == "tiles.of_another_writer"]
        assert [line["tiles"] for line in named] == [2] * is_put_before
