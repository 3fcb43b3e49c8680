"""Uploads in parts, and the limits that are learned from the refusals and time-outs of a proxy."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import ProxyTimedOut, RenderRefused, UploadTooLarge
from handlers.render.tiles import MAX_BYTES, MAX_TILES
from handlers.render.uploading import MIN_TILES, UploadLimit, put_in_parts


class Proxy:
    """A proxy that refuses bodies above a limit, and keeps the tile ids of the others."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.refused = 0
        self.tiles: list[str] = []

    async def send(self, body: bytes) -> None:
        if len(body) > self.max_bytes:
            self.refused += 1
            assert self.refused < 50, "the same body is sent again and again"
            raise UploadTooLarge("em/v1/raw z 1.0", "the proxy refuses its size (413)", "raise it")
        self.tiles += json.loads(body)["tileIdToSpecMap"]


def tiles(sizes: list[int]) -> list[dict[str, Any]]:
    return [{"tileId": f"t{number}", "z": 1.0, "padding": "x" * size} for number, size in enumerate(sizes)]


async def put(proxy: Proxy, specs: list[dict[str, Any]], limit: UploadLimit) -> int:
    return await put_in_parts(proxy.send, "em/v1/raw z 1.0", 1.0, specs, {}, MAX_TILES, MAX_BYTES, limit)


@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=60), allowed=st.integers(600, 20_000))
async def test_every_tile_is_put_once_with_any_size_limit_of_a_proxy(sizes: list[int], allowed: int) -> None:
    proxy, limit = Proxy(allowed), UploadLimit()
    await put(proxy, tiles(sizes), limit)
    assert proxy.tiles == [f"t{number}" for number in range(len(sizes))]
    assert bool(limit.learned) == bool(proxy.refused)
    refused = proxy.refused
    await put(proxy, tiles(sizes), limit)
    assert proxy.refused <= refused + 1


async def test_a_single_tile_that_is_too_large_is_refused_after_the_tiles_before_it() -> None:
    proxy = Proxy(1000)
    with pytest.raises(
        RenderRefused, match=r"although it holds one tile: 2\.\d+ kB with its shared transforms .raise it"
    ):
        await put(proxy, tiles([10, 10, 2000, 10]), UploadLimit())
    assert proxy.tiles == ["t0", "t1"]


async def test_a_limit_that_is_learned_applies_to_an_upload_in_progress() -> None:
    limit, lengths = UploadLimit(), list[int]()

    async def send(body: bytes) -> None:
        lengths.append(len(body))
        limit.after_too_large(2_000)

    await put_in_parts(send, "s", 1.0, tiles([100] * 40), {}, 10, MAX_BYTES, limit)
    assert lengths[0] > 1_100
    assert max(lengths[1:]) <= 1_100


async def test_a_time_out_of_a_proxy_halves_the_tiles_of_an_upload_down_to_a_minimum() -> None:
    limit = UploadLimit()

    async def late(body: bytes) -> None:
        raise ProxyTimedOut("s", "504")

    for expected in (1000, 500, 500):
        with pytest.raises(ProxyTimedOut):
            await put_in_parts(late, "s", 1.0, tiles([1] * 2000), {}, MAX_TILES, MAX_BYTES, limit)
        assert limit.max_tiles == expected
    assert limit.learned == f"{MIN_TILES} tiles"
