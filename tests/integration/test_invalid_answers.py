"""Endless, deeply nested, huge and malformed answers of render-ws end in a fault, and cost little."""

import contextlib
import io
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from handlers.errors import Fault, RenderFault, RenderRefused
from handlers.images.render_source import RenderSource
from handlers.images.source import require_served_size
from handlers.render.client import RenderClient
from handlers.render.http.time_limits import TimeLimits
from handlers.render.responses import plain_text
from handlers.render.tiles import references
from tests.integration.standin_control import RAW, client_of
from tests.integration.test_render_client import answering
from tests.loop_watch import watching_the_loop

Question = Callable[[RenderClient], Awaitable[Any]]

QUESTIONS: dict[str, Question] = {
    "version": lambda client: client.ping(),
    "stack": lambda client: client.stack(RAW),
    "z values": lambda client: client.z_values(RAW),
    "section data": lambda client: client.section_data(RAW, 1.0),
    "tile bounds": lambda client: client.tile_bounds(RAW, 1.0),
    "resolved tiles": lambda client: client.resolved_tiles(RAW, 1.0),
    "tile": lambda client: client.tile(RAW, "t"),
    "path builder": lambda client: client.path_builder(RAW),
    "put": lambda client: client.put_tiles(RAW, 1.0, [{"tileId": "t", "z": 1.0}]),
}


def flood(piece: bytes, sent: list[int]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answer every request with the piece again and again, as long as the client reads."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            await response.write(b"[")
            while True:
                await response.write(piece)
                sent.append(len(piece))
        return response

    return answer


VALUES = [b"[],", b"0,"]
TEXT = b'"' + b"x" * 1021 + b'",'
MANY_TILES = ("tile bounds", "resolved tiles", "section data")
"""Questions whose answers are limited to hundreds of MB, which no test sends."""


@pytest.mark.parametrize(
    ("question", "element"),
    [(each, element) for each in QUESTIONS for element in (VALUES if each in MANY_TILES else [*VALUES, TEXT])],
    ids=lambda value: value if isinstance(value, str) else repr(value[:2]),
)
async def test_an_endless_answer_is_cut_off_at_the_limit_of_its_question(question: str, element: bytes) -> None:
    sent: list[int] = []
    piece = element * (65_536 // len(element))
    async with answering(flood(piece, sent)) as url, client_of(url, tries=1, time_limits=TimeLimits()) as client:
        with pytest.raises(RenderRefused, match=r"longer than|more than"):
            await QUESTIONS[question](client)
    limit_mib = {"tile bounds": 16, "resolved tiles": 64, "section data": 16, "z values": 8, "tile": 24}.get(
        question, 2
    )
    assert sum(sent) < (limit_mib + 8) * 2**20  # the buffers of the connection hold some more


SPEC = '{"tileId": "t", "z": 1.0, %s}'
MALFORMED_SPECS = {
    "width beyond a float": SPEC % '"width": 1e999',
    "width Infinity": SPEC % '"width": Infinity',
    "width as text": SPEC % '"width": "wide"',
    "a list as image": SPEC % '"mipmapLevels": {"0": {"imageUrl": ["x"]}}',
    "a number as levels": SPEC % '"mipmapLevels": 5',
    "a number as a level": SPEC % '"mipmapLevels": {"0": 5}',
    "a level without number": SPEC % '"mipmapLevels": {"x": {"imageUrl": "file:/a"}}',
    "a number as channels": SPEC % '"channels": 5',
    "a number as a channel": SPEC % '"channels": [5]',
    "text as intensity": SPEC % '"maxIntensity": "white"',
    "a number as transforms": SPEC % '"transforms": 5',
    "a number as transform list": SPEC % '"transforms": {"type": "list", "specList": 5}',
    "a reference to a number": SPEC % '"transforms": {"type": "ref", "refId": 5}',
    "a number as layout": SPEC % '"layout": 5',
    "a tile id that is a number": '{"tileId": 5}',
    "deep lists": SPEC % ('"x": ' + "[" * 100_000),
    "deep transforms": SPEC % ('"transforms": ' + '{"a":' * 5000 + "{}" + "}" * 5001),
    "a field nested 150 deep": SPEC % ('"x": ' + "[" * 150 + "]" * 150),
    "half a surrogate": SPEC % '"label": "\\ud800"',
    "no object": "5",
}


@pytest.mark.parametrize("spec", MALFORMED_SPECS)
@pytest.mark.parametrize("question", ["resolved tiles", "tile"])
async def test_a_malformed_tile_spec_is_a_fault(spec: str, question: str) -> None:
    body = MALFORMED_SPECS[spec] if question == "tile" else f'{{"tileIdToSpecMap": {{"t": {MALFORMED_SPECS[spec]}}}}}'

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with answering(answer) as url, client_of(url, tries=1) as client:
        with pytest.raises(RenderFault, match="cannot be read"):
            await QUESTIONS[question](client)


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each != "put"])
@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b'{"state": "\xff"}',
        b'["\xff"]',
        b"[" * 50_000,
        b"1e999",
        b"[1e999]",
        b"Infinity",
        b"[null]",
        b'{"a": ',
    ],
    ids=lambda body: repr(body[:12]),
)
async def test_a_body_of_another_form_is_a_fault(question: str, body: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with answering(answer) as url, client_of(url, tries=1) as client:
        with pytest.raises(RenderFault, match="cannot be read"):
            await QUESTIONS[question](client)


@pytest.mark.parametrize(
    "body", [b"<" * 65_536, b"<style" * 10_000, b"<a " * 20_000, b" " * 65_536, b"<title>" * 9_000]
)
async def test_an_error_page_of_any_text_does_not_block_the_event_loop(body: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=500, body=body, content_type="text/html")

    async with answering(answer) as url, client_of(url, tries=1) as client:
        with watching_the_loop() as watch, pytest.raises(RenderFault):
            await client.stack(RAW)
    assert watch.longest_s < 0.2


def test_the_text_of_an_error_page_has_no_markup_and_no_styles() -> None:
    page = b"<html><style>h1 {color: red}</style><body a='1'>no <b>such</b> page &lt;</body></html>"
    assert plain_text(page) == "no such page &lt;"


def test_a_reference_without_an_id_is_none() -> None:
    assert list(references({"type": "ref"})) == []


def png(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def with_stated_size(side: int, picture: bytes) -> bytes:
    """Return the picture with another width and height in its first chunk."""
    chunk = b"IHDR" + side.to_bytes(4) * 2 + picture[24:29]
    return picture[:12] + chunk + zlib.crc32(chunk).to_bytes(4) + picture[33:]


PARAMETERS = b'{"tileSpecs": [{"mipmapLevels": {"0": {"imageUrl": "file:/a.tif"}}}]}'
PICTURE = png("RGBA")


@pytest.mark.parametrize(
    ("parameters", "picture"),
    [
        (b"[" * 50_000, PICTURE),
        (b"\xff", PICTURE),
        (b"5", PICTURE),
        (b'{"tileSpecs": 5}', PICTURE),
        (b'{"tileSpecs": [{"mipmapLevels": 5}]}', PICTURE),
        (b'{"tileSpecs": [{"mipmapLevels": {"x": {}}}]}', PICTURE),
        (b'{"tileSpecs": [{"channels": 5}]}', PICTURE),
        (PARAMETERS, b"GIF89a"),
        (PARAMETERS, PICTURE[:45]),
        (PARAMETERS, PICTURE.replace(b"IDAT", b"JDAT")),
        (PARAMETERS, png("L")),
        (PARAMETERS, with_stated_size(12_000, PICTURE)),
    ],
    ids=lambda answer: repr(answer[:30]),
)
def test_a_malformed_answer_about_the_size_of_an_image_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, parameters: bytes, picture: bytes
) -> None:
    answers = {"GET": PARAMETERS, "PUT": PICTURE}
    monkeypatch.setattr(
        "handlers.images.source._ask", lambda source, method, *rest, **named: io.BytesIO(answers[method])
    )
    stack_url = "http://render:8080/render-ws/v1/owner/em/project/v1/stack/raw"
    source = RenderSource.of_image(stack_url, "t", 255)
    require_served_size(source, 64, 64)
    answers |= {"GET": parameters, "PUT": picture}
    with pytest.raises(Fault):
        require_served_size(source, 64, 64)
