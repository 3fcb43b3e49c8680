"""Control of a stand-in render-ws in tests: set faults, list requests, hold work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import pytest
from yarl import URL

from daemon.simulator.standin.server import serve_standin
from handlers.render.client import RenderClient
from handlers.render.http.time_limits import Polling, TimeLimits
from handlers.render.names import StackId

RAW = StackId("em", "v1", "raw")
MIPS = StackId("em", "v1", "mips")
RESOLUTION_NM = (3.9, 4.1, 45.0)


@dataclass(frozen=True, slots=True)
class Standin:
    """A running stand-in."""

    url: str
    http: aiohttp.ClientSession

    async def set_fault(self, match: str, kind: str, **more: object) -> None:
        """Apply a fault to requests whose "METHOD path" matches the regular expression."""
        url = URL(self.url).with_path("/faults")
        async with self.http.post(url, json={"match": match, "kind": kind, **more}) as answer:
            assert answer.status < 300, await answer.text()

    async def clear_faults(self) -> None:
        """Remove all faults."""
        async with self.http.delete(URL(self.url).with_path("/faults")) as answer:
            assert answer.status < 300

    async def requests(self, method: str = "", part: str = "") -> list[str]:
        """Return the requests so far, as "METHOD path status"."""
        async with self.http.get(URL(self.url).with_path("/requests")) as answer:
            log = await answer.json()
        lines = [f"{entry['method']} {entry['path']} {entry['status']}" for entry in log]
        return [line for line in lines if line.startswith(method) and part in line]

    async def send(self, method: str, path: str, body: object = None) -> Any:
        """Send a request as another client."""
        async with self.http.request(method, self.url + path, json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json(content_type=None) if answer.content_length else None


class Hold:
    """Holds the work of requests in a module of the stand-in, where it would sleep, until the test releases it.

    Parameters
    ----------
    module : `stack_routes` holds derivations, `tile_routes` the uploads of a fault "slow".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.begun = asyncio.Event()
        self._released = asyncio.Event()
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": self._sleep}))

    async def _sleep(self, seconds: float) -> None:
        if seconds:
            self.begun.set()
            await self._released.wait()

    def release(self) -> None:
        """Let the held work continue, and hold no work any more."""
        self._released.set()


@contextlib.asynccontextmanager
async def standin(derive_s: float = 0.0) -> AsyncIterator[Standin]:
    """Run a stand-in whose derivation for COMPLETE takes `derive_s` seconds."""
    async with serve_standin(derive_s=derive_s) as url, aiohttp.ClientSession() as http:
        yield Standin(url, http)


def client_of(url: str, **more: Any) -> RenderClient:
    """Return a client that polls COMPLETE soon, and waits for other answers as long as a busy machine needs."""
    limits = TimeLimits(connect_s=20, silence_s=30, request_s=40, complete_s=0.3, ping_s=2)
    polling = Polling(first_s=0.02, max_s=0.1, lost_s=1.0)
    return RenderClient(url, time_limits=more.pop("time_limits", limits), polling=polling, first_wait_s=0.01, **more)


def tile_spec(
    tile_id: str, z: float = 1050.0, *, x: int = 0, refs: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """Return a tile spec as the ingest step puts it, with level 0 at /raw/<tile id>.tif."""
    affine = {"type": "leaf", "className": "mpicbg.trakem2.transform.AffineModel2D", "dataString": f"1 0 0 1 {x} 0"}
    return {
        "tileId": tile_id,
        "z": z,
        "width": 100,
        "height": 80,
        "minIntensity": 0,
        "maxIntensity": 255,
        "layout": {"sectionId": f"{z}", "imageRow": 0, "imageCol": 0},
        "mipmapLevels": {"0": {"imageUrl": f"file:///raw/{tile_id}.tif"}},
        "transforms": {"type": "list", "specList": [*({"type": "ref", "refId": name} for name in refs), affine]},
        **more,
    }


def lens(name: str = "lens") -> dict[str, Any]:
    """Return a shared transform that is the identity."""
    return {
        "type": "leaf",
        "id": name,
        "className": "mpicbg.trakem2.transform.AffineModel2D",
        "dataString": "1 0 0 1 0 0",
        "metaData": {"labels": ["lens"]},
    }
