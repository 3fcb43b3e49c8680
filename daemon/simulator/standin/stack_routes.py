"""The routes of stacks: versions, states, names and values such as resolution and path builder."""

import asyncio
import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from daemon.simulator.standin import json_types, stack_state, store, tile_rules
from daemon.simulator.standin.faults import slowness_s
from daemon.simulator.standin.http import (
    STACK,
    Answering,
    Route,
    compact,
    created,
    flag,
    java_double,
    json_body,
    pretty,
    pretty_if_any,
    stack_key,
    text_if_any,
    unrouted,
    z_range,
)
from daemon.simulator.standin.json_types import Json, Refusal
from daemon.simulator.standin.store import Stack, StackKey, State, Store

_RESOLUTION = ("stackResolutionX", "stackResolutionY", "stackResolutionZ")
_PATH_BUILDER = ("mipmapPathBuilder",)
_CYCLE = ("cycleNumber", "cycleStepNumber")
_CHANNEL = ("defaultChannel",)
_BOX_ROOT = ("materializedBoxRootPath",)


class StackRoutes:
    """Handlers of the requests about stacks.

    Parameters
    ----------
    store : the stacks.
    derive_s : duration of COMPLETE, seconds. The stack is LOADING meanwhile, and later tiles are not counted.
    """

    def __init__(self, store: Store, derive_s: float) -> None:
        self._store = store
        self._derive_s = derive_s

    def routes(self) -> list[Route]:
        """Return the routes of this part."""
        return [
            ("POST", STACK, self._save_version),
            ("GET", STACK, self._show_stack),
            ("DELETE", STACK, self._delete_stack),
            ("PUT", STACK + "/state/{state}", self._set_state),
            ("PUT", STACK + "/stackId", self._rename),
            ("PUT", STACK + "/cloneTo/{target}", self._clone),
            ("GET", STACK + "/bounds", self._stack_bounds),
            ("GET", STACK + "/zValues", self._z_values),
            ("GET", STACK + "/sectionData", self._section_data),
            ("GET", STACK + "/mergedZValues", self._merged_z_values),
            *self._value_routes("resolutionValues", self._resolution, self._put_resolution, _RESOLUTION),
            *self._value_routes("mipmapPathBuilder", self._path_builder, self._put_path_builder, _PATH_BUILDER),
            *self._value_routes("cycle", self._cycle, self._put_cycle, _CYCLE),
            *self._value_routes("defaultChannel", self._channel, self._put_channel, _CHANNEL),
            *self._value_routes("materializedBoxRootPath", self._box_root, self._put_box_root, _BOX_ROOT),
        ]

    def _stack(self, request: web.Request) -> Stack:
        return self._store.stack(stack_key(request))

    async def _save_version(self, request: web.Request) -> web.Response:
        body = await json_body(request)
        version = None if body is None else json_types.read_version(body, "StackVersion")
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
        if stack_state.set_state(stack, State(name)):
            derived = stack_state.begin_derivation(stack)
            await asyncio.sleep(max(self._derive_s, slowness_s.get()))
            stack_state.finish_derivation(stack, derived)
        return created(request)

    async def _rename(self, request: web.Request) -> web.Response:
        target = json_types.read_stack_id(await json_body(request), "StackId")
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
        version = json_types.read_version(body, "StackVersion")
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
        """Return the section data of the last derivation in the query's range of z. Raises Refusal without one."""
        is_wanted = z_range(request)
        stack = self._stack(request)
        if stack.section_data is None:
            raise Refusal(
                400,
                f"section data not aggregated for {stack.key}, "
                "set stack state to COMPLETE to generate the aggregate collection",
            )
        return [row for row in stack.section_data if is_wanted(row["z"])]

    async def _set_values(self, request: web.Request, keys: tuple[str, ...], values: Iterable[Any]) -> web.Response:
        """Change values of the current version, but not its time stamp. Raises Refusal for a READ_ONLY stack."""
        stack = self._stack(request)
        store.require_modifiable(stack)
        changed = {**stack.version, **dict(zip(keys, values, strict=True))}
        stack.version = tile_rules.without_nulls(changed)
        return web.Response()

    async def _forget(self, keys: tuple[str, ...], request: web.Request) -> web.Response:
        return await self._set_values(request, keys, [None] * len(keys))

    async def _resolution(self, request: web.Request) -> web.Response:
        version = self._stack(request).version
        return compact([version.get(key) for key in _RESOLUTION])

    async def _put_resolution(self, request: web.Request) -> web.Response:
        values = json_types.read_numbers(await json_body(request), "List")
        keys = _RESOLUTION[: len(values)]
        return await self._set_values(request, keys, values[: len(keys)])

    async def _path_builder(self, request: web.Request) -> web.Response:
        return pretty_if_any(self._stack(request).version.get("mipmapPathBuilder"))

    async def _put_path_builder(self, request: web.Request) -> web.Response:
        return await self._set_values(request, _PATH_BUILDER, [json_types.read_path_builder(await json_body(request))])

    async def _cycle(self, request: web.Request) -> web.Response:
        version = self._stack(request).version
        cycle = tile_rules.without_nulls({"number": version.get(_CYCLE[0]), "stepNumber": version.get(_CYCLE[1])})
        return pretty_if_any(cycle or None)

    async def _put_cycle(self, request: web.Request) -> web.Response:
        cycle = json_types.read_cycle(await json_body(request), "StackCycle")
        return await self._set_values(request, _CYCLE, [cycle.get("number"), cycle.get("stepNumber")])

    async def _channel(self, request: web.Request) -> web.Response:
        return text_if_any(self._stack(request).version.get("defaultChannel"))

    async def _put_channel(self, request: web.Request) -> web.Response:
        return await self._set_values(request, _CHANNEL, [json_types.text(await json_body(request), "defaultChannel")])

    async def _box_root(self, request: web.Request) -> web.Response:
        return text_if_any(self._stack(request).version.get("materializedBoxRootPath"))

    async def _put_box_root(self, request: web.Request) -> web.Response:
        if request.content_type != "text/plain":
            raise unrouted(415)
        return await self._set_values(request, _BOX_ROOT, [await request.text()])

    def _value_routes(self, name: str, get: Answering, put: Answering, keys: tuple[str, ...]) -> list[Route]:
        path = f"{STACK}/{name}"
        delete = functools.partial(self._forget, keys)
        return [("GET", path, get), ("PUT", path, put), ("DELETE", path, delete)]
