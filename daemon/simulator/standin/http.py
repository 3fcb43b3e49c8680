"""Read requests and write responses like Java, RESTEasy, Jackson and Jetty."""

import json
import re
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from daemon.simulator.standin.json_types import BOUNDS, Json, Refusal
from daemon.simulator.standin.store import StackKey

OWNER = "/owner/{owner}"
PROJECT = OWNER + "/project/{project}"
STACK = PROJECT + "/stack/{stack}"
BOX = STACK + r"/z/{z}/box/{box:[^,/]+,[^,/]+,[^,/]+,[^,/]+},{scale}"
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Answering]
"""Method, path below the base, handler."""

# -- reading requests --------------------------------------------------------------------------------------------------

_JAVA_DOUBLE = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[dDfF]?\s*")


def stack_key(request: web.Request) -> StackKey:
    """Return the stack in the path. Raises Refusal for an illegal name."""
    info = request.match_info
    return StackKey(info["owner"], info["project"], info["stack"])


def java_double(value: str) -> float:
    """Parse a number like Java's Double. Raises Refusal, 404 without a body, for an invalid number."""
    if value in ("NaN", "Infinity", "+Infinity", "-Infinity"):
        return float(value)
    if not _JAVA_DOUBLE.fullmatch(value):
        raise unrouted(404)
    return float(value.strip().rstrip("dDfF"))


def unrouted(status: int) -> Refusal:
    """Return the framework's refusal of a path, a number in it, or a content type: a status without a body."""
    return Refusal(status, None)


def layer_of(request: web.Request) -> float:
    """Return the z in the path. Raises Refusal as `java_double`."""
    return java_double(request.match_info["z"])


def flag(request: web.Request, name: str) -> bool:
    """Return a flag of the query. Only `true`, in upper or lower case, is true."""
    return request.query.get(name, "").lower() == "true"


def _optional_double(request: web.Request, name: str) -> float | None:
    return java_double(request.query[name]) if name in request.query else None


def z_range(request: web.Request) -> Callable[[float | None], bool]:
    """Return a function that tells whether a z is in the query's range minZ to maxZ, both inclusive."""
    low, high = _optional_double(request, "minZ"), _optional_double(request, "maxZ")
    if low is None and high is None:
        return lambda z: True
    return lambda z: z is not None and (low is None or z >= low) and (high is None or z <= high)


def box_of(request: web.Request) -> dict[str, float | None]:
    """Return the sides of the query's box, pixels; None for an open side."""
    return {name: _optional_double(request, name) for name in BOUNDS}


def sides_of(request: web.Request) -> dict[str, float | None]:
    """Return the sides of the box in the path, pixels. The path has x, y, width and height."""
    x, y, width, height = (java_double(part) for part in request.match_info["box"].split(","))
    return {"minX": x, "minY": y, "maxX": x + width, "maxY": y + height}


def touches(tile: Json, box: dict[str, Any]) -> bool:
    """Whether the tile's bounds overlap or touch the box."""
    return all(
        (box[f"max{axis}"] is None or tile[f"min{axis}"] <= box[f"max{axis}"])
        and (box[f"min{axis}"] is None or tile[f"max{axis}"] >= box[f"min{axis}"])
        for axis in "XY"
    )


async def json_body(request: web.Request) -> Any:
    """Return the JSON body; None if it is empty. Raises Refusal, 400, for invalid JSON and, like Jackson, NaN."""
    raw = await request.read()
    if request.content_type != "application/json" and (raw or "Content-Type" in request.headers):
        raise unrouted(415)
    if not raw:
        return None
    try:
        return json.loads(raw, parse_constant=_refuse_constant)
    except ValueError as error:
        raise Refusal(400, f"com.fasterxml.jackson.core.JsonParseException: {error}", html=True) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"Non-standard token '{name}': enable JsonParser.Feature.ALLOW_NON_NUMERIC_NUMBERS to allow")


# -- responses --------------------------------------------------------------------------------------------------------


def compact(value: Any) -> web.Response:
    """Return JSON on one line, as render-ws writes lists and resolved tiles."""
    return web.Response(body=json.dumps(value, separators=(",", ":")).encode(), content_type="application/json")


def pretty(value: Any) -> web.Response:
    """Return indented JSON, as render-ws writes single objects."""
    return web.Response(body=json.dumps(value, indent=2).encode(), content_type="application/json")


def pretty_if_any(value: Any) -> web.Response:
    """Return the object as indented JSON, or 204 for None."""
    return web.Response(status=204) if value is None else pretty(value)


def text_if_any(value: str | None) -> web.Response:
    """Return the text, or 204 for None."""
    return web.Response(status=204) if value is None else web.Response(text=value)


def created(request: web.Request) -> web.Response:
    """Return 201 without a body, with the request's address as Location."""
    return web.Response(status=201, headers={"Location": f"{request.scheme}://{request.host}{request.raw_path}"})


@web.middleware
async def answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer refusals, unknown paths and methods like render-ws and its web framework."""
    if "%2f" in request.raw_path.partition("?")[0].lower():
        return web.Response(status=404)
    try:
        return await handler(request)
    except Refusal as refusal:
        if refusal.text is None:
            return web.Response(status=refusal.status)
        if refusal.html:
            return web.Response(status=refusal.status, text=escape(refusal.text), content_type="text/html")
        return web.Response(status=refusal.status, text=refusal.text)
    except web.HTTPNotFound:
        return web.Response(status=404)
    except web.HTTPMethodNotAllowed as error:
        return _not_allowed(request.method, ", ".join(sorted({*error.allowed_methods, "OPTIONS"})))


def _not_allowed(method: str, allowed: str) -> web.Response:
    """Return the allowed methods of a path: as a list for OPTIONS, otherwise in a header of the 405."""
    if method == "OPTIONS":
        return web.Response(text=allowed, headers={"Allow": allowed})
    return web.Response(status=405, headers={"Allow": allowed})
