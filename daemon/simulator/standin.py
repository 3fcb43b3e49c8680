"""A stand-in for render-ws, in memory, for the demonstration and for tests: its routes, rules, texts and status codes.

It is not render-ws: nothing is kept when it ends unless a file for that is named, it serves raw images and masks but
renders no sections, and of transforms it knows the affine ones. Told to, it misbehaves; the routes for that lie beside
/render-ws:

    POST /faults {"match": "^PUT .*resolvedTiles", "kind": "status", "status": 503, "times": 2}
    DELETE /faults
    DELETE /state        as newly started: without stacks, misbehaviour and requests seen
    GET /requests        what was asked: [{"method", "path", "status"}], status null where no answer was given

`match` is searched for in "METHOD path?query"; for the kinds see standin_faults.py.

    python -m daemon.simulator.standin --port 8080
"""

import argparse
import asyncio
import contextlib
import functools
import json
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from daemon.simulator import standin_specs as specs
from daemon.simulator import standin_store as store
from daemon.simulator.standin_faults import Fault, Misbehaviour, NoAnswer, answer_with_fault, parse_fault, slowness_s
from daemon.simulator.standin_http import (
    answer_refusals,
    box_of,
    compact,
    created,
    flag,
    java_double,
    json_body,
    layer_of,
    pretty,
    pretty_if_any,
    stack_key,
    text_if_any,
    touches,
    unrouted,
    z_range,
)
from daemon.simulator.standin_images import (
    ImageCache,
    Window,
    lowest_level,
    painted,
    raw_parameters,
    rendered,
    require_files,
)
from daemon.simulator.standin_specs import Json, Refusal
from daemon.simulator.standin_store import Stack, StackKey, State, Store

BASE = "/render-ws/v1"
IDLE_S = 30.0
"""A connection idle for longer is closed, as Jetty does."""
_OWNER = "/owner/{owner}"
_PROJECT = _OWNER + "/project/{project}"
_STACK = _PROJECT + "/stack/{stack}"
_BOX = _STACK + r"/z/{z}/box/{box:[^,/]+,[^,/]+,[^,/]+,[^,/]+},{scale}"
_Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Route = tuple[str, str, _Answering]
"""Method, path after the base, handler."""


class StandIn:
    """The routes over one store.

    Parameters
    ----------
    derive_s : how long COMPLETE takes; the stack is LOADING meanwhile, and what is written then is missed.
    state : file to begin with, if it is there, and to write all stacks to after every request that may change one.
    """

    def __init__(self, derive_s: float = 0.0, faults: Iterable[Fault] = (), state: Path | None = None) -> None:
        self._state = state
        self._store = Store(json.loads(state.read_bytes()) if state is not None and state.exists() else ())
        self._derive_s = derive_s
        self._images = ImageCache()
        self._requests: list[Json] = []
        self._misbehaviour = Misbehaviour()
        self._under_way: set[asyncio.Task[object]] = set()
        for fault in faults:
            self._misbehaviour.add(fault)

    def application(self) -> web.Application:
        """The stand-in as an aiohttp application."""
        # 0 is no limit: render-ws has none, and a section of 20,000 tiles is over 16 MB.
        middlewares = [self._count_in, self._log_and_misbehave, self._keep, answer_refusals]
        app = web.Application(middlewares=middlewares, client_max_size=0)
        app.on_cleanup.append(self._end_requests)
        app.router.add_post("/faults", self._add_fault)
        app.router.add_delete("/faults", self._clear_faults)
        app.router.add_delete("/state", self._begin_anew)
        app.router.add_get("/requests", self._list_requests)
        for method, path, handler in (*self._service_routes(), *self._stack_routes(), *self._tile_routes()):
            for slash in ("", "/"):
                for each in ("GET", "HEAD") if method == "GET" else (method,):
                    app.router.add_route(each, f"{BASE}{path}{slash}", handler)
        return app

    def _service_routes(self) -> list[_Route]:
        return [
            ("GET", "/versionInfo", self._version_info),
            ("GET", "/serverProperties", self._server_properties),
            ("GET", "/likelyUniqueId", self._unique_id),
            ("GET", "/owners", self._owners),
            ("GET", _OWNER + "/projects", self._projects),
            ("GET", _OWNER + "/stacks", self._stacks),
            ("GET", _OWNER + "/stackIds", self._stack_ids),
            ("GET", _PROJECT + "/stacks", self._stacks),
            ("GET", _PROJECT + "/stackIds", self._stack_ids),
            ("DELETE", "/imageProcessorCache/allEntries", self._clear_images),
            ("PUT", _OWNER + "/png-image", self._painted),
            ("PUT", _OWNER + "/validate-json/{kind:tile|tile-array|transform|transform-array}", self._validate),
        ]

    def _stack_routes(self) -> list[_Route]:
        return [
            ("POST", _STACK, self._save_version),
            ("GET", _STACK, self._show_stack),
            ("DELETE", _STACK, self._delete_stack),
            ("PUT", _STACK + "/state/{state}", self._set_state),
            ("PUT", _STACK + "/stackId", self._rename),
            ("PUT", _STACK + "/cloneTo/{target}", self._clone),
            ("GET", _STACK + "/bounds", self._stack_bounds),
            ("GET", _STACK + "/zValues", self._z_values),
            ("GET", _STACK + "/sectionData", self._section_data),
            ("GET", _STACK + "/mergedZValues", self._merged_z_values),
            *self._value_routes("resolutionValues", self._resolution, self._put_resolution, _RESOLUTION),
            *self._value_routes("mipmapPathBuilder", self._path_builder, self._put_path_builder, _PATH_BUILDER),
            *self._value_routes("cycle", self._cycle, self._put_cycle, _CYCLE),
            *self._value_routes("defaultChannel", self._channel, self._put_channel, _CHANNEL),
            *self._value_routes("materializedBoxRootPath", self._box_root, self._put_box_root, _BOX_ROOT),
        ]

    def _value_routes(self, name: str, get: _Answering, put: _Answering, keys: tuple[str, ...]) -> list[_Route]:
        path = f"{_STACK}/{name}"
        delete = functools.partial(self._forget, keys)
        return [("GET", path, get), ("PUT", path, put), ("DELETE", path, delete)]

    def _tile_routes(self) -> list[_Route]:
        return [
            ("PUT", _STACK + "/resolvedTiles", self._put_tiles),
            ("PUT", _STACK + "/z/{z}/resolvedTiles", self._put_tiles),
            ("GET", _STACK + "/resolvedTiles", self._resolved_of_stack),
            ("GET", _STACK + "/z/{z}/resolvedTiles", self._resolved_of_layer),
            ("GET", _STACK + "/z/{z}/tile-specs", self._flattened_of_layer),
            ("PUT", _STACK + "/tile-specs-with-ids", self._flattened_with_ids),
            ("GET", _STACK + "/z/{z}/tileBounds", self._bounds_in_layer),
            ("GET", _STACK + "/section/{section}/tileBounds", self._bounds_in_section),
            ("GET", _STACK + "/z/{z}/sectionData", self._section_data_of_layer),
            ("GET", _STACK + "/z/{z}/bounds", self._bounds_of_layer),
            ("GET", _STACK + r"/z/{z}/box/{box:[^,/]+,[^,/]+,[^,/]+,[^,/]+}/tile-count", self._tile_count),
            ("GET", _STACK + "/tileIds", self._tile_ids),
            ("PUT", _STACK + "/z/{z}/tileIds", self._move_tiles),
            ("GET", _STACK + "/section/{section}/z", self._z_of_section),
            ("PUT", _STACK + "/section/{section}/z", self._move_section),
            ("DELETE", _STACK + "/z/{z}", self._delete_layer),
            ("DELETE", _STACK + "/section/{section}", self._delete_section),
            ("GET", _STACK + "/tile/{tile}", self._tile),
            ("DELETE", _STACK + "/tile/{tile}", self._delete_tile),
            ("GET", _STACK + "/tile/{tile}/validation-info", self._validation_info),
            ("GET", _STACK + "/tile/{tile}/{what:source|mask}/{format:png|jpeg|tiff}-image", self._image),
            ("GET", _STACK + "/tile/{tile}/{what:source|mask}/scale/{scale}/render-parameters", self._raw_parameters),
            ("GET", _STACK + "/tile/{tile}/{format:png|jpeg|tiff|tiff16}-image", self._tile_image),
            ("GET", _STACK + "/tile/{tile}/render-parameters", self._render_parameters),
            ("GET", _BOX + "/{format:png|jpeg|tiff|tiff16}-image", self._box_image),
            ("GET", _STACK + "/transform/{transform}", self._transform),
        ]

    # -- requests seen, and misbehaviour ------------------------------------------------------------------------------

    @web.middleware
    async def _count_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            return await handler(request)
        finally:
            self._under_way.discard(task)

    async def _end_requests(self, _: web.Application) -> None:
        """Cancel requests under way: aiohttp forgets those whose client has gone, and they would never end."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    @web.middleware
    async def _log_and_misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(f"{BASE}/"):
            return await handler(request)
        entry: Json = {"method": request.method, "path": request.raw_path, "status": None}
        self._requests.append(entry)
        fault = self._misbehaviour.next_fault(f"{request.method} {request.raw_path}")
        if fault is None:
            answer = await handler(request)
        else:
            answer = await answer_with_fault(fault, request, handler)
        if not isinstance(answer, NoAnswer):
            entry["status"] = answer.status
        return answer

    @web.middleware
    async def _keep(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if self._state is not None and request.method != "GET":
            # Blocking on purpose: nothing may change between the last change and the file that shows it.
            beside = self._state.with_name(f".{self._state.name}.tmp")
            beside.write_text(json.dumps(self._store.to_records()), encoding="utf-8")
            beside.replace(self._state)
        return answer

    async def _add_fault(self, request: web.Request) -> web.Response:
        self._misbehaviour.add(await parse_fault(request))
        return web.Response(status=201)

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._misbehaviour.clear()
        return web.Response(status=204)

    async def _begin_anew(self, _: web.Request) -> web.Response:
        self._store = Store()
        self._images.clear()
        self._misbehaviour.clear()
        self._requests.clear()
        return web.Response(status=204)

    async def _list_requests(self, _: web.Request) -> web.Response:
        return compact(self._requests)

    # -- the service, its owners and projects --------------------------------------------------------------------------

    async def _version_info(self, _: web.Request) -> web.Response:
        return pretty({"commitId": "stand-in", "branch": "temwatch", "buildVersion": "4.0.2-SNAPSHOT"})

    async def _server_properties(self, _: web.Request) -> web.Response:
        return pretty({"webService.maxTileSpecsToRender": "20"})

    async def _unique_id(self, _: web.Request) -> web.Response:
        return web.Response(text=secrets.token_hex(12))

    async def _clear_images(self, _: web.Request) -> web.Response:
        self._images.clear()
        return web.Response()

    async def _owners(self, _: web.Request) -> web.Response:
        return compact(sorted({stack.key.owner for stack in self._store.listed()}))

    async def _projects(self, request: web.Request) -> web.Response:
        return compact(sorted({stack.key.project for stack in self._listed(request)}))

    async def _stacks(self, request: web.Request) -> web.Response:
        return compact([stack.to_json() for stack in self._listed(request)])

    async def _stack_ids(self, request: web.Request) -> web.Response:
        return compact([stack.key.to_json() for stack in self._listed(request)])

    def _listed(self, request: web.Request) -> list[Stack]:
        return self._store.listed(request.match_info["owner"], request.match_info.get("project"))

    async def _validate(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        body = await json_body(request)
        members = body if kind.endswith("-array") and isinstance(body, list) else [body]
        for member in members:
            if kind.startswith("tile"):
                tile = specs.read_tile(member)
                require_files(tile)
                if kind == "tile":
                    specs.require_references(tile, {})
            else:
                specs.transform(member, "TransformSpec")
        return web.Response(text=f"{len(members)} valid")

    # -- stacks --------------------------------------------------------------------------------------------------------

    def _stack(self, request: web.Request) -> Stack:
        return self._store.stack(stack_key(request))

    async def _save_version(self, request: web.Request) -> web.Response:
        body = await json_body(request)
        version = None if body is None else specs.read_version(body, "StackVersion")
        if version is None:
            raise Refusal(400, "no stack version provided")
        self._store.save_version(stack_key(request), version)
        return created(request)

    async def _show_stack(self, request: web.Request) -> web.Response:
        return pretty(self._stack(request).to_json())

    async def _delete_stack(self, request: web.Request) -> web.Response:
        self._store.delete(stack_key(request))
        return web.Response()

    async def _set_state(self, request: web.Request) -> web.Response:
        name = request.match_info["state"]
        if name not in set(State):
            raise unrouted(404)
        stack = self._stack(request)
        if store.set_state(stack, State(name)):
            derived = store.begin_derivation(stack)
            await asyncio.sleep(max(self._derive_s, slowness_s.get()))
            store.finish_derivation(stack, derived)
        return created(request)

    async def _rename(self, request: web.Request) -> web.Response:
        target = specs.read_stack_id(await json_body(request), "StackId")
        stack = self._stack(request)
        if set(target) != {"owner", "project", "stack"}:
            raise Refusal(400, "owner, project, and stack must be specified")
        self._store.rename(stack, StackKey(**target))
        return web.Response()

    async def _clone(self, request: web.Request) -> web.Response:
        zs = [java_double(z) for z in request.query.getall("z", [])]
        body = await json_body(request)
        if body is None:
            raise Refusal(400, "no stack version provided")
        version = specs.read_version(body, "StackVersion")
        source = self._stack(request)
        project = request.query.get("toProject", source.key.project)
        target = StackKey(source.key.owner, project, request.match_info["target"])
        self._store.clone(source, target, version, zs, transforms=not flag(request, "skipTransforms"))
        return created(request)

    async def _stack_bounds(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        if stack.stats is None:
            raise Refusal(
                400,
                f"Stats for {stack.key} have not been stored.  "
                "If all data has been loaded for this stack, setting its state to "
                "COMPLETE will trigger derivation and storage of all the stack's stats.",
            )
        return pretty(stack.stats["stackBounds"])

    async def _z_values(self, request: web.Request) -> web.Response:
        is_wanted = z_range(request)
        zs = {tile["z"] for tile in self._stack(request).tiles.values() if "z" in tile}
        return compact([z for z in zs if is_wanted(z)])

    async def _section_data(self, request: web.Request) -> web.Response:
        return compact(self._aggregated(request))

    async def _merged_z_values(self, request: web.Request) -> web.Response:
        sections = Counter(row["z"] for row in self._aggregated(request))
        return compact(sorted(z for z, count in sections.items() if count > 1))

    def _aggregated(self, request: web.Request) -> list[Json]:
        """The section data of the last derivation, in the range of z that the query asks for."""
        is_wanted = z_range(request)
        stack = self._stack(request)
        if stack.section_data is None:
            raise Refusal(
                400,
                f"section data not aggregated for {stack.key}, "
                "set stack state to COMPLETE to generate the aggregate collection",
            )
        return [row for row in stack.section_data if is_wanted(row["z"])]

    # -- values of a stack ---------------------------------------------------------------------------------------------

    async def _set_values(self, request: web.Request, keys: tuple[str, ...], values: Iterable[Any]) -> web.Response:
        """Change parts of the current version: allowed in every state but READ_ONLY, and noted by no time stamp."""
        stack = self._stack(request)
        store.require_modifiable(stack)
        changed = {**stack.version, **dict(zip(keys, values, strict=True))}
        stack.version = store.without_nulls(changed)
        return web.Response()

    async def _forget(self, keys: tuple[str, ...], request: web.Request) -> web.Response:
        return await self._set_values(request, keys, [None] * len(keys))

    async def _resolution(self, request: web.Request) -> web.Response:
        version = self._stack(request).version
        return compact([version.get(key) for key in _RESOLUTION])

    async def _put_resolution(self, request: web.Request) -> web.Response:
        values = specs.read_numbers(await json_body(request), "List")
        keys = _RESOLUTION[: len(values)]
        return await self._set_values(request, keys, values[: len(keys)])

    async def _path_builder(self, request: web.Request) -> web.Response:
        return pretty_if_any(self._stack(request).version.get("mipmapPathBuilder"))

    async def _put_path_builder(self, request: web.Request) -> web.Response:
        return await self._set_values(request, _PATH_BUILDER, [specs.read_path_builder(await json_body(request))])

    async def _cycle(self, request: web.Request) -> web.Response:
        version = self._stack(request).version
        cycle = store.without_nulls({"number": version.get(_CYCLE[0]), "stepNumber": version.get(_CYCLE[1])})
        return pretty_if_any(cycle or None)

    async def _put_cycle(self, request: web.Request) -> web.Response:
        cycle = specs.read_cycle(await json_body(request), "StackCycle")
        return await self._set_values(request, _CYCLE, [cycle.get("number"), cycle.get("stepNumber")])

    async def _channel(self, request: web.Request) -> web.Response:
        return text_if_any(self._stack(request).version.get("defaultChannel"))

    async def _put_channel(self, request: web.Request) -> web.Response:
        return await self._set_values(request, _CHANNEL, [specs.text(await json_body(request), "defaultChannel")])

    async def _box_root(self, request: web.Request) -> web.Response:
        return text_if_any(self._stack(request).version.get("materializedBoxRootPath"))

    async def _put_box_root(self, request: web.Request) -> web.Response:
        if request.content_type != "text/plain":
            raise unrouted(415)
        return await self._set_values(request, _BOX_ROOT, [await request.text()])

    # -- writing tiles -------------------------------------------------------------------------------------------------

    async def _put_tiles(self, request: web.Request) -> web.Response:
        z = layer_of(request) if "z" in request.match_info else None
        body = await json_body(request)
        if body is None:
            raise Refusal(400, "no resolved tiles provided")
        tiles, transforms = specs.read_resolved(body)
        stack = self._stack(request)
        store.require_loading_for_upload(stack)
        store.check_upload(tiles, transforms, z, derive=flag(request, "deriveData"))
        await asyncio.sleep(slowness_s.get())
        store.save_upload(stack, tiles, transforms)
        return created(request)

    async def _move_tiles(self, request: web.Request) -> web.Response:
        z, ids = layer_of(request), specs.read_ids(await json_body(request), "List")
        stack = self._stack(request)
        store.move_tiles(stack, [stack.tiles[tile_id] for tile_id in ids if tile_id in stack.tiles], z)
        return created(request)

    async def _move_section(self, request: web.Request) -> web.Response:
        z = specs.number(await json_body(request), "z")
        stack = self._stack(request)
        store.move_tiles(stack, store.tiles_of_section(stack, request.match_info["section"]), z)
        return created(request)

    async def _delete_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        return await self._delete(request, lambda stack: store.tiles_at(stack, z))

    async def _delete_section(self, request: web.Request) -> web.Response:
        section = request.match_info["section"]
        return await self._delete(request, lambda stack: store.tiles_of_section(stack, section))

    async def _delete_tile(self, request: web.Request) -> web.Response:
        tile_id = request.match_info["tile"]
        return await self._delete(request, lambda stack: [stack.tiles[tile_id]] if tile_id in stack.tiles else [])

    async def _delete(self, request: web.Request, doomed: Callable[[Stack], list[Json]]) -> web.Response:
        stack = self._stack(request)
        store.require_loading_for_deletion(stack)
        await asyncio.sleep(slowness_s.get())
        store.delete_tiles(stack, doomed(stack))
        return web.Response()

    # -- reading tiles -------------------------------------------------------------------------------------------------

    async def _resolved_of_stack(self, request: web.Request) -> web.Response:
        is_wanted, box = z_range(request), box_of(request)
        stack = self._stack(request)
        group = request.query.get("groupId")
        tiles = store.by_id(
            tile
            for tile in stack.tiles.values()
            if is_wanted(tile.get("z")) and group in (None, tile.get("groupId")) and touches(tile, box)
        )
        if not tiles:
            raise Refusal(404, f"no matching tiles found in stack {stack.key.stack}")
        return compact(store.resolved(stack, tiles))

    def _layer(self, request: web.Request) -> tuple[Stack, float, list[Json]]:
        """A layer that has tiles. Raises Refusal, 400, for one without."""
        z = layer_of(request)
        stack = self._stack(request)
        tiles = store.tiles_at(stack, z)
        if not tiles:
            raise Refusal(400, f"stack {stack.key.stack} does not contain any tiles with a z value of {z}")
        return stack, z, tiles

    async def _resolved_of_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        stack = self._stack(request)
        tiles = store.tiles_at(stack, z)
        if not tiles:
            raise Refusal(404, f"no tile specifications found in {stack.key} for z={z}")
        return compact(store.resolved(stack, tiles))

    async def _flattened_of_layer(self, request: web.Request) -> web.Response:
        stack, _, tiles = self._layer(request)
        return compact(store.with_flattened_transforms(stack, tiles))

    async def _flattened_with_ids(self, request: web.Request) -> web.Response:
        ids = specs.read_ids(await json_body(request), "List")
        stack = self._store.find(stack_key(request))
        tiles = [] if stack is None else [stack.tiles[tile_id] for tile_id in ids if tile_id in stack.tiles]
        return compact([] if stack is None else store.with_flattened_transforms(stack, tiles))

    async def _bounds_in_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        stack = self._stack(request)
        store.require_tile_collection(stack)
        return compact([store.tile_bounds(tile) for tile in store.tiles_at(stack, z)])

    async def _bounds_in_section(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        store.require_tile_collection(stack)
        tiles = store.tiles_of_section(stack, request.match_info["section"])
        return compact([store.tile_bounds(tile) for tile in tiles])

    async def _section_data_of_layer(self, request: web.Request) -> web.Response:
        z = layer_of(request)
        return compact(store.section_data(store.tiles_at(self._stack(request), z)))

    async def _bounds_of_layer(self, request: web.Request) -> web.Response:
        _, z, tiles = self._layer(request)
        return pretty({**store.bounds_of(tiles), "minZ": z, "maxZ": z})

    async def _tile_count(self, request: web.Request) -> web.Response:
        z, box = layer_of(request), _sides(request)
        return compact(sum(touches(tile, box) for tile in store.tiles_at(self._stack(request), z)))

    async def _tile_ids(self, request: web.Request) -> web.Response:
        is_wanted = z_range(request)
        pattern = re.compile(request.query.get("matchPattern", ""))
        stack = self._store.find(stack_key(request))
        tiles = () if stack is None else stack.tiles.items()
        return compact(sorted(i for i, tile in tiles if i and pattern.search(i) and is_wanted(tile.get("z"))))

    async def _z_of_section(self, request: web.Request) -> web.Response:
        section = request.match_info["section"]
        tiles = store.tiles_of_section(self._stack(request), section)
        if not tiles:
            raise Refusal(404, f"section {section} does not exist")
        return compact(tiles[0].get("z"))

    async def _tile(self, request: web.Request) -> web.Response:
        return pretty(store.tile_of(self._stack(request), request.match_info["tile"]))

    async def _transform(self, request: web.Request) -> web.Response:
        return pretty(store.transform_of(self._stack(request), request.match_info["transform"]))

    async def _validation_info(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        tile = store.tile_of(stack, request.match_info["tile"])
        await asyncio.to_thread(require_files, tile)
        specs.derive_bounds(dict(tile), stack.transforms)
        return web.Response()

    async def _render_parameters(self, request: web.Request) -> web.Response:
        stack = self._stack(request)
        tile = store.tile_of(stack, request.match_info["tile"])
        return pretty(specs.render_parameters(store.with_flattened_transforms(stack, [tile])[0]))

    async def _raw_parameters(self, request: web.Request) -> web.Response:
        tile = store.tile_of(self._stack(request), request.match_info["tile"])
        key = "imageUrl" if request.match_info["what"] == "source" else "maskUrl"
        return pretty(raw_parameters(tile, key, java_double(request.match_info["scale"])))

    async def _painted(self, request: web.Request) -> web.Response:
        parameters = specs.object_of(await json_body(request), "RenderParameters")
        body = await asyncio.to_thread(painted, parameters, self._images)
        return web.Response(body=body, content_type="image/png")

    async def _tile_image(self, request: web.Request) -> web.Response:
        return await self._unrendered([store.tile_of(self._stack(request), request.match_info["tile"])])

    async def _box_image(self, request: web.Request) -> web.Response:
        box = _sides(request)
        return await self._unrendered(
            [tile for tile in store.tiles_at(self._stack(request), layer_of(request)) if touches(tile, box)]
        )

    async def _unrendered(self, tiles: Iterable[Json]) -> web.Response:
        """What render-ws looks at before it renders tiles. The stand-in renders none."""
        for tile in tiles:
            await asyncio.to_thread(require_files, tile)
        return web.Response(status=501, text="the stand-in serves raw images and masks, and renders no tiles")

    async def _image(self, request: web.Request) -> web.Response:
        window = Window(
            scale=java_double(request.query.get("scale", "1")),
            low=java_double(request.query.get("minIntensity", "0")),
            high=java_double(request.query.get("maxIntensity", "255")),
        )
        stack = self._stack(request)
        tile = store.tile_of(stack, request.match_info["tile"])
        key = "imageUrl" if request.match_info["what"] == "source" else "maskUrl"
        image = await asyncio.to_thread(self._images.grey, lowest_level(tile, key))
        size = int(tile.get("height", image.shape[0])), int(tile.get("width", image.shape[1]))
        body, media_type = await asyncio.to_thread(rendered, image, size, request.match_info["format"], window)
        # As in render-ws the tag is the stack's time of change, which no write of a tile changes.
        headers = {"Cache-Control": "max-age=3600", "ETag": f'"{stack.modified}"'}
        return web.Response(body=body, content_type=media_type, headers=headers)


def _sides(request: web.Request) -> dict[str, float | None]:
    """The sides of the box that the path names as x, y, width and height."""
    x, y, width, height = (java_double(part) for part in request.match_info["box"].split(","))
    return {"minX": x, "minY": y, "maxX": x + width, "maxY": y + height}


_RESOLUTION = ("stackResolutionX", "stackResolutionY", "stackResolutionZ")
_PATH_BUILDER = ("mipmapPathBuilder",)
_CYCLE = ("cycleNumber", "cycleStepNumber")
_CHANNEL = ("defaultChannel",)
_BOX_ROOT = ("materializedBoxRootPath",)


# -- serving -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serve_standin(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    derive_s: float = 0.0,
    faults: Iterable[Fault] = (),
    state: Path | None = None,
) -> AsyncIterator[str]:
    """Serve a stand-in for as long as the context lasts.

    Parameters
    ----------
    port : 0 for any free one.
    derive_s : how long COMPLETE takes to derive.
    faults : misbehaviour from the start.
    state : file that keeps the stacks from one run to the next.

    Yields
    ------
    str
        Its base URL, as in http://127.0.0.1:8080/render-ws/v1.
    """
    application = StandIn(derive_s, faults, state).application()
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}{BASE}"
    finally:
        await runner.cleanup()


async def run_standin(host: str, port: int, *, derive_s: float = 0.0, state: Path | None = None) -> None:
    """Serve a stand-in until SIGTERM or SIGINT, and print its URL when it is ready."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve_standin(host, port, derive_s=derive_s, state=state) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> None:
    """The command line of `python -m daemon.simulator.standin`."""
    parser = argparse.ArgumentParser(description="A stand-in for render-ws, in memory.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=8080, type=int, help="0 for any free one")
    parser.add_argument("--derive-s", default=0.0, type=float, help="how long COMPLETE takes, seconds")
    parser.add_argument("--state", type=Path, help="file that keeps the stacks from one run to the next")
    given = parser.parse_args()
    asyncio.run(run_standin(given.host, given.port, derive_s=given.derive_s, state=given.state))


if __name__ == "__main__":
    main()
