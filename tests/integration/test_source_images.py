"""Method "render": level 0 from a stand-in render-ws, and the faults of jobs."""

import asyncio
import base64
import contextlib
import io
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from handlers.errors import (
    AnswerLate,
    Fault,
    ImageFault,
    LoginRefused,
    NotRender,
    RenderBroken,
    RenderRefused,
    RenderUnavailable,
    Waiting,
)
from handlers.images import source
from handlers.images.decode import verify_level
from handlers.images.encode import PLAIN_TIFF
from handlers.images.reduction import MEAN, Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import MipmapPlan, level0_of
from handlers.mipmaps.report import MipmapReport
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.path_map import NO_MAP
from handlers.render.names import checked_base_url
from handlers.render.opening import ensure_loading
from tests.integration.standin_control import RAW, Standin, client_of, standin, tile_spec

WIDTH, HEIGHT = 101, 77
RENDER = Reduction("render")


@pytest.fixture
async def service() -> AsyncIterator[Standin]:
    async with standin() as running, client_of(running.url) as client:
        await ensure_loading(client, RAW, (4.0, 4.0, 45.0))
        yield running


def texture(depth: Any, least: int = 0) -> Any:
    """Return noise up to the largest value."""
    white = np.iinfo(depth).max
    return np.random.default_rng(5).integers(least, white, (HEIGHT, WIDTH), depth, endpoint=True)


async def put_tile(service: Standin, image: Path, mask: Path | None = None, maximum: int = 255) -> dict[str, Any]:
    entry = {"imageUrl": image.as_uri()} | ({"maskUrl": mask.as_uri()} if mask else {})
    spec = tile_spec("a b.1050.0", width=WIDTH, height=HEIGHT, maxIntensity=maximum, mipmapLevels={"0": entry})
    async with client_of(service.url) as client:
        await client.put_tiles(RAW, 1050.0, [spec])
    return spec


def plan_for(service: Standin, output_dir: Path, **changes: Any) -> MipmapPlan:
    plan = MipmapPlan(output_dir, levels=3, reduction=RENDER)
    return replace(plan.served_by(checked_base_url(service.url), RAW), **changes)


async def run(job: MipmapJob) -> MipmapReport:
    """Run the job in a thread, since the stand-in answers in the event loop."""
    return await asyncio.to_thread(make_mipmaps, job)


async def fault_of(job: MipmapJob) -> Fault:
    report = await run(job)
    assert report.fault is not None
    assert not report.made
    return report.fault.to_fault()


def save(path: Path, pixels: Any) -> Path:
    Image.fromarray(pixels).save(path)
    return path


async def test_8_bit_levels_are_the_same_as_those_made_from_the_file(service: Standin, tmp_path: Path) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    plan = plan_for(service, tmp_path / "served")
    served = await run(tile_job(level0_of(spec, NO_MAP), plan))
    assert served.fault is None
    own = await run(tile_job(level0_of(spec, NO_MAP), MipmapPlan(tmp_path / "own", levels=3, reduction=MEAN)))
    for one, other in zip(served.made, own.made, strict=True):
        sizes = one.width, one.height, one.mode
        np.testing.assert_array_equal(verify_level(one.path, *sizes), verify_level(other.path, *sizes))
    assert served.level0 == own.level0


async def test_the_file_is_not_read_if_render_ws_serves_it(service: Standin, tmp_path: Path) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    job = tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "mipmaps"))
    assert (await run(replace(job, level0=Path("/not/on/this/machine/a.tif")))).fault is None


async def test_16_bit_images_are_requested_with_the_configured_window(service: Standin, tmp_path: Path) -> None:
    pixels = texture(np.uint16, least=1000)
    spec = await put_tile(service, save(tmp_path / "a.tif", pixels), maximum=65535)
    report = await run(
        tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "mipmaps", range_16bit=(1000, 50000)))
    )
    assert report.fault is None
    assert report.level0_bits == 16
    level1 = verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L")
    scaled = np.clip((pixels[:76, :100].astype(float) - 1000) * 255 / 49000, 0, 255)
    exact = scaled.reshape(38, 2, 50, 2).mean(axis=(1, 3))
    # render-ws rounds to bytes before the mean, and the mean is rounded again.
    assert np.abs(level1 - exact).max() < 1.5


async def test_a_worker_logs_in_with_user_and_password_of_the_url(service: Standin, tmp_path: Path) -> None:
    async def forbid(request: web.Request) -> web.StreamResponse:
        given.append(request.headers.get("Authorization"))
        return web.Response(status=403, text="not you")

    given: list[str | None] = []
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    guard = web.Application()
    guard.router.add_get("/{path:.*}", forbid)
    async with TestServer(guard) as server:
        guarded = checked_base_url(f"http://em:pw4711@127.0.0.1:{server.port}/render-ws/v1")
        plan = MipmapPlan(tmp_path / "m", levels=3, reduction=RENDER).served_by(guarded, RAW)
        job = tile_job(level0_of(spec, NO_MAP), plan)
        fault = await fault_of(job)
    assert isinstance(fault, LoginRefused)
    assert given == ["Basic " + base64.b64encode(b"em:pw4711").decode()]
    shown = repr((plan, job, fault))
    assert "pw4711" not in shown
    assert given[0] not in shown


async def test_16_bit_images_without_conversion_are_refused_before_any_request(
    service: Standin, tmp_path: Path
) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint16)), maximum=65535)
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m", convert_to_8bit=False)))
    assert "serves 8 of the 16 bits" in str(fault)
    assert not await service.requests("GET", "png-image")


async def test_a_16_bit_image_with_an_8_bit_tile_spec_is_refused(service: Standin, tmp_path: Path) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint16)))
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m")))
    assert isinstance(fault, ImageFault)
    assert "above 255" in str(fault)


async def test_an_8_bit_image_with_a_16_bit_tile_spec_is_refused(service: Standin, tmp_path: Path) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)), maximum=65535)
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m")))
    assert isinstance(fault, ImageFault)
    assert "should have grey values above 255" in str(fault)


async def test_an_8_bit_image_without_white_is_requested_once(service: Standin, tmp_path: Path) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 254, np.uint8)))
    assert (await run(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m")))).fault is None
    assert len(await service.requests("GET", "png-image")) == 1


async def test_masks_from_render_ws_stay_binary(service: Standin, tmp_path: Path) -> None:
    mask = np.where(texture(np.uint8) < 250, 255, 0).astype(np.uint8)
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)), save(tmp_path / "m.png", mask))
    report = await run(mask_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "mipmaps")))
    assert report.fault is None
    level1 = verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L")
    np.testing.assert_array_equal(level1, mask[:76, :100].reshape(38, 2, 50, 2).min(axis=(1, 3)))


async def test_a_tile_of_another_size_than_its_spec_is_refused(service: Standin, tmp_path: Path) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    tile = replace(level0_of(spec, NO_MAP), width=WIDTH + 1)
    assert "should have 102x77 pixels, has 101x77" in str(
        await fault_of(tile_job(tile, plan_for(service, tmp_path / "m")))
    )


SHAPES = [(HEIGHT, WIDTH - 22), (HEIGHT, WIDTH + 22), (HEIGHT - 1, WIDTH), (HEIGHT + 1, WIDTH), (WIDTH, HEIGHT)]


def other_image(path: Path, shape: tuple[int, int]) -> Path:
    return save(path, np.random.default_rng(5).integers(0, 255, shape, np.uint8))


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_file_of_another_size_than_its_tile_spec_is_refused(
    service: Standin, tmp_path: Path, shape: tuple[int, int]
) -> None:
    spec = await put_tile(service, other_image(tmp_path / "a.tif", shape))
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m")))
    assert isinstance(fault, ImageFault)
    assert f"should have {WIDTH}x{HEIGHT} pixels, has {shape[1]}x{shape[0]}" in str(fault)


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_image_of_another_size_that_only_render_ws_can_read_is_refused(
    service: Standin, tmp_path: Path, shape: tuple[int, int]
) -> None:
    spec = await put_tile(service, other_image(tmp_path / "a.tif", shape))
    job = tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m"))
    fault = await fault_of(replace(job, level0=Path("/not/on/this/machine/a.tif")))
    assert isinstance(fault, ImageFault)
    assert f"is not {WIDTH}x{HEIGHT} pixels" in str(fault)


@pytest.mark.parametrize("shape", [(HEIGHT + 1, WIDTH), (HEIGHT - 1, WIDTH)])
async def test_a_mask_of_another_size_is_refused(service: Standin, tmp_path: Path, shape: tuple[int, int]) -> None:
    image = save(tmp_path / "a.tif", texture(np.uint8))
    spec = await put_tile(service, image, save(tmp_path / "m.png", np.full(shape, 255, np.uint8)))
    job = mask_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "mipmaps"))
    for path in (job.level0, Path("/not/on/this/machine/m.png")):
        assert f"{WIDTH}x{HEIGHT}" in str(await fault_of(replace(job, level0=path)))


@pytest.mark.parametrize(("match", "status"), [("GET .*render-parameters", 404), ("PUT .*png-image", 405)])
async def test_an_image_whose_size_render_ws_does_not_show_is_refused(
    service: Standin, tmp_path: Path, match: str, status: int
) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    job = tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m"))
    await service.set_fault(match, "status", status=status)
    assert (await run(job)).fault is None  # the file itself shows its size
    fault = await fault_of(replace(job, level0=Path("/not/on/this/machine/a.tif"), force=True))
    assert isinstance(fault, ImageFault)
    assert "its size is unknown" in str(fault)
    assert fault.waiting_helps is Waiting.NEVER


async def test_a_tile_that_is_not_in_the_stack_is_refused(service: Standin, tmp_path: Path) -> None:
    tile = level0_of(await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8))), NO_MAP)
    fault = await fault_of(tile_job(replace(tile, tile_id="other"), plan_for(service, tmp_path / "m")))
    assert isinstance(fault, RenderRefused)
    assert fault.waiting_helps is Waiting.NEVER


async def test_an_image_that_render_ws_cannot_find_is_reported_with_its_message(
    service: Standin, tmp_path: Path
) -> None:
    tile = level0_of(await put_tile(service, tmp_path / "gone.tif"), NO_MAP)
    fault = await fault_of(tile_job(tile, plan_for(service, tmp_path / "m")))
    assert "cannot find imageUrl file" in str(fault)


async def test_an_unreachable_service_is_retried(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/render-ws/v1"
    plan = MipmapPlan(tmp_path, levels=1, reduction=RENDER).served_by(checked_base_url(base_url), RAW)
    spec = tile_spec("a", width=WIDTH, height=HEIGHT)
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan))
    assert isinstance(fault, RenderUnavailable)
    assert fault.waiting_helps is Waiting.ALWAYS


@pytest.mark.parametrize("kind", ["refuse", "lost", "cut"])
async def test_a_broken_answer_is_retried(service: Standin, tmp_path: Path, kind: str) -> None:
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    await service.set_fault("png-image", kind)
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m")))
    assert isinstance(fault, RenderUnavailable)


async def test_a_hanging_service_times_out_and_is_retried(
    service: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SILENCE_S", 0.2)
    spec = await put_tile(service, save(tmp_path / "a.tif", texture(np.uint8)))
    await service.set_fault("png-image", "stall", seconds=2.0)
    fault = await fault_of(tile_job(level0_of(spec, NO_MAP), plan_for(service, tmp_path / "m")))
    assert isinstance(fault, AnswerLate)
    assert "sent nothing for 0.2 s" in str(fault)


async def test_an_image_that_arrives_too_slowly_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "REQUEST_S", 0.3)
    hung_up = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n\x89PNG\r\n\x1a\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        hung_up.set()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/render-ws/v1"
        plan = MipmapPlan(tmp_path / "m", levels=1, reduction=RENDER).served_by(checked_base_url(base_url), RAW)
        fault = await fault_of(tile_job(level0_of(tile_spec("a", width=WIDTH, height=HEIGHT), NO_MAP), plan))
        await hung_up.wait()
    assert isinstance(fault, AnswerLate)
    assert "did not complete its answer within 0.3 s" in str(fault)


class FixedAnswer:
    """A server that answers every request with one body."""

    def __init__(self, body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: image/png") -> None:
        self._answer = head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answer)
        writer.close()


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("answer", "kind", "problem"),
    [
        (FixedAnswer(b"<html>welcome</html>"), RenderBroken, "not the PNG"),
        (FixedAnswer(b""), RenderBroken, "not the PNG"),
        (FixedAnswer(png(Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)))), ImageFault, "colours"),
        (FixedAnswer(png(Image.new("P", (WIDTH, HEIGHT)))), ImageFault, "comes as P"),
        (FixedAnswer(png(Image.new("L", (3000, 2000)))), ImageFault, "3000x2000"),
        (FixedAnswer(b"\x89PNG\r\n\x1a\n" + bytes(6 * WIDTH * HEIGHT + 2**21)), RenderBroken, "at most 1087461 bytes"),
        (FixedAnswer(os.urandom(6 * WIDTH * HEIGHT + 2**21)), RenderBroken, "not the PNG"),
        (FixedAnswer(png(Image.new("L", (WIDTH, HEIGHT), 9))[:-60]), RenderBroken, "not the PNG"),
        (
            FixedAnswer(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere"),
            NotRender,
            "redirects to http://127.0.0.1:1/elsewhere (302)",
        ),
    ],
)
async def test_an_answer_that_is_not_a_picture_of_the_tile_is_refused_and_leaves_no_level(
    tmp_path: Path, answer: FixedAnswer, kind: type[Fault], problem: str
) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/render-ws/v1"
        plan = MipmapPlan(tmp_path / "m", levels=1, reduction=RENDER, encoding=PLAIN_TIFF).served_by(
            checked_base_url(base_url), RAW
        )
        fault = await fault_of(tile_job(level0_of(tile_spec("a", width=WIDTH, height=HEIGHT), NO_MAP), plan))
    assert type(fault) is kind
    assert problem in str(fault)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_other_methods_send_no_requests(tmp_path: Path) -> None:
    plan = MipmapPlan(tmp_path).served_by(checked_base_url("http://render:8080/render-ws/v1"), RAW)
    assert tile_job(level0_of(tile_spec("a"), NO_MAP), plan).source is None
