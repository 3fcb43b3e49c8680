"""Fetching level 0 from render-ws, for tiles whose files only render-ws can read.

docs/decisions/render-method.md describes the requests and their limits. This module runs in worker processes, so its
only HTTP client is http.client, and only jobs that need the module import it.
"""

import http.client
import io
import json
import re
import ssl
import time
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from handlers.errors import (
    AccessRefused,
    AnswerLate,
    AnswerLost,
    Fault,
    ImageFault,
    NotRender,
    RenderBroken,
    RenderRefused,
    RenderUnavailable,
)
from handlers.images.formats.pillow_pixels import UNREADABLE
from handlers.images.pixels import Grey, IntensityRange
from handlers.images.render_source import RenderSource
from handlers.render.blocking import connection_to
from handlers.render.foreign_answers import Service
from handlers.render.http.access import read_login
from handlers.render.http.environment_proxy import environment_proxy
from handlers.render.responses import fault_of, plain_text

SILENCE_S = 120.0
"""Time-out for the start of an answer, and between two pieces of it."""
REQUEST_S = 300.0
"""Time-out for a whole answer."""
MAX_ERROR_BYTES = 64 * 2**10
MAX_PARAMETERS_BYTES = 2**20
PIECE_BYTES = 2**20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRIED = "fetch the raw image"
CANVAS_PX = 8
"""Side of the picture that shows whether render-ws kept a mask."""

BYTES_WINDOW: IntensityRange = (0, 255)
"""Intensity range with which render-ws leaves 8-bit values unchanged."""
ABOVE_BYTES: IntensityRange = (255, 256)
"""Intensity range with which render-ws makes 8-bit values black and all larger values white."""


def fetch_level0(source: RenderSource, width: int, height: int, window: IntensityRange) -> Grey:
    """Return the pixels of level 0, (height, width), uint8.

    An 8-bit image is served unchanged; in a 16-bit image, `window` becomes 0 to 255. The depth of the source is
    compared with the image, which would be white or black with the wrong window.

    Raises
    ------
    RenderFault
        If the request fails.
    ImageFault
        If the image has another size or depth, or colours.
    """
    requested = BYTES_WINDOW if source.bits == 8 else window
    pixels = _fetched(source, width, height, requested)
    if source.bits == 8:
        if pixels.max() == 255 and _exceeds_bytes(source, width, height):
            raise ImageFault(
                source.url,
                "should have no grey value above 255 by the intensity range of its tile spec, has such values",
                "set the maximum intensity of its tile spec to that of its image",
            )
    elif not _surely_exceeds_bytes(pixels, window) and not _exceeds_bytes(source, width, height):
        raise ImageFault(
            source.url,
            "should have grey values above 255 by the intensity range of its tile spec, has none",
            "set the maximum intensity of its tile spec to 255 if it is an 8-bit image",
        )
    return pixels


def require_served_size(source: RenderSource, width: int, height: int) -> None:
    """Raise ImageFault unless the image that render-ws reads has this size.

    A served image always has the size of its tile spec: render-ws crops a file of another size or pads it with black.
    But render-ws drops a mask whose size differs from that of the image. So the image is requested with a mask of the
    expected size that hides everything: the answer is transparent if the sizes are equal, and opaque if not.

    Raises
    ------
    ImageFault
        If the size differs or cannot be determined.
    RenderFault
        If render-ws cannot be reached or has an internal error.

    Source: render `UrlMipmapSource.getChannels`, `DynamicMaskLoader`, `ArgbRenderer.targetToARGBImage`.
    """
    try:
        alpha = _alpha_under_mask(source, width, height)
    except (RenderRefused, NotRender, *UNREADABLE) as problem:
        raise _unknown_size(source, problem.problem if isinstance(problem, Fault) else repr(problem)) from problem
    if not alpha.any():
        return
    if not (alpha == 255).all():
        raise _unknown_size(source, "render-ws answered with a picture that is neither transparent nor opaque")
    raise ImageFault(
        source.url,
        f"is not {width}x{height} pixels, the size in its tile spec: render-ws would crop it or pad it with black",
        "correct the image or its tile spec",
    )


def _alpha_under_mask(source: RenderSource, width: int, height: int) -> Grey:
    """Return the alpha channel of a small picture of the image under a mask of this size that hides everything."""
    kind = source.url.removesuffix("/png-image")
    parameters = json.loads(_ask(source, "GET", f"{kind}/scale/1.0/render-parameters", MAX_PARAMETERS_BYTES).getvalue())
    spec = parameters["tileSpecs"][0]
    levels = spec["channels"][0]["mipmapLevels"] if spec.get("channels") else spec["mipmapLevels"]
    mask_url = f"mask://outside-box?minX=0&minY=0&maxX=0&maxY=0&width={width}&height={height}"
    levels[min(levels, key=int)] |= {"maskUrl": mask_url, "maskLoaderType": "DYNAMIC_MASK"}
    document: dict[str, Any] = {**parameters, "x": 0.0, "y": 0.0, "width": CANVAS_PX, "height": CANVAS_PX}
    owner = re.match("(.*/owner/[^/]+)/project/", source.url)
    assert owner is not None
    content = _ask(source, "PUT", f"{owner[1]}/png-image", MAX_PARAMETERS_BYTES, json.dumps(document).encode())
    image = _png(source, content)
    if image.size != (CANVAS_PX, CANVAS_PX):  # checked before decoding: few bytes can encode a huge picture
        raise ValueError(f"expected {CANVAS_PX}x{CANVAS_PX} pixels, found {image.width}x{image.height}")
    try:
        return np.asarray(image.getchannel("A"))
    except OSError as error:
        raise _no_png(source, error) from None


def _unknown_size(source: RenderSource, problem: str) -> ImageFault:
    return ImageFault(
        source.url,
        f"may be cropped or padded: its size is unknown, since the file cannot be read here and {problem}",
        "give the workers access to the file, or use another mipmaps.method",
    )


def _surely_exceeds_bytes(pixels: Grey, window: IntensityRange) -> bool:
    """Whether the pixels prove, through the window, a value above 255."""
    low, high = window
    return bool(pixels.max() > max(0, 255 - low) * 255 / (high - low) + 1)


def _exceeds_bytes(source: RenderSource, width: int, height: int) -> bool:
    return bool(_fetched(source, width, height, ABOVE_BYTES).any())


def _fetched(source: RenderSource, width: int, height: int, window: IntensityRange) -> Grey:
    # Four bytes per pixel and a little more: PNG enlarges incompressible data by a thousandth.
    max_bytes = 5 * width * height + 2**20
    low, high = window
    url = f"{source.url}?scale=1.0&minIntensity={low}&maxIntensity={high}"
    image = _png(source, _ask(source, "GET", url, max_bytes, begins=_SIGNATURE))
    try:
        return _grey(image, source.url, width, height)
    except (*UNREADABLE, OSError) as error:
        raise _no_png(source, error) from None


def _png(source: RenderSource, content: io.BytesIO) -> PngImagePlugin.PngImageFile:
    try:
        return PngImagePlugin.PngImageFile(content)
    except (*UNREADABLE, OSError) as error:
        raise _no_png(source, error) from None


def _no_png(source: RenderSource, error: Exception) -> RenderBroken:
    return RenderBroken(source.url, f"is not the PNG that was requested: {error}", "check which server answers there")


def _grey(image: Image.Image, subject: str, width: int, height: int) -> Grey:
    """Return the grey values of a picture of render-ws, whose colour channels must be equal."""
    if image.size != (width, height):
        problem = f"should have {width}x{height} pixels, has {image.width}x{image.height}"
        raise ImageFault(subject, problem, "correct the image or its tile spec")
    image.im = Image.new(image.mode, image.size, None).im  # Pillow would refuse large frames
    image.load()
    if image.mode == "L":
        return np.asarray(image)
    if image.mode not in ("RGB", "RGBA"):
        raise ImageFault(
            subject, f"should come in 8-bit channels, comes as {image.mode}", "check which server answers there"
        )
    red, green, blue = (np.asarray(image.getchannel(channel)) for channel in range(3))
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise ImageFault(subject, "should be grey, holds colours", "save it as grey")
    return red


def _ask(
    source: RenderSource, method: str, url: str, max_bytes: int, body: bytes | None = None, *, begins: bytes = b""
) -> io.BytesIO:
    """Return the body of the answer; only its first piece if it does not begin with `begins`. Follows no redirects."""
    subject, login = source.url, read_login(source.access, source.authorization)
    proxy = environment_proxy(url) if source.access.use_environment_proxy else None
    connection, target, headers = connection_to(url, login, proxy, SILENCE_S)
    headers |= {} if body is None else {"Content-Type": "application/json"}
    deadline = time.monotonic() + REQUEST_S
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            kind_of_text = response.headers.get_content_type()
            text = plain_text(_read_up_to(response, subject, MAX_ERROR_BYTES, deadline).getvalue())
            location = response.headers.get("Location", "")
            raise fault_of(subject, TRIED, response.status, kind_of_text, text, _service(source), location)
        return _body(response, subject, max_bytes, deadline, begins)
    except TimeoutError as error:
        raise _late(subject, f"sent nothing for {SILENCE_S:g} s") from error
    except http.client.HTTPException as error:
        raise AnswerLost(subject, f"broke off its answer: {error!r}", "check that render-ws runs") from error
    except ssl.SSLCertVerificationError as error:
        problem = f"tried to {TRIED}, and the server's certificate does not verify: {error.verify_message}"
        raise AccessRefused(subject, problem, f"check {source.access.key('ca_file')}") from error
    except OSError as error:
        raise RenderUnavailable(subject, f"cannot be reached: {error}", "check that render-ws runs") from error
    finally:
        connection.close()


def _service(source: RenderSource) -> Service:
    access = source.access
    login = access.login or (f"the user in {access.key('url')}" if source.authorization else "")
    return Service(url=source.url, section=access.section, login=login)


def _body(
    response: http.client.HTTPResponse, subject: str, max_bytes: int, deadline: float, begins: bytes
) -> io.BytesIO:
    body = _read_up_to(response, subject, max_bytes, deadline, begins)
    if body.getbuffer()[: len(begins)] != begins:
        return body
    if body.getbuffer().nbytes > max_bytes:
        raise RenderBroken(
            subject, f"should answer with at most {max_bytes} bytes, sends more", "check which server answers there"
        )
    if response.length:  # http.client does not report it
        raise http.client.IncompleteRead(b"", response.length)
    return body


def _read_up_to(
    response: http.client.HTTPResponse, subject: str, max_bytes: int, deadline: float, begins: bytes = b""
) -> io.BytesIO:
    """Return the body. Reading stops a little after `max_bytes`, and if the body does not begin with `begins`.

    The buffer is the only copy, except while it grows: the answer for 16384 x 16384 pixels may have 1.3 GB.

    `read1` returns the bytes that have arrived; `read` would wait for a whole piece, for ever if bytes come slowly.
    """
    body = io.BytesIO()
    while body.tell() <= max_bytes and (piece := response.read1(PIECE_BYTES)):
        body.write(piece)
        if body.tell() >= len(begins) and body.getbuffer()[: len(begins)] != begins:
            break
        if time.monotonic() > deadline:
            raise _late(subject, f"did not complete its answer within {REQUEST_S:g} s")
    body.seek(0)
    return body


def _late(subject: str, problem: str) -> Fault:
    return AnswerLate(subject, problem, "check the load of render-ws")
