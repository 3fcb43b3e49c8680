"""A stand-in for render-ws, in memory: its REST routes, rules, texts and status codes, for demonstration and tests.

It is not render-ws: nothing is kept when it ends, and it renders single tiles only (`source`, `mask`). On request it
misbehaves, at /faults beside /render-ws:

    POST /faults {"match": "PUT .*resolvedTiles", "kind": "status", "status": 503, "times": 2}

kinds: refuse (closes the connection unread), stall (does not answer for `seconds`), status (answers `status`), cut
(ends the connection in the middle of the answer, after the work was done), late (does the work, answers after `seconds`).
GET /requests lists what was asked, for tests that look at what a client sends.
"""

import asyncio
import contextlib
import io
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from aiohttp import web
from PIL import Image

from daemon.demo import standin_store as rules
from daemon.demo.standin_store import Json, Refusal, Stack, Store

IDLE_S = 30.0
"""After which an idle connection is closed, as Jetty does."""
BASE = "/render-ws/v1"
_STACK = BASE + "/owner/{owner}/project/{project}/stack/{stack}"
_Work = Callable[[], Awaitable[web.StreamResponse]]
_MIME = {"png-image": ("PNG", "image/png"), "jpeg-image": ("JPEG", "image/jpeg"), "tiff-image": ("TIFF", "image/tiff")}


@dataclass(slots=True)
class Misbehaviour:
    """One way to misbehave, for requests whose "METHOD path?query" matches."""

    match: re.Pattern[str]
    kind: Literal["refuse", "stall", "status", "cut", "late"]
    status: int = 503
    seconds: float = 1.0
    times: int = 1_000_000
    """How often; then no more."""
    skip: int = 0
    """How many matching requests are spared first."""

    @classmethod
    def parse(cls, given: Json) -> "Misbehaviour":
        """The misbehaviour that a POST asks for."""
        known = {key: given[key] for key in ("status", "seconds", "times", "skip") if key in given}
        return cls(re.compile(given.get("match", ".*")), given["kind"], **known)

    def strikes(self, request: str) -> bool:
        """Whether it is this request's turn."""
        if not self.match.search(request) or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class StandIn:
    """The routes over one store.

    Parameters
    ----------
    derive_s : how long COMPLETE takes; the stack is LOADING meanwhile, and what is written then is missed.
    """

    def __init__(self, derive_s: float = 0.0) -> None:
        self.store = Store()
        self.faults: list[Misbehaviour] = []
        self.requests: list[Json] = []
        self._derive_s = derive_s

    def application(self) -> web.Application:
        """The stand-in as an aiohttp application."""
        # Bodies are not limited, as render-ws's are not: a section of 20,000 tiles is over 16 MB.
        app = web.Application(middlewares=[self._misbehave, _answer_refusals, _trim_slash], client_max_size=1 << 30)
        app.add_routes(
            [
                web.post("/faults", self._add_fault),
                web.delete("/faults", self._clear_faults),
                web.get("/requests", self._list_requests),
                web.get(BASE + "/versionInfo", self._version_info),
                web.get(BASE + "/serverProperties", self._server_properties),
                web.get(BASE + "/likelyUniqueId", self._unique_id),
                web.get(BASE + "/owners", self._owners),
                web.get(BASE + "/owner/{owner}/projects", self._projects),
                web.get(BASE + "/owner/{owner}/stacks", self._stacks),
                web.get(BASE + "/owner/{owner}/stackIds", self._stack_ids),
                web.get(BASE + "/owner/{owner}/project/{project}/stacks", self._stacks),
                web.get(BASE + "/owner/{owner}/project/{project}/stackIds", self._stack_ids),
                web.put(BASE + "/owner/{owner}/validate-json/{kind}", self._validate_json),
                *self._stack_routes(),
                *self._tile_routes(),
            ]
        )
        return app

    def _stack_routes(self) -> list[web.RouteDef]:
        return [
            web.post(_STACK, self._save_version),
            web.get(_STACK, self._stack),
            web.delete(_STACK, self._delete_stack),
            web.put(_STACK + "/state/{state}", self._set_state),
            web.put(_STACK + "/stackId", self._rename),
            web.get(_STACK + "/resolutionValues", self._resolution),
            web.put(_STACK + "/resolutionValues", self._put_resolution),
            web.delete(_STACK + "/resolutionValues", self._delete_resolution),
            web.get(_STACK + "/mipmapPathBuilder", self._builder),
            web.put(_STACK + "/mipmapPathBuilder", self._put_builder),
            web.delete(_STACK + "/mipmapPathBuilder", self._delete_builder),
            web.get(_STACK + "/bounds", self._stack_bounds),
            web.get(_STACK + "/zValues", self._z_values),
            web.get(_STACK + "/sectionData", self._section_data),
        ]

    def _tile_routes(self) -> list[web.RouteDef]:
        return [
            web.put(_STACK + "/resolvedTiles", self._put_tiles),
            web.put(_STACK + "/z/{z}/resolvedTiles", self._put_tiles),
            web.get(_STACK + "/resolvedTiles", self._resolved_range),
            web.get(_STACK + "/z/{z}/resolvedTiles", self._resolved),
            web.get(_STACK + "/z/{z}/tile-specs", self._tile_specs),
            web.put(_STACK + "/tile-specs-with-ids", self._tile_specs_with_ids),
            web.get(_STACK + "/z/{z}/tileBounds", self._tile_bounds),
            web.get(_STACK + "/z/{z}/sectionData", self._live_section_data),
            web.get(_STACK + "/z/{z}/bounds", self._layer_bounds),
            web.delete(_STACK + "/z/{z}", self._delete_layer),
            web.delete(_STACK + "/section/{section}", self._delete_section),
            web.get(_STACK + "/section/{section}/tileBounds", self._section_bounds),
            web.get(_STACK + "/section/{section}/z", self._section_z),
            web.get(_STACK + "/tileIds", self._tile_ids),
            web.get(_STACK + "/tile/{tile}", self._tile),
            web.delete(_STACK + "/tile/{tile}", self._delete_tile),
            web.get(_STACK + "/tile/{tile}/validation-info", self._validation_info),
            web.get(_STACK + "/tile/{tile}/{what:source|mask}/{format}", self._image),
            web.get(_STACK + "/transform/{transform}", self._transform),
        ]

    # --- misbehaviour

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not request.path.startswith(BASE):
            response: web.StreamResponse = await handler(request)
            return response
        asked = f"{request.method} {request.path_qs}"
        said: Json = {"method": request.method, "path": request.path_qs, "status": None}
        self.requests.append(said)
        fault = next((fault for fault in self.faults if fault.strikes(asked)), None)
        response = await (handler(request) if fault is None else self._strike(fault, request, handler))
        said["status"] = response.status
        return response

    async def _strike(self, fault: Misbehaviour, request: web.Request, handler: Any) -> web.StreamResponse:
        if fault.kind == "refuse":
            _cut(request)
            return web.Response(status=500)
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
            _cut(request)
            return web.Response(status=500)
        if fault.kind == "status":
            await request.read()
            return web.Response(
                status=fault.status, text=f"<html><body><h1>{fault.status}</h1></body></html>", content_type="text/html"
            )
        done: web.StreamResponse = await handler(request)
        if fault.kind == "late":
            await asyncio.sleep(fault.seconds)
            return done
        return await _half(request, done)

    async def _add_fault(self, request: web.Request) -> web.Response:
        self.faults.append(Misbehaviour.parse(await request.json()))
        return web.json_response({"faults": len(self.faults)})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({"faults": 0})

    async def _list_requests(self, _: web.Request) -> web.Response:
        return web.json_response(self.requests)

    # --- the server, owners, projects

    async def _version_info(self, _: web.Request) -> web.Response:
        return web.json_response({"commit": "stand-in", "branch": "temwatch", "buildVersion": "4.0.2-SNAPSHOT"})

    async def _server_properties(self, _: web.Request) -> web.Response:
        return web.json_response({"webService.name": "temwatch stand-in"})

    async def _unique_id(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{len(self.requests):024x}")

    async def _owners(self, _: web.Request) -> web.Response:
        return _json(sorted({stack.owner for stack in self.store.stacks()}))

    async def _projects(self, request: web.Request) -> web.Response:
        return _json(sorted({stack.project for stack in self.store.stacks(request.match_info["owner"])}))

    async def _stacks(self, request: web.Request) -> web.Response:
        return _json([stack.to_json() for stack in self._listed(request)])

    async def _stack_ids(self, request: web.Request) -> web.Response:
        return _json([stack.to_json()["stackId"] for stack in self._listed(request)])

    def _listed(self, request: web.Request) -> list[Stack]:
        return self.store.stacks(request.match_info["owner"], request.match_info.get("project"))

    async def _validate_json(self, request: web.Request) -> web.Response:
        body = await _body(request)
        specs = body if isinstance(body, list) else [body]
        if request.match_info["kind"] in ("tile", "tile-array"):
            for spec in specs:
                _check_files(spec)
        elif request.match_info["kind"] not in ("transform", "transform-array"):
            raise Refusal(404, "RESTEASY003210: Could not find resource for full path", html=True)
        return web.Response(text="the specified JSON is valid")

    # --- stacks

    def _of(self, request: web.Request) -> Stack:
        info = request.match_info
        return self.store.stack(info["owner"], info["project"], info["stack"])

    async def _save_version(self, request: web.Request) -> web.Response:
        info = request.match_info
        body = await _body(request)
        if body is not None and not isinstance(body, dict):
            raise Refusal(400, "Cannot deserialize instance of StackVersion", html=True)
        self.store.save_version(info["owner"], info["project"], info["stack"], body)
        return _created(request)

    async def _stack(self, request: web.Request) -> web.Response:
        return _json(self._of(request).to_json(), indent=2)

    async def _delete_stack(self, request: web.Request) -> web.Response:
        info = request.match_info
        self.store.delete(info["owner"], info["project"], info["stack"])
        return web.Response()

    async def _set_state(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        if rules.set_state(stack, request.match_info["state"]):
            derived = rules.begin_derivation(stack)
            await asyncio.sleep(self._derive_s)
            rules.finish_derivation(stack, derived)
        return _created(request)

    async def _rename(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self.store.rename(self._of(request), body if isinstance(body, dict) else {})
        return web.Response()

    async def _resolution(self, request: web.Request) -> web.Response:
        version = self._of(request).version
        return _json([version.get(f"stackResolution{axis}") for axis in "XYZ"])

    async def _put_resolution(self, request: web.Request) -> web.Response:
        stack, values = self._of(request), await _body(request)
        rules.require_modifiable(stack)
        if not isinstance(values, list) or len(values) != 3:
            raise Refusal(400, "resolution values must be an array of three numbers")
        stack.version |= {f"stackResolution{axis}": value for axis, value in zip("XYZ", values, strict=True)}
        return _created(request)

    async def _delete_resolution(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        rules.require_modifiable(stack)
        stack.version |= dict.fromkeys(("stackResolutionX", "stackResolutionY", "stackResolutionZ"))
        return web.Response()

    async def _builder(self, request: web.Request) -> web.Response:
        builder = self._of(request).version.get("mipmapPathBuilder")
        return web.Response(status=204) if builder is None else _json(builder, indent=2)

    async def _put_builder(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        builder = rules.normalized_builder(await _body(request))
        rules.require_modifiable(stack)
        stack.version["mipmapPathBuilder"] = builder
        return _created(request)

    async def _delete_builder(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        rules.require_modifiable(stack)
        stack.version.pop("mipmapPathBuilder", None)
        return web.Response()

    async def _stack_bounds(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        if stack.stats is None:
            raise Refusal(400, f"stack bounds have not been stored for {stack.name}")
        return _json(stack.stats["stackBounds"], indent=2)

    async def _z_values(self, request: web.Request) -> web.Response:
        zs = {tile["z"] for tile in self._of(request).tiles.values() if tile.get("z") is not None}
        return _json([z for z in zs if _in_range(request, z)])

    async def _section_data(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        if stack.section_data is None:
            raise Refusal(400, f"section data not available for stack {stack.name}: set it COMPLETE first")
        return _json([row for row in stack.section_data if row.get("z") is not None and _in_range(request, row["z"])])

    # --- tiles

    async def _put_tiles(self, request: web.Request) -> web.Response:
        z = _z(request) if "z" in request.match_info else None
        body = await _body(request)
        derive = request.query.get("deriveData", "").lower() == "true"
        rules.save_tiles(self._of(request), body, z, derive=derive)
        return _created(request)

    async def _resolved(self, request: web.Request) -> web.Response:
        stack, z = self._of(request), _z(request)
        tiles = stack.of_z(z)
        if not tiles:
            raise Refusal(404, f"stack {stack.name} does not contain any tiles with a z value of {z}")
        return _json(rules.resolved(stack, tiles))

    async def _resolved_range(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        group = request.query.get("groupId")
        tiles = [
            tile
            for _, tile in sorted(stack.tiles.items())
            if _in_range(request, tile.get("z", 0.0)) and group in (None, tile.get("groupId"))
        ]
        if not tiles:
            raise Refusal(404, f"no matching tiles found in stack {stack.name}")
        return _json(rules.resolved(stack, tiles))

    async def _tile_specs(self, request: web.Request) -> web.Response:
        stack, z = self._of(request), _z(request)
        tiles = stack.of_z(z)
        if not tiles:
            raise Refusal(400, f"stack {stack.name} does not contain any tiles with a z value of {z}")
        return _json(rules.flattened(stack, tiles))

    async def _tile_specs_with_ids(self, request: web.Request) -> web.Response:
        stack, ids = self._of(request), await _body(request)
        wanted = ids if isinstance(ids, list) else []
        return _json(rules.flattened(stack, [stack.tiles[key] for key in wanted if key in stack.tiles]))

    async def _tile_bounds(self, request: web.Request) -> web.Response:
        stack, z = self._of(request), _z(request)
        return _json([rules.tile_bounds(tile) for tile in stack.of_z(z)])

    async def _live_section_data(self, request: web.Request) -> web.Response:
        stack, z = self._of(request), _z(request)
        sections: dict[Any, list[Json]] = {}
        for tile in stack.of_z(z):
            sections.setdefault(tile.get("layout", {}).get("sectionId"), []).append(tile)
        return _json([rules.section_data(section, z, tiles) for section, tiles in sections.items()])

    async def _layer_bounds(self, request: web.Request) -> web.Response:
        stack, z = self._of(request), _z(request)
        tiles = stack.of_z(z)
        if not tiles:
            raise Refusal(400, f"stack {stack.name} does not contain any tiles with a z value of {z}")
        row = rules.section_data(None, z, tiles)
        bounds = {key: row[key] for key in ("minX", "minY", "maxX", "maxY")}
        return _json({**bounds, "minZ": z, "maxZ": z}, indent=2)

    async def _delete_layer(self, request: web.Request) -> web.Response:
        stack, z = self._of(request), _z(request)
        rules.delete_tiles(stack, [tile["tileId"] for tile in stack.of_z(z)])
        return web.Response()

    async def _delete_section(self, request: web.Request) -> web.Response:
        stack = self._of(request)
        rules.delete_tiles(stack, [tile["tileId"] for tile in _of_section(stack, request)])
        return web.Response()

    async def _section_bounds(self, request: web.Request) -> web.Response:
        return _json([rules.tile_bounds(tile) for tile in _of_section(self._of(request), request)])

    async def _section_z(self, request: web.Request) -> web.Response:
        tiles = _of_section(self._of(request), request)
        if not tiles:
            raise Refusal(404, f"section {request.match_info['section']} does not exist")
        return _json(tiles[0].get("z"))

    async def _tile_ids(self, request: web.Request) -> web.Response:
        info = request.match_info
        try:
            tiles = self.store.stack(info["owner"], info["project"], info["stack"]).tiles
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            return _json([])
        pattern = re.compile(request.query.get("matchPattern", ""))
        return _json(
            sorted(key for key, tile in tiles.items() if pattern.search(key) and _in_range(request, tile.get("z", 0.0)))
        )

    def _one(self, request: web.Request) -> tuple[Stack, Json]:
        stack, tile_id = self._of(request), request.match_info["tile"]
        if tile_id not in stack.tiles:
            collection = f"render.{stack.owner}__{stack.project}__{stack.name}__tile"
            raise Refusal(404, f"tile spec with id '{tile_id}' does not exist in the {collection} collection")
        return stack, stack.tiles[tile_id]

    async def _tile(self, request: web.Request) -> web.Response:
        return _json(self._one(request)[1], indent=2)

    async def _delete_tile(self, request: web.Request) -> web.Response:
        rules.delete_tiles(self._of(request), [request.match_info["tile"]])
        return web.Response()

    async def _validation_info(self, request: web.Request) -> web.Response:
        stack, tile = self._one(request)
        _check_files(tile)
        list(rules.leaves(tile["transforms"], stack.transforms))
        return _json({"tileId": tile["tileId"]})

    async def _transform(self, request: web.Request) -> web.Response:
        stack, name = self._of(request), request.match_info["transform"]
        if name not in stack.transforms:
            raise Refusal(404, f"transform spec with id '{name}' does not exist")
        return _json(stack.transforms[name], indent=2)

    async def _image(self, request: web.Request) -> web.Response:
        """The raw image or the mask of a tile, through the intensity window 0 to 255 unless told otherwise."""
        _, tile = self._one(request)
        if request.match_info["format"] not in _MIME:
            raise Refusal(404, "RESTEASY003210: Could not find resource for full path", html=True)
        format_name, mime = _MIME[request.match_info["format"]]
        _check_files(tile)
        level = min(tile["mipmapLevels"], key=int)
        url = tile["mipmapLevels"][level].get("imageUrl" if request.match_info["what"] == "source" else "maskUrl")
        if url is None:
            raise Refusal(400, "no imageUrl specified")
        grey = await asyncio.to_thread(_rendered, _path(url), request.query)
        image = Image.fromarray(grey).convert("RGBA" if format_name == "PNG" else "RGB")
        file = io.BytesIO()
        await asyncio.to_thread(image.save, file, format_name)
        return web.Response(body=file.getvalue(), content_type=mime, headers={"Cache-Control": "max-age=3600"})


def _rendered(path: Path, query: Any) -> npt.NDArray[np.uint8]:
    """An 8-bit image at the query's scale: halved with truncation, row 0 and column 0 black below scale 1."""
    scale = float(query.get("scale", 1.0))
    low, high = float(query.get("minIntensity", 0)), float(query.get("maxIntensity", 255))
    with Image.open(path) as image:
        pixels = np.asarray(image).astype(np.uint32)
    halvings = 0
    while scale <= 0.5 ** (halvings + 1):
        height, width = (side // 2 * 2 for side in pixels.shape)
        even = pixels[:height, :width]
        pixels = (even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]) // 4
        halvings += 1
    window = np.clip((pixels - low) * (255 / max(high - low, 1)), 0, 255)
    grey: npt.NDArray[np.uint8] = np.rint(window).astype(np.uint8)
    if halvings:
        grey[0, :] = 0
        grey[:, 0] = 0
    return grey


def _check_files(tile: Json) -> None:
    """Refuses a tile of which a file is not there: rendering looks at every level."""
    for entry in tile.get("mipmapLevels", {}).values():
        for kind in ("imageUrl", "maskUrl"):
            if kind in entry and not (_path(entry[kind]).is_file() and _path(entry[kind]).stat().st_size):
                raise Refusal(400, f"cannot find {kind} file '{entry[kind]}'")


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _of_section(stack: Stack, request: web.Request) -> list[Json]:
    wanted = request.match_info["section"]
    return [tile for _, tile in sorted(stack.tiles.items()) if tile.get("layout", {}).get("sectionId") == wanted]


def _z(request: web.Request) -> float:
    return _java_double(request.match_info["z"])


def _java_double(text: str) -> float:
    try:
        if "_" in text or text.strip().lower() in ("inf", "nan", "infinity", "-inf"):
            raise ValueError
        return float(text)
    except ValueError:
        raise Refusal(
            404, f"RESTEASY003870: Unable to extract parameter from http request: {text}", html=True
        ) from None


def _in_range(request: web.Request, z: float) -> bool:
    low, high = request.query.get("minZ"), request.query.get("maxZ")
    return (low is None or z >= _java_double(low)) and (high is None or z <= _java_double(high))


async def _body(request: web.Request) -> Any:
    """The JSON body; None if there is none. Strict as Jackson is: NaN and Infinity are no numbers."""
    raw = await request.read()
    if request.content_type != "application/json" and raw:
        raise Refusal(415, "RESTEASY003065: Cannot consume content type", html=True)
    if not raw:
        return None
    try:
        return json.loads(raw, parse_constant=_refuse_constant)
    except ValueError as error:
        raise Refusal(400, f"com.fasterxml.jackson.core.JsonParseException: {error}", html=True) from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"Non-standard token '{text}'")


def _json(value: Any, indent: int | None = None) -> web.Response:
    separators = None if indent else (",", ":")
    return web.Response(text=json.dumps(value, indent=indent, separators=separators), content_type="application/json")


def _created(request: web.Request) -> web.Response:
    return web.Response(status=201, headers={"Location": str(request.url)})


@web.middleware
async def _answer_refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refusals and unknown routes as render-ws words them."""
    try:
        response: web.StreamResponse = await handler(request)
    except Refusal as refusal:
        kind = "text/html" if refusal.html else "text/plain"
        return web.Response(status=refusal.status, text=refusal.text, content_type=kind)
    except web.HTTPNotFound:
        text = f"RESTEASY003210: Could not find resource for full path: {request.url}"
        return web.Response(status=404, text=text, content_type="text/html")
    except web.HTTPMethodNotAllowed:
        text = "RESTEASY003650: No resource method found"
        return web.Response(status=405, text=text, content_type="text/html")
    return response


@web.middleware
async def _trim_slash(request: web.Request, handler: Any) -> web.StreamResponse:
    """Tolerates a slash at the end of a path."""
    if request.path.endswith("/") and request.path != "/":
        trimmed = request.clone(rel_url=request.rel_url.with_path(request.path.rstrip("/")))
        match = await request.app.router.resolve(trimmed)
        match.add_app(request.app)
        trimmed._match_info = match
        response: web.StreamResponse = await match.handler(trimmed)
        return response
    answer: web.StreamResponse = await handler(request)
    return answer


def _cut(request: web.Request) -> None:
    """Ends the connection."""
    if request.transport is not None:
        request.transport.abort()


async def _half(request: web.Request, done: web.StreamResponse) -> web.StreamResponse:
    """Half of an answer, then the end of the connection."""
    body = done.body if isinstance(done, web.Response) and isinstance(done.body, bytes) else b""
    half = web.StreamResponse(status=done.status, headers={"Content-Length": str(max(2, len(body)))})
    half.content_type = done.content_type
    await half.prepare(request)
    await half.write(body[: len(body) // 2] or b" ")
    _cut(request)
    return half


@contextlib.asynccontextmanager
async def serve_standin(host: str = "127.0.0.1", port: int = 0, *, derive_s: float = 0.0) -> AsyncIterator[str]:
    """Serves a stand-in for as long as the context lasts; its base URL."""
    runner = web.AppRunner(
        StandIn(derive_s).application(), access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=0.5
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}{BASE}"
    finally:
        await runner.cleanup()


async def run_standin(host: str, port: int, derive_s: float = 0.0) -> None:
    """Serves a stand-in until SIGTERM or SIGINT; prints its URL when it is ready."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve_standin(host, port, derive_s=derive_s) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await ended.wait()
