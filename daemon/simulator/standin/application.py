"""The stand-in as an aiohttp application: its routes over one store, and the record of its requests.

It is not render-ws: it loses its stacks when it ends, unless it has a state file; it serves raw images and masks but
renders no sections; and it applies only affine transforms. Routes beside /render-ws make it misbehave:

    POST /faults {"match": "^PUT .*resolvedTiles", "kind": "status", "status": 503, "times": 2}
    DELETE /faults
    DELETE /state        reset to the state of a new start: no stacks, no faults, no recorded requests
    GET /requests        the recorded requests: [{"method", "path", "status"}], status null without a response

`match` is searched for in "METHOD path?query"; faults.py lists the kinds.
"""

import asyncio
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from daemon.simulator.standin import json_types
from daemon.simulator.standin.faults import Fault, Misbehaviour, NoAnswer, answer_with_fault, parse_fault
from daemon.simulator.standin.http import OWNER, PROJECT, Route, answer_refusals, compact, json_body, pretty
from daemon.simulator.standin.image_routes import ImageRoutes
from daemon.simulator.standin.images import require_files
from daemon.simulator.standin.json_types import Json
from daemon.simulator.standin.stack_routes import StackRoutes
from daemon.simulator.standin.store import Stack, Store
from daemon.simulator.standin.tile_routes import TileRoutes
from daemon.simulator.standin.transforms import require_references

BASE = "/render-ws/v1"


class StandIn:
    """The stand-in: its routes, its store and its recorded requests.

    Parameters
    ----------
    derive_s : duration of COMPLETE, seconds. The stack is LOADING meanwhile, and later tiles are not counted.
    faults : faults that are active from the start.
    state : file that is read at the start if it exists, and written after each request that may change a stack.
    """

    def __init__(self, derive_s: float = 0.0, faults: Iterable[Fault] = (), state: Path | None = None) -> None:
        self._state = state
        self._store = Store(json.loads(state.read_bytes()) if state is not None and state.exists() else ())
        self._images = ImageRoutes(self._store)
        self._parts = (StackRoutes(self._store, derive_s), TileRoutes(self._store), self._images)
        self._requests: list[Json] = []
        self._misbehaviour = Misbehaviour()
        self._running: set[asyncio.Task[object]] = set()
        for fault in faults:
            self._misbehaviour.add(fault)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        # 0 means no limit: render-ws has none, and the body of 20,000 tiles is larger than 16 MB.
        middlewares = [self._track, self._record_and_misbehave, self._save_state, answer_refusals]
        app = web.Application(middlewares=middlewares, client_max_size=0)
        app.on_cleanup.append(self._end_requests)
        app.router.add_post("/faults", self._add_fault)
        app.router.add_delete("/faults", self._clear_faults)
        app.router.add_delete("/state", self._reset)
        app.router.add_get("/requests", self._list_requests)
        routes = [*self._service_routes(), *(route for part in self._parts for route in part.routes())]
        for method, path, handler in routes:
            for slash in ("", "/"):
                for each in ("GET", "HEAD") if method == "GET" else (method,):
                    app.router.add_route(each, f"{BASE}{path}{slash}", handler)
        return app

    def _service_routes(self) -> list[Route]:
        return [
            ("GET", "/versionInfo", self._version_info),
            ("GET", "/serverProperties", self._server_properties),
            ("GET", "/likelyUniqueId", self._unique_id),
            ("GET", "/owners", self._owners),
            ("GET", OWNER + "/projects", self._projects),
            ("GET", OWNER + "/stacks", self._stacks),
            ("GET", OWNER + "/stackIds", self._stack_ids),
            ("GET", PROJECT + "/stacks", self._stacks),
            ("GET", PROJECT + "/stackIds", self._stack_ids),
            ("PUT", OWNER + "/validate-json/{kind:tile|tile-array|transform|transform-array}", self._validate),
        ]

    # -- recorded requests, and misbehaviour ---------------------------------------------------------------------------

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await handler(request)
        finally:
            self._running.discard(task)

    async def _end_requests(self, _: web.Application) -> None:
        """Cancel running requests: aiohttp forgets those whose client has disconnected, and they would never end."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @web.middleware
    async def _record_and_misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
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
    async def _save_state(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if self._state is not None and request.method != "GET":
            # Blocks the event loop on purpose: no other request may change a stack before this change is in the file.
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

    async def _reset(self, _: web.Request) -> web.Response:
        self._store.clear()
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
                tile = json_types.read_tile(member)
                require_files(tile)
                if kind == "tile":
                    require_references(tile, {})
            else:
                json_types.transform(member, "TransformSpec")
        return web.Response(text=f"{len(members)} valid")
