"""A montage that fails quality control is reported, or held until a person passes it, even over restarts."""

import asyncio
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from daemon.config.settings import HttpSettings
from daemon.montages.states import MontageState
from daemon.montages.verdicts import WAITS_FOR_PERSON
from daemon.pipeline.health import Facts
from daemon.simulator.standin.server import serve_standin
from daemon.web.posts import Posts
from daemon.web.routes import make_app
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import StackState
from tests.integration.inprocess import MIPS, Bench, bench

HOLD = {"hold": True}
APPLIED, COMPLETE = MontageState.APPLIED, MontageState.COMPLETE


def blur_a_tile(metafile: Path) -> None:
    """Give a tile a focus score below the limit."""
    document = json.loads(metafile.read_bytes())
    document[1]["data"][0]["focus_score"] = 3.0
    metafile.write_text(json.dumps(document))


async def held_in(running: Bench, metafile: Path) -> int:
    """Wait until a montage is APPLIED and waits for a person; return its id."""
    montage = await running.reaches(metafile, APPLIED, COMPLETE)
    async with asyncio.timeout(60):
        while (now := await running.montage(metafile)) is None or now.waiting_for != WAITS_FOR_PERSON:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (now.state, now.verdict) == (APPLIED, "fail")
    return montage.id


async def stays_open(running: Bench, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the output stack is not closed when the keeper has examined it twice."""
    keeper, examinations = running.assembly.keeper, list[object]()
    real = keeper._begin_due

    def begin_due(held: Collection[StackId]) -> list[StackId]:
        examinations.append(held)
        return real(held)

    with monkeypatch.context() as counted:
        counted.setattr(keeper, "_begin_due", begin_due)
        await running.until(lambda: len(examinations) >= 2)
    meta = await running.assembly.client.stack(MIPS)
    return meta is None or (meta.state is not StackState.COMPLETE and not keeper._is_closing(MIPS))


async def test_without_hold_a_montage_that_fails_is_reported_and_becomes_complete(tmp_path: Path) -> None:
    async with bench(tmp_path) as running:
        metafile = running.write()
        blur_a_tile(metafile)
        await running.notice(metafile)
        montage = await running.reaches(metafile, COMPLETE)
        assert montage.verdict == "fail"
        (line,) = [line for line in running.log_lines if line["event"] == "montage.qc"]
        assert (line["verdict"], line["rules"], line["tile_count"]) == ("fail", ["min_focus"], 1)
        verdict = await running.assembly.journal.verdict(montage.id)
        assert verdict is not None
        assert verdict.judgement is not None
        assert len(verdict.judgement.tiles) == 1


async def test_with_hold_a_good_montage_passes_and_its_stack_is_closed(tmp_path: Path) -> None:
    async with bench(tmp_path, qc=HOLD) as running:
        metafile = running.write()
        await running.notice(metafile)
        assert (await running.reaches(metafile, COMPLETE)).verdict == "pass"


@pytest.mark.parametrize("limits", [{"min_focus": "off"}, {"min_focus": 2.0}])
async def test_a_rule_that_is_off_or_not_broken_holds_no_montage(tmp_path: Path, limits: dict[str, Any]) -> None:
    async with bench(tmp_path, qc={**HOLD, **limits}) as running:
        metafile = running.write()
        blur_a_tile(metafile)
        await running.notice(metafile)
        assert (await running.reaches(metafile, COMPLETE)).verdict == "pass"


@pytest.mark.slow
async def test_hold_keeps_the_stack_open_until_a_person_passes_the_montage_even_over_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_standin() as url, RenderClient(url) as client:
        async with bench(tmp_path, client, qc=HOLD) as running:
            metafile = running.write()
            blur_a_tile(metafile)
            await running.notice(metafile)
            await held_in(running, metafile)
            assert await stays_open(running, monkeypatch)
        async with bench(tmp_path, client, qc=HOLD) as running:
            montage_id = await held_in(running, metafile)
            assert await stays_open(running, monkeypatch)
            assert await running.assembly.journal.oldest_unfinished_s() is None  # no backlog
            async with http_client(running) as http:
                again = {"verdict": "re-image", "by": "grace"}
                assert (await http.post(f"/api/montages/{montage_id}/verdict", json=again)).status == 200
                assert await stays_open(running, monkeypatch)
                body = {"verdict": "pass", "by": "ada", "note": "resin"}
                answer = await http.post(f"/api/montages/{montage_id}/verdict", json=body)
                assert answer.status == 200
                shown = await answer.json()
                assert (shown["verdict"], shown["computed"], shown["override"]["note"]) == ("pass", "fail", "resin")
            passed = await running.reaches(metafile, COMPLETE)
            assert (passed.verdict, passed.waiting_for) == ("pass", None)
            meta = await client.stack(MIPS)
            assert meta is not None
            assert meta.state is StackState.COMPLETE


async def test_other_montages_of_a_held_stack_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path, qc=HOLD) as running:
        bad, good = running.write(1050), running.write(1051)
        blur_a_tile(bad)
        await running.notice(bad)
        montage_id = await held_in(running, bad)
        await running.notice(good)
        assert (await running.reaches(good, APPLIED, COMPLETE)).state is APPLIED
        assert await stays_open(running, monkeypatch)
        passed = await running.assembly.journal.decide(montage_id, "pass", "ada", "")  # type: ignore[arg-type]
        assert passed is not None
        await running.assembly.pipeline.decided(passed)
        await running.reaches(good, COMPLETE)
        await running.reaches(bad, COMPLETE)


async def test_a_watch_that_closes_no_stacks_holds_the_montage(tmp_path: Path) -> None:
    async with bench(tmp_path, qc=HOLD, close=False) as running:
        metafile = running.write()
        blur_a_tile(metafile)
        await running.notice(metafile)
        montage_id = await held_in(running, metafile)
        async with http_client(running) as http:
            body = {"verdict": "pass", "by": "ada"}
            assert (await http.post(f"/api/montages/{montage_id}/verdict", json=body)).status == 200
        await running.reaches(metafile, COMPLETE)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"verdict": "good", "by": "ada"}, 400, "verdict"),
        ({"verdict": "pass"}, 400, "by"),
        ({"verdict": "pass", "by": "  "}, 400, "by"),
        ({"verdict": "pass", "by": "ada", "note": "x" * 501}, 400, "note"),
        ({"verdict": "pass", "by": "ada", "when": "now"}, 400, "when"),
    ],
)
async def test_an_invalid_decision_is_refused_with_the_field(
    tmp_path: Path, body: dict[str, str], status: int, field: str
) -> None:
    async with bench(tmp_path) as running, http_client(running) as http:
        answer = await http.post("/api/montages/1/verdict", json=body)
        assert answer.status == status
        assert field in (await answer.json())["error"]
        assert (await http.post("/api/montages/1/verdict", json={"verdict": "pass", "by": "ada"})).status == 404
        assert (await http.post("/api/montages/x/verdict", json={"verdict": "pass", "by": "ada"})).status == 404


def http_client(running: Bench) -> "TestClient[Any, Any]":
    """Return a client of the daemon's routes."""

    async def facts() -> Facts:
        return Facts((), (), None, None, None, 7200.0)

    posts = Posts(HttpSettings(), None, running.assembly.journal, running.assembly.pipeline.decided)  # type: ignore[arg-type]
    return TestClient(TestServer(make_app(running.assembly.journal, running.assembly.metrics, facts, posts)))
