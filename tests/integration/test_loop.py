"""No turn of the event loop is longer than 50 ms, however large the section, the backlog or the list."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from daemon.config.load import load_settings
from daemon.journal.file import connect
from daemon.journal.journal import Journal
from daemon.pipeline.assembly import open_assembly
from daemon.pipeline.metrics import Metrics
from daemon.system.garbage_collector import no_full_passes
from daemon.web.routes import make_app
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.apply_mipmaps import apply_mipmaps
from handlers.generate_tilespecs import ingest_tiles
from handlers.mipmaps.plan import Level0, MipmapPlan, level_uris
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.names import StackId
from handlers.render.opening import ensure_loading
from tests.acceptance.rig import Standins
from tests.loop_watch import MAX_TURN_S, watching_the_loop
from tests.ready_facts import READY
from tests.settings_text import UNREACHABLE, settings_text
from tests.unit.sections import header, tile

TILES = 20_000
MONTAGES = 100_000
STACK = StackId("em", "v1", "raw")
ROW = (
    "INSERT INTO montages (id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, z, raw_stack,"
    " mipmapped_stack, tile_count, noticed_at, changed_at) VALUES"
    " (?, 'w', ?, ?, 1, 1, 1, ?, 'settled', ?, 'em/v1/raw', 'em/v1/mips', 4, 1.7e9, 1.7e9)"
)


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[str]:
    """The URL of a stand-in in a process of its own."""
    standins = Standins(tmp_path)
    try:
        yield standins.take()[1]
    finally:
        standins.close()


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    """A journal with many montages that wait to be ingested."""
    path = tmp_path / "journal.sqlite"
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")
        connection.executemany(ROW, (_row(number) for number in range(MONTAGES)))
        connection.execute("COMMIT")
    return path


def _row(number: int) -> tuple[object, ...]:
    name = f"_metadata_2024{number:010d}_s_{number:06d}_0_.json"
    return number + 1, f"file:///data/{number:06d}/0/{name}", f"{number:064x}", name, float(number)


def spec(number: int) -> dict[str, Any]:
    return {
        "tileId": f"t{number}.1050.0",
        "z": 1050.0,
        "width": 3840,
        "height": 3840,
        "minIntensity": 0,
        "maxIntensity": 255,
        "layout": {"sectionId": "1050.0", "imageRow": number // 200, "imageCol": number % 200, "rotation": 180.0},
        "mipmapLevels": {"0": {"imageUrl": f"file:///data/001050/0/20170829130146{number:06}_s_001050_0_1_2.tif"}},
        "transforms": {
            "type": "list",
            "specList": [
                {
                    "type": "leaf",
                    "className": "mpicbg.trakem2.transform.AffineModel2D",
                    "dataString": f"1 0 0 1 {number} 5678",
                }
            ],
        },
    }


async def longest_turn_s(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest turn during the work, with the garbage collector set as in the daemon; the least of three.

    Other processes on the same core increase the CPU time of the same work.
    """
    longest = []
    for _ in range(3):
        with no_full_passes(), watching_the_loop() as watch:
            await work()
        assert watch.turns > 10
        longest.append(watch.longest_s)
        if watch.longest_s < MAX_TURN_S:
            break
    return min(longest)


@pytest.mark.slow
async def test_a_section_of_20_000_tiles_is_ingested_and_applied_in_short_turns(standin):
    specs = [spec(number) for number in range(TILES)]
    plan = MipmapPlan(Path("/data/mipmaps"))
    images = [(each["tileId"], Path(each["mipmapLevels"]["0"]["imageUrl"].removeprefix("file://"))) for each in specs]
    levels = {name: level_uris(Level0(name, image, None, 3840, 3840, 255), plan) for name, image in images}
    async with RenderClient(standin) as client:

        async def work() -> None:
            await ensure_loading(client, STACK, (4.0, 4.0, 45.0))
            ingested = await ingest_tiles(client, STACK, 1050.0, specs)
            applied = await apply_mipmaps(client, STACK, STACK, 1050.0, levels)
            await close_stack(client, STACK, [1050.0])
            assert (ingested.tile_count, applied.tile_count, applied.level_count) == (TILES, TILES, 6 * TILES)

        assert await longest_turn_s(work) < MAX_TURN_S


async def test_a_metafile_of_20_000_tiles_is_parsed_in_short_turns():
    places = [(column, row) for row in range(100) for column in range(TILES // 100)]
    rows = [tile(places[:1], index, *place) for index, place in enumerate(places)]
    content = json.dumps([{"metadata": header()}, {"data": rows}]).encode()

    async def parse() -> None:
        found = await asyncio.to_thread(parse_metafile, content, "metafile")
        assert len(found.tiles) == TILES

    assert await longest_turn_s(parse) < MAX_TURN_S


@pytest.mark.slow
async def test_a_backlog_of_100_000_montages_waits_for_render_ws_in_short_turns(tmp_path, journal_path):
    config = tmp_path / "config.toml"
    (tmp_path / "acquisition").mkdir()
    watch = settings_text(tmp_path / "acquisition", tmp_path / "mips", url=UNREACHABLE, name="w")
    stacks = '[watch.stacks]\nraw = "raw"\nmipmapped = "mips"\n'
    config.write_text(f'{watch}{stacks}[journal]\npath = "{journal_path}"\n[workers]\ncount = 1\n')
    settings = load_settings(config)
    async with open_assembly(lambda: settings, is_observable=lambda _: True) as assembly, running(assembly) as tasks:

        async def wait() -> None:
            await assembly.pipeline.resume()
            async with asyncio.timeout(60):
                while assembly.gate.is_open:  # noqa: ASYNC110  polled from outside
                    await asyncio.sleep(0.01)
            await asyncio.sleep(3)  # the pipeline checks its backlog every second

        assert await longest_turn_s(wait) < MAX_TURN_S
        assert assembly.pipeline.waiting > MONTAGES - 100
        assert not any(task.done() for task in tasks)


@contextlib.asynccontextmanager
async def running(assembly: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(part.run()) for part in (assembly.pipeline, assembly.gate, assembly.keeper)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.slow
async def test_10_000_of_100_000_montages_are_listed_in_short_turns(journal_path):
    async def facts() -> Any:
        return READY

    async with Journal(journal_path) as journal:
        server = TestServer(make_app(journal, Metrics(), facts))
        async with TestClient(server) as client:

            async def read() -> None:
                for path in ("/api/montages?limit=10000", "/metrics", "/readyz"):
                    async with client.get(path) as answer:
                        assert answer.status == 200
                        await answer.read()

            assert await longest_turn_s(read) < MAX_TURN_S
