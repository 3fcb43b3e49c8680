"""Writes of a content that was superseded while render-ws still processed them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from daemon.montages.states import MontageState
from daemon.simulator.standin import tile_routes
from daemon.simulator.standin.faults import Fault, FaultKind
from daemon.simulator.standin.server import serve_standin
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from tests.integration.inprocess import MIPS, RAW, bench
from tests.integration.standin_control import Hold, Standin

AFTER_SETTLED = (
    MontageState.SETTLED,
    MontageState.INGESTED,
    MontageState.MIPMAPPED,
    MontageState.APPLIED,
    MontageState.COMPLETE,
)
pytestmark = pytest.mark.usefixtures("fast_retries")

pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture(params=[RAW, MIPS], ids=str)
def stack(request: pytest.FixtureRequest) -> StackId:
    """The stack whose first upload is held."""
    held: StackId = request.param
    return held


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Holds the first upload between the check of the stack's state and the work."""
    return Hold(monkeypatch, tile_routes)


@pytest.fixture
async def service(stack: StackId, upload: Hold) -> AsyncIterator[Standin]:
    slow = Fault(match=f"PUT .*{stack.stack}/z/.*resolvedTiles", kind=FaultKind.SLOW, times=1)
    async with serve_standin(faults=[slow]) as url, aiohttp.ClientSession() as http:
        yield Standin(url, http)


async def positions(client: RenderClient, stack: StackId) -> dict[str, tuple[float | None, float | None]]:
    found = await client.resolved_tiles(stack, 1050.0)
    specs = found.tile_id_to_spec_map if found else {}
    return {tile_id: (spec["minX"], spec["minY"]) for tile_id, spec in specs.items()}


def stretch(metafile: Path, factor: float) -> None:
    """Rewrite a metafile with the same images at other positions."""
    content = json.loads(metafile.read_bytes())
    for tile in content[1]["data"]:
        tile["img_meta"]["stage_pos"] = [round(factor * place) for place in tile["img_meta"]["stage_pos"]]
    metafile.write_text(json.dumps(content))


@pytest.mark.parametrize("contents", [2, 3])
async def test_an_upload_of_a_superseded_content_does_not_overwrite_its_successor(
    tmp_path: Path, service: Standin, upload: Hold, contents: int
) -> None:
    async with RenderClient(service.url) as client, bench(tmp_path, client, close_after_s=0.2) as running:
        metafile = running.write(tiles=3)
        await running.notice(metafile)
        await upload.begun.wait()
        for _ in range(2, contents + 1):
            stretch(metafile, 1.5)
            await running.notice(metafile)
            await running.reaches(metafile, *AFTER_SETTLED)
        upload.release()
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        async with asyncio.timeout(60):
            while any(line.endswith("None") for line in await service.requests("PUT", "resolvedTiles")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        raw, mips = await positions(client, RAW), await positions(client, MIPS)
        assert len(raw) == montage.tile_count == 3
        assert raw == mips
        assert max(x for x, _ in raw.values() if x is not None) > 58 * 1.5 ** (contents - 1)
