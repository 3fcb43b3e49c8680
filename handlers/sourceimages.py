"""Level 0 as render-ws serves it, for tiles whose files only render-ws can reach.

docs/decisions/render-method.md says what is asked for, and what cannot be had. Runs in worker processes, and so knows
http.client alone of the web; it is imported where a job needs it.
"""

import http.client
import io
import time
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, PngImagePlugin

from handlers.errors import AnswerLate, AnswerLost, Fault, ImageFault, RenderBroken, RenderUnavailable
from handlers.greyvalues import Grey, IntensityRange
from handlers.imageheader import UNREADABLE
from handlers.renderanswers import fault_of, plain_text
from handlers.rendernames import tile_segment

SILENCE_S = 120.0
"""Until render-ws begins to answer, and between two pieces of the answer."""
REQUEST_S = 300.0
"""For a whole answer."""
MOST_ERROR_BYTES = 64 * 2**10
PIECE_BYTES = 2**20

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
    content = _get(source, f"?scale=1.0&minIntensity={low}&maxIntensity={high}", most_bytes)
    try:
        return _grey(PngImagePlugin.PngImageFile(io.BytesIO(content)), source.url, width, height)
    except (*UNREADABLE, OSError) as error:
        raise RenderBroken(
            source.url, f"is not the PNG that was asked for: {error}", "see what answers there"
        ) from None


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


def _get(source: RenderSource, query: str, most_bytes: int) -> bytes:
    """The body of the answer. Follows nothing to another place."""
    subject = source.url
    headers = {"Accept": "image/png"} | ({"Authorization": source.authorization} if source.authorization else {})
    parts = urlsplit(source.url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=SILENCE_S)
    deadline = time.monotonic() + REQUEST_S
    try:
        connection.request("GET", parts.path + query, headers=headers)
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
