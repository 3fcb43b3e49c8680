"""Writes of a content that was superseded while render-ws still processed them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.montages.states import MontageState
from daemon.simulator.standin.faults import Fault, FaultKind
from daemon.simulator.standin.server import serve_standin
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from tests.integration.inprocess import MIPS, RAW
from tests.integration.inprocess import bench as at_work

pytestmark = pytest.mark.usefixtures("fast_retries")

SLOW_S = 1.5


@pytest.fixture(params=["s_raw/z", "s_mips/z"])
async def slow_once(request: pytest.FixtureRequest) -> AsyncIterator[RenderClient]:
    """A render-ws whose first upload to a stack is slow between the check of the state and the effect."""
    slow = Fault(match=f"PUT .*{request.param}/.*resolvedTiles", kind=FaultKind.SLOW, seconds=SLOW_S, times=1)
    async with serve_standin(faults=[slow]) as url, RenderClient(url) as client:
        yield client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stacks with a begun upload."""
    begun: list[str] = []
    real = RenderClient.put_tiles

    async def put_tiles(client: RenderClient, stack: object, *arguments: object, **options: object) -> int:
        begun.append(str(stack))
        return await real(client, stack, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(RenderClient, "put_tiles", put_tiles)
    return begun


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
    tmp_path: Path, slow_once: RenderClient, sent: list[str], request: pytest.FixtureRequest, contents: int
) -> None:
    client = slow_once
    slow = RAW if "raw" in request.node.callspec.params["slow_once"] else MIPS
    async with at_work(tmp_path, client, close_after_s=0.2) as work:
        metafile = work.write(tiles=3)
        await work.notice(metafile)
        await work.until(lambda: str(slow) in sent)
        await asyncio.sleep(0.2)
        for number in range(2, contents + 1):
            stretch(metafile, 1.5)
            await work.notice(metafile)
            await asyncio.sleep(0.2 if number < contents else 0)
        montage = await work.reaches(metafile, MontageState.COMPLETE)
        await asyncio.sleep(SLOW_S)  # uploads under way have taken effect
        raw, mips = await positions(client, RAW), await positions(client, MIPS)
        assert len(raw) == montage.tile_count == 3
        assert raw == mips
        assert max(x for x, _ in raw.values() if x is not None) > 58 * 1.5 ** (contents - 1)
