"""The contract of render-ws. The stand-in is always tested, a real render-ws if TEMWATCH_CONTRACT_URL is set.

Requests are raw, so that they test the service and not temwatch's client. Every test has its own stacks, which are
deleted at its end.
"""

import contextlib
import io
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from yarl import URL

from daemon.simulator.standin.server import serve_standin

OWNER = "temwatch"
PROJECT = "contract"
REAL_URL = os.environ.get("TEMWATCH_CONTRACT_URL", "").rstrip("/")
SHARED_DIRECTORY = os.environ.get("TEMWATCH_CONTRACT_DIRECTORY", "")
"""A directory that the real render-ws reads under the same path, for tests of images."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, media type without parameters ("" for none), and body of an answer."""

    status: int
    media_type: str
    text: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def outcome(self) -> tuple[int, str]:
        """Status and media type."""
        return self.status, self.media_type


@dataclass(frozen=True, slots=True)
class Service:
    """A render-ws, with a client that sends raw requests."""

    url: str
    http: aiohttp.ClientSession
    is_real: bool

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """Send a request; `body` is sent as JSON, bytes unchanged."""
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        data = None if raw is None else io.BytesIO(raw)
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, data=data, headers=headers, **more) as answer:
            got = await answer.read()
            media_type = answer.content_type if "Content-Type" in answer.headers else ""
            return Answer(answer.status, media_type, got.decode(errors="replace"), got, answer.headers)


@dataclass(frozen=True, slots=True)
class StackUnderTest:
    """A stack that belongs to the test."""

    service: Service
    name: str

    @property
    def path(self) -> str:
        return f"/owner/{OWNER}/project/{PROJECT}/stack/{self.name}"

    async def send(self, method: str, path: str = "", body: Any = None, **more: Any) -> Answer:
        return await self.service.send(method, self.path + path, body, **more)

    async def create(self, **version: Any) -> None:
        answer = await self.send("POST", "", {"createTimestamp": "2024-05-06T07:08:09.123Z", **version})
        assert answer.status == 201, answer

    async def put(self, *specs: dict[str, Any], transforms: tuple[dict[str, Any], ...] = ()) -> None:
        """Put tiles into the stack, with derived bounds."""
        answer = await self.send("PUT", "/resolvedTiles?deriveData=true", upload(*specs, transforms=transforms))
        assert answer.status == 201, answer

    async def state(self, wanted: str) -> Answer:
        return await self.send("PUT", f"/state/{wanted}")

    async def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = (await self.send("GET")).json
        return meta

    async def tile_ids(self, z: float = 1.0) -> list[str]:
        return sorted(tile["tileId"] for tile in (await self.send("GET", f"/z/{z}/tileBounds")).json)

    async def remove(self) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            await self.state("COMPLETE")
            await self.send("DELETE")


async def _send_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Keep aiohttp from repeating a PUT when its connection breaks."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def session() -> aiohttp.ClientSession:
    """A client that sends every request exactly once."""
    return aiohttp.ClientSession(middlewares=(_send_once,))


def upload(*specs: dict[str, Any], transforms: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Return the body of a PUT of resolved tiles."""
    return {
        "transformIdToSpecMap": {spec["id"]: spec for spec in transforms},
        "tileIdToSpecMap": {str(spec.get("tileId")): spec for spec in specs},
    }


def affine(*numbers: float, **more: Any) -> dict[str, Any]:
    """A leaf transform of six numbers: m00 m10 m01 m11 tx ty."""
    return {
        "type": "leaf",
        "className": "mpicbg.trakem2.transform.AffineModel2D",
        "dataString": " ".join(map(str, numbers)),
        **more,
    }


def ref(name: str) -> dict[str, Any]:
    return {"type": "ref", "refId": name}


def tile(tile_id: str, *transforms: dict[str, Any], z: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A tile of 100 x 80 pixels; without transforms at the origin."""
    spec = {
        "tileId": tile_id,
        "z": z,
        "width": 100,
        "height": 80,
        "layout": {"sectionId": f"{z}"},
        "mipmapLevels": {"0": {"imageUrl": f"file:///raw/{tile_id}.tif"}},
        "transforms": {"type": "list", "specList": list(transforms)},
        **more,
    }
    return {key: value for key, value in spec.items() if value is not None}


def _services() -> Iterator[Any]:
    yield "stand-in"
    if REAL_URL:
        yield "real"


@pytest.fixture(params=_services())
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with contextlib.AsyncExitStack() as resources:
        is_real = request.param == "real"
        url = REAL_URL if is_real else await resources.enter_async_context(serve_standin())
        http = await resources.enter_async_context(session())
        yield Service(url, http, is_real)


async def _missing_stack(service: Service) -> AsyncIterator[StackUnderTest]:
    """Yield a stack that does not exist yet, with a name that no test has used; delete it afterwards."""
    stack = StackUnderTest(service, f"t{uuid.uuid4().hex}")
    yield stack
    await stack.remove()


absent = pytest.fixture(_missing_stack, name="absent")
other = pytest.fixture(_missing_stack, name="other")


@pytest.fixture
async def stack(absent: StackUnderTest) -> StackUnderTest:
    """A new stack."""
    await absent.create()
    return absent


@pytest.fixture
def shared_directory(service: Service, tmp_path: Path) -> Path:
    """A directory that the service reads under the same path."""
    if not service.is_real:
        return tmp_path
    if not SHARED_DIRECTORY:
        pytest.skip("TEMWATCH_CONTRACT_DIRECTORY names no directory that the real render-ws reads")
    directory = Path(SHARED_DIRECTORY, f"temwatch-contract-{uuid.uuid4().hex}")
    directory.mkdir()
    return directory
