"""The daemon's pages over a real journal, for tests that request them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState
from daemon.pipeline.health import Facts
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.replay.replayer import Replayer
from daemon.web.live_events import LiveEvents
from daemon.web.pages.handlers import Pages
from daemon.web.posts import Posts
from daemon.web.routes import make_app
from handlers.errors import MetafileFault
from handlers.identity import FileIdentity
from tests.ready_facts import READY

HTML = {"Accept": "text/html"}
RAW, MIPS = "em/v1/raw", "em/v1/mips"


class Queue:
    """Records the montages that are enqueued."""

    def __init__(self) -> None:
        self.enqueued: list[int] = []

    async def enqueue(self, montage: Montage, *, force: bool = False) -> None:
        self.enqueued.append(montage.id)


@dataclass
class Paged:
    """A client of the pages, with the facts that they show."""

    journal: Journal
    settings: Settings
    live: LiveEvents
    queue: Queue = field(default_factory=Queue)
    metrics: Metrics = field(default_factory=Metrics)
    facts: Facts = READY
    client: TestClient = field(init=False)

    async def page(self, path: str, status: int = 200, **headers: str) -> str:
        """Return the page that a browser gets."""
        given = HTML | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(path, headers=given, allow_redirects=False) as answer:
            text = await answer.text()
            assert answer.status == status, text
            assert answer.content_type == "text/html"
            return text

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post(path, json=body, headers=given) as answer:
            return answer.status, await answer.json()

    async def noticed(self, number: int, name: str = "", watch: str = "temca2") -> int:
        path = Path(f"/data/temca2/_metadata_{number}_{name}.json")
        identity = FileIdentity(10, number, number, number)
        montage_id = await self.journal.notice(Sighting(watch, path, identity, FoundBy.SCAN))
        assert montage_id is not None
        return montage_id

    async def settled(self, number: int, *, name: str = "", tiles: int = 4, **given: Any) -> int:
        """Return the id of a montage that has settled at z = `number`."""
        montage_id = await self.noticed(number, name)
        ids = tuple(f"tile_{number}_{tile}" for tile in range(tiles))
        found = replace(Settled(f"digest {number}", float(number), RAW, MIPS, ids, (), scope="5", tape="0151"), **given)
        identity = FileIdentity(10, number, number, number)
        await self.journal.settle(Inspection(montage_id, identity, identity, found.digest), found)
        return montage_id

    async def reached(self, number: int, state: MontageState, **given: Any) -> int:
        """Return the id of a montage in a state after SETTLED."""
        montage_id = await self.settled(number, **given)
        for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED):
            montage = await self.journal.montage(montage_id)
            assert montage is not None
            if montage.state is state:
                break
            await self.journal.record(montage_id, event)
        return montage_id

    async def failed(self, number: int, problem: str = "has no data", hint: str = "again", **given: Any) -> int:
        montage_id = await self.settled(number, **given)
        await self.journal.fail(montage_id, MetafileFault(f"/data/m_{number}.json", problem, hint))
        return montage_id


@contextlib.asynccontextmanager
async def paged(
    tmp_path: Path, *, serve_on: int = 0, links: dict[str, str] | None = None, **http: Any
) -> AsyncIterator[Paged]:
    """Serve the pages. `http` are keys of the section [http].

    Parameters
    ----------
    serve_on : port; 0: any free port.
    """
    watch = {
        "name": "temca2",
        "directory": "/data/temca2",
        "z": {"rule": "grid"},
        "mipmaps": {"output_dir": str(tmp_path / "mips")},
    }
    render = {"url": "http://127.0.0.1:9/render-ws/v1", "owner": "em", "project": "v1"}
    settings = Settings(render=render, watch=[watch], http=http, links=links or {})
    async with Journal(tmp_path / "journal.sqlite") as journal:
        served = Paged(journal, settings, LiveEvents(journal))

        async def facts() -> Facts:
            return served.facts

        posts = Posts(settings.http, Replayer(lambda: settings, journal, served.queue), journal)
        pages = Pages(lambda: settings, journal, facts, live=served.live)
        app = make_app(journal, served.metrics, facts, posts, lambda: settings.http, pages=pages, live=served.live)
        async with TestClient(TestServer(app, port=serve_on)) as client:
            served.client = client
            yield served
