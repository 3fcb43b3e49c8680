"""Answers whose body arrives in several TCP segments, or byte by byte, are read to their end everywhere."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from PIL import Image
from standin_control import MIPS, RAW, RESOLUTION_NM, client_of, lens, standin, tile_spec
from test_render_client import answering

from handlers.errors import Fault, RenderFault, StackNotLoading
from handlers.images.render_source import RenderSource
from handlers.images.source import fetch_level0
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.http.time_limits import TimeLimits
from handlers.render.opening import ensure_loading
from handlers.render.responses import PathBuilder, StackState

Cut = Callable[[bytes], list[bytes]]
NOT_LOADING = "Resolved tiles can only be saved to stacks in the LOADING state, but this stack's state is COMPLETE."


def whole(body: bytes) -> list[bytes]:
    return [body]


def two_segments(body: bytes) -> list[bytes]:
    return [body[: len(body) // 2], body[len(body) // 2 :]]


def byte_by_byte(body: bytes) -> list[bytes]:
    """Split the first bytes one by one, and a long rest into a few pieces."""
    size = max(1, len(body) // 20)
    rest = [body[at : at + size] for at in range(30, len(body), size)]
    return [*(body[at : at + 1] for at in range(min(30, len(body)))), *rest]


def chunked(body: bytes) -> list[bytes]:
    return two_segments(body)


async def send_in_pieces(
    request: web.Request, body: bytes, cut: Cut, status: int = 200, kind: str | None = None
) -> web.StreamResponse:
    """Send the body with a pause between its pieces; a chunked body has no Content-Length."""
    answer = web.StreamResponse(status=status, headers={"Content-Type": kind} if kind else {})
    if cut is not chunked:
        answer.content_length = len(body)
    await answer.prepare(request)
    for piece in cut(body):
        await answer.write(piece)
        await asyncio.sleep(0.002)
    await answer.write_eof()
    return answer


@contextlib.asynccontextmanager
async def in_pieces(upstream: str, cut: Cut) -> AsyncIterator[str]:
    """Run a proxy that splits the body of every answer into pieces; yield its URL."""
    async with aiohttp.ClientSession() as http:

        async def forward(request: web.Request) -> web.StreamResponse:
            where, sent = upstream.partition("/render-ws")[0] + request.raw_path, await request.read()
            kinds = {key: request.headers[key] for key in ("Content-Type",) if key in request.headers}
            async with http.request(request.method, where, data=sent or None, headers=kinds) as got:
                body = await got.read()
                return await send_in_pieces(request, body, cut, got.status, got.headers.get("Content-Type"))

        async with answering(forward) as url:
            yield url


def requests_of(client: RenderClient) -> Iterator[tuple[str, Awaitable[Any]]]:
    """Yield every kind of request that the client sends, successes and refusals, in a valid order."""
    tiles = [tile_spec(f"t{n}", refs=("lens",)) for n in range(3)]
    builder = PathBuilder(root_path="/m", number_of_levels=6, extension="tif")
    yield "ping", client.ping()
    yield "no stack", client.stack(RAW)
    yield "no stack to list", client.tile_bounds(RAW, 1050.0)
    yield "no stack to put into", client.put_tiles(RAW, 1050.0, tiles, {"lens": lens()})
    yield "create", ensure_loading(client, RAW, RESOLUTION_NM)
    yield "resolution", client.set_resolution(RAW, RESOLUTION_NM)
    yield "nothing to close", close_stack(client, RAW)
    yield "no tiles", client.resolved_tiles(RAW, 1050.0)
    yield "no section data", client.section_data(RAW, 1050.0)
    yield "no builder", client.path_builder(RAW)
    yield "put", client.put_tiles(RAW, 1050.0, tiles, {"lens": lens()})
    yield "refused", client.put_tiles(RAW, 1050.0, [tile_spec("a")], derive=False)
    yield "unmeasured", client.put_tiles(RAW, 1050.0, [tile_spec("a", width=None)])
    yield "delete", client.delete_tiles(RAW, 1050.0, ["t2", "absent"])
    yield "read", client.resolved_tiles(RAW, 1050.0)
    yield "tile", client.tile(RAW, "t1")
    yield "no tile", client.tile(RAW, "absent")
    yield "list", client.tile_bounds(RAW, 1050.0)
    yield "z values", client.z_values(RAW)
    yield "set builder", client.put_path_builder(RAW, builder)
    yield "builder", client.path_builder(RAW)
    yield "close", close_stack(client, RAW, [1050.0])
    yield "section data", client.section_data(RAW, 1050.0)
    yield "put when closed", client.put_tiles(RAW, 1050.0, tiles, {"lens": lens()})
    yield "delete when closed", client.delete_tile(RAW, "t1")
    yield "reopen", client.set_state(RAW, StackState.LOADING)


def comparable(outcome: Any, url: str) -> Any:
    """Return an outcome without the values that differ between services: URL, times and statistics."""
    if isinstance(outcome, RenderFault):
        return type(outcome).__name__, str(outcome).replace(url, "URL")
    meta = getattr(outcome, "meta", outcome)
    return meta.state if hasattr(meta, "state") else outcome


async def outcomes_of(url: str, shown_url: str) -> dict[str, Any]:
    async with client_of(url, tries=1, time_limits=TimeLimits()) as client:
        outcomes = {}
        for name, request in requests_of(client):
            try:
                outcome: Any = await request
            except RenderFault as fault:
                outcome = fault
            outcomes[name] = comparable(outcome, shown_url)
        return outcomes


@pytest.mark.parametrize("cut", [two_segments, byte_by_byte, chunked])
async def test_every_request_has_the_same_outcome_as_with_answers_in_one_piece(cut: Cut) -> None:
    async with standin() as service:
        expected = await outcomes_of(service.url, service.url)
    assert expected["put when closed"][0] == "StackNotLoading"
    async with standin() as service, in_pieces(service.url, cut) as url:
        assert await outcomes_of(url, url) == expected


@pytest.mark.parametrize("cut", [two_segments, byte_by_byte, chunked])
async def test_a_closed_stack_is_recognised_however_the_text_is_split(cut: Cut) -> None:
    async def answer_with(request: web.Request) -> web.StreamResponse:
        await request.read()
        return await send_in_pieces(request, NOT_LOADING.encode(), cut, 500, "text/plain")

    async with answering(answer_with) as url, client_of(url, tries=1, time_limits=TimeLimits()) as client:
        with pytest.raises(StackNotLoading, match="this stack's state is COMPLETE"):
            await client.put_tiles(MIPS, 1050.0, [tile_spec("a")])


async def test_an_endless_error_is_read_up_to_a_limit() -> None:
    async def answer_with(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=500, headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b"down " * 1000)
        return answer

    async with answering(answer_with) as url, client_of(url, tries=1, time_limits=TimeLimits()) as client:
        with pytest.raises(RenderFault, match="answered 500: down down"):
            await client.stack(RAW)


@pytest.mark.parametrize("cut", [two_segments, byte_by_byte, chunked])
async def test_raw_images_and_their_refusals_are_read_to_the_end(tmp_path: Path, cut: Cut) -> None:
    image = np.random.default_rng(3).integers(0, 256, (80, 100), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.tif")
    async with standin() as service, in_pieces(service.url, cut) as url, client_of(service.url) as client:
        await ensure_loading(client, RAW, RESOLUTION_NM)
        levels = {"0": {"imageUrl": (tmp_path / "a.tif").as_uri()}}
        await client.put_tiles(RAW, 1050.0, [tile_spec("a", mipmapLevels=levels)])
        source = RenderSource.of_image(url + RAW.path, "a", 255)
        shown = await asyncio.to_thread(fetch_level0, source, 100, 80, (0, 255))
        assert (shown == image).all()
        absent = RenderSource.of_image(url + RAW.path, "absent", 255)
        with pytest.raises(Fault, match="'absent' does not exist"):
            await asyncio.to_thread(fetch_level0, absent, 100, 80, (0, 255))


@pytest.mark.parametrize("cut", [two_segments, byte_by_byte, chunked])
@pytest.mark.parametrize("ready", [True, False])
async def test_the_health_command_reads_its_answer_to_the_end(cut: Cut, ready: bool) -> None:
    reasons = [] if ready else ["render-ws is unavailable: " + "x" * 300]

    async def answer_with(request: web.Request) -> web.StreamResponse:
        body = json.dumps({"alive": True, "ready": ready, "reasons": reasons, "warnings": []}).encode()
        return await send_in_pieces(request, body, cut, 200 if ready else 503, "application/json")

    async with answering(answer_with) as url:
        code, text = await health_of(url.removesuffix("/render-ws/v1"))
    assert (code, text.split()[:1]) == (0, ["ready"]) if ready else (1, ["not"])
    assert all(reason in text for reason in reasons)


async def test_the_health_command_treats_a_truncated_answer_as_no_answer() -> None:
    async def answer_with(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=503, headers={"Content-Type": "application/json", "Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b'{"ready"')
        assert request.transport is not None
        request.transport.abort()
        return answer

    async with answering(answer_with) as url:
        code, text = await health_of(url.removesuffix("/render-ws/v1"))
    assert code == 2
    assert "unreachable" in text
    assert "Traceback" not in text


async def health_of(url: str) -> tuple[int, str]:
    """Exit code and output of `temwatch health`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", "health", "--url", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    text, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, text.decode()
