"""Level 0 as render-ws serves it, for tiles whose files only render-ws can reach.

docs/decisions/render-method.md says what is asked for, and what cannot be had. Runs in worker processes, and so knows
http.client alone of the web; it is imported where a job needs it.
"""

import http.client
import io
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, PngImagePlugin

from handlers.errors import (
    AnswerLate,
    AnswerLost,
    Fault,
    ImageFault,
    NotRender,
    RenderBroken,
    RenderRefused,
    RenderUnavailable,
)
from handlers.images.header import UNREADABLE
from handlers.images.pixels import Grey, IntensityRange
from handlers.render.names import tile_segment
from handlers.render.responses import fault_of, plain_text

SILENCE_S = 120.0
"""Until render-ws begins to answer, and between two pieces of the answer."""
REQUEST_S = 300.0
"""For a whole answer."""
MOST_ERROR_BYTES = 64 * 2**10
MOST_PARAMETERS_BYTES = 2**20
PIECE_BYTES = 2**20
CANVAS_PX = 8
"""Side of the picture that shows whether a mask was kept."""

BYTES_WINDOW: IntensityRange = (0, 255)
"""Shows 8-bit values as they are."""
ABOVE_BYTES: IntensityRange = (255, 256)
"""Shows 8-bit values black, and all above white."""


@dataclass(frozen=True, slots=True)
class RenderSource:
    """Where render-ws serves a tile's raw image or mask.

    Parameters
    ----------
    url : of the PNG, without a query.
    bits : of level 0, 8 or 16. render-ws does not tell: it serves 8 always.
    authorization : value of the header of this name, where there is one to send.
    """

    url: str
    bits: int = 8
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of_image(cls, stack_url: str, tile_id: str, maximum_intensity: float) -> Self:
        """The raw image of a tile, of 16 bits if its tile spec's maximum intensity exceeds 255: so render decides, too.

        Parameters
        ----------
        stack_url : as in `http://render:8080/render-ws/v1/owner/em/project/v1/stack/raw`.

        Raises RenderRefused for a tile id that no URL can carry.
        """
        return cls(f"{stack_url}/tile/{tile_segment(tile_id)}/source/png-image", 16 if maximum_intensity > 255 else 8)

    @classmethod
    def of_mask(cls, stack_url: str, tile_id: str) -> Self:
        """The mask of a tile. Raises as `of_image` does."""
        return cls(f"{stack_url}/tile/{tile_segment(tile_id)}/mask/png-image")


def fetch_level0(source: RenderSource, width: int, height: int, window: IntensityRange) -> Grey:
    """The pixels of level 0, (height, width), uint8.

    8-bit images come as they are, 16-bit ones with `window` become 0 to 255. Whether the image has the bits that the
    source says is held against the image: the wrong window would make it white, or black.

    Raises
    ------
    RenderFault
        What became of the request.
    ImageFault
        If the image has another size or depth, or colours.
    """
    asked = BYTES_WINDOW if source.bits == 8 else window
    pixels = _fetched(source, width, height, asked)
    if source.bits == 8:
        if pixels.max() == 255 and _exceeds_bytes(source, width, height):
            raise ImageFault(
                source.url,
                "has grey values above 255, though the intensity range of its tile spec ends there",
                "give its tile spec the maximum intensity of its image",
            )
    elif not _surely_exceeds_bytes(pixels, window) and not _exceeds_bytes(source, width, height):
        raise ImageFault(
            source.url,
            "has no grey value above 255, though the intensity range of its tile spec goes further",
            "if it is an 8-bit image, give its tile spec a maximum intensity of 255",
        )
    return pixels


def require_served_size(source: RenderSource, width: int, height: int) -> None:
    """Return if render-ws shows that the image it serves has this size.

    The canvas of a served image is that of the tile spec: a file of another size is cropped or padded with black. But
    render-ws drops a mask whose size is not that of its image. So the image is asked for with a mask of the size that
    is expected, which hides everything: it comes transparent if the sizes are equal, and opaque if not.

    Raises
    ------
    ImageFault
        If the size is another one, or does not show.
    RenderFault
        If render-ws is away or fails inside.

    Source: render `UrlMipmapSource.getChannels`, `DynamicMaskLoader`, `ArgbRenderer.targetToARGBImage`.
    """
    try:
        alpha = _alpha_under_mask(source, width, height)
    except (RenderRefused, NotRender, LookupError, TypeError, ValueError, AttributeError) as problem:
        raise _unknown_size(source, problem.problem if isinstance(problem, Fault) else repr(problem)) from problem
    if not alpha.any():
        return
    if not (alpha == 255).all():
        raise _unknown_size(source, "a picture came that is neither transparent nor opaque")
    raise ImageFault(
        source.url,
        f"is not {width}x{height} pixels, as its tile spec says: render-ws would crop it, or pad it with black",
        "see which of the two is right",
    )


def _alpha_under_mask(source: RenderSource, width: int, height: int) -> Grey:
    """Alpha of a small picture of the image under a mask of this size that hides everything."""
    kind = source.url.removesuffix("/png-image")
    parameters = json.loads(_ask(source, "GET", f"{kind}/scale/1.0/render-parameters", MOST_PARAMETERS_BYTES))
    spec = parameters["tileSpecs"][0]
    levels = spec["channels"][0]["mipmapLevels"] if spec.get("channels") else spec["mipmapLevels"]
    mask_url = f"mask://outside-box?minX=0&minY=0&maxX=0&maxY=0&width={width}&height={height}"
    levels[min(levels, key=int)] |= {"maskUrl": mask_url, "maskLoaderType": "DYNAMIC_MASK"}
    document: dict[str, Any] = {**parameters, "x": 0.0, "y": 0.0, "width": CANVAS_PX, "height": CANVAS_PX}
    owner = re.match("(.*/owner/[^/]+)/project/", source.url)
    assert owner is not None
    content = _ask(source, "PUT", f"{owner[1]}/png-image", MOST_PARAMETERS_BYTES, json.dumps(document).encode())
    image = _png(source, content)
    image.load()
    return np.asarray(image.getchannel("A"))


def _unknown_size(source: RenderSource, problem: str) -> ImageFault:
    return ImageFault(
        source.url,
        f"may be cropped or padded: its size cannot be found out, since the file cannot be read here and {problem}",
        "let the workers read the file, or use another mipmaps.method",
    )


def _surely_exceeds_bytes(pixels: Grey, window: IntensityRange) -> bool:
    """Whether a value above 255 is needed for what the window shows."""
    low, high = window
    return bool(pixels.max() > max(0, 255 - low) * 255 / (high - low) + 1)


def _exceeds_bytes(source: RenderSource, width: int, height: int) -> bool:
    return bool(_fetched(source, width, height, ABOVE_BYTES).any())


def _fetched(source: RenderSource, width: int, height: int, window: IntensityRange) -> Grey:
    # Beside four bytes for each pixel there is little: PNG grows what it cannot compress by a thousandth.
    most_bytes = 5 * width * height + 2**20
    low, high = window
    url = f"{source.url}?scale=1.0&minIntensity={low}&maxIntensity={high}"
    image = _png(source, _ask(source, "GET", url, most_bytes))
    try:
        return _grey(image, source.url, width, height)
    except (*UNREADABLE, OSError) as error:
        raise _no_png(source, error) from None


def _png(source: RenderSource, content: bytes) -> PngImagePlugin.PngImageFile:
    try:
        return PngImagePlugin.PngImageFile(io.BytesIO(content))
    except (*UNREADABLE, OSError) as error:
        raise _no_png(source, error) from None


def _no_png(source: RenderSource, error: Exception) -> RenderBroken:
    return RenderBroken(source.url, f"is not the PNG that was asked for: {error}", "see what answers there")


def _grey(image: Image.Image, subject: str, width: int, height: int) -> Grey:
    """One of its equal channels; the rest is how render-ws paints."""
    if image.size != (width, height):
        raise ImageFault(
            subject, f"is {image.width}x{image.height} pixels, not {width}x{height}", "see which of the two is right"
        )
    image.im = Image.new(image.mode, image.size, None).im  # so that Pillow holds no size against a large camera
    image.load()
    if image.mode == "L":
        return np.asarray(image)
    if image.mode not in ("RGB", "RGBA"):
        raise ImageFault(subject, f"comes as {image.mode}, not in 8-bit channels", "see what answers there")
    red, green, blue = (np.asarray(image.getchannel(channel)) for channel in range(3))
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise ImageFault(subject, "holds colours, not grey values", "save it as grey")
    return red


def _ask(source: RenderSource, method: str, url: str, most_bytes: int, body: bytes | None = None) -> bytes:
    """The body of the answer. Follows nothing to another place."""
    subject = source.url
    headers = {} if body is None else {"Content-Type": "application/json"}
    headers |= {"Authorization": source.authorization} if source.authorization else {}
    parts = urlsplit(url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=SILENCE_S)
    deadline = time.monotonic() + REQUEST_S
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            kind_of_text = response.headers.get_content_type()
            text = plain_text(_read_up_to(response, subject, MOST_ERROR_BYTES, deadline))
            raise fault_of(subject, "fetch the raw image", response.status, kind_of_text, text)
        return _body(response, subject, most_bytes, deadline)
    except TimeoutError as error:
        raise _late(subject, f"was silent for {SILENCE_S:g} s") from error
    except http.client.HTTPException as error:
        raise AnswerLost(subject, f"broke off its answer: {error!r}", "see that render-ws runs") from error
    except OSError as error:
        raise RenderUnavailable(subject, f"cannot be reached: {error}", "see that render-ws runs") from error
    finally:
        connection.close()


def _body(response: http.client.HTTPResponse, subject: str, most_bytes: int, deadline: float) -> bytes:
    body = _read_up_to(response, subject, most_bytes, deadline)
    if len(body) > most_bytes:
        raise RenderBroken(subject, f"answers with more than {most_bytes} bytes", "see what answers there")
    if response.length:  # http.client itself says nothing
        raise http.client.IncompleteRead(b"", response.length)
    return body


def _read_up_to(response: http.client.HTTPResponse, subject: str, most_bytes: int, deadline: float) -> bytes:
    """Return the body; of a longer one a little more than `most_bytes`.

    `read1` returns what has come: `read` waits for a whole piece, for ever where bytes come one by one.
    """
    body = bytearray()
    while len(body) <= most_bytes and (piece := response.read1(PIECE_BYTES)):
        body += piece
        if time.monotonic() > deadline:
            raise _late(subject, f"gave no whole answer within {REQUEST_S:g} s")
    return bytes(body)


def _late(subject: str, problem: str) -> Fault:
    return AnswerLate(subject, problem, "see that render-ws is not overloaded")
