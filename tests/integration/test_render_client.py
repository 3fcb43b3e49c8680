"""The client of render-ws with a stand-in that has faults on request, and with other servers."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from aiohttp import web
from standin_control import MIPS, RAW, RESOLUTION_NM, Hold, Standin, client_of, lens, standin, tile_spec

from daemon.simulator.standin import stack_routes
from handlers.errors import (
    AnswerLate,
    AnswerLost,
    LoginRefused,
    NotRender,
    RenderBroken,
    RenderRefused,
    RenderUnavailable,
    SectionDataMissing,
    StackLocked,
    StackMissing,
    StackNotLoading,
    StackReopened,
    Waiting,
)
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.http.requests import Limit
from handlers.render.http.time_limits import Polling, TimeLimits
from handlers.render.opening import create_stack, ensure_loading
from handlers.render.responses import PathBuilder, StackState


@pytest.fixture
async def client(service: Standin) -> AsyncIterator[RenderClient]:
    async with client_of(service.url) as client:
        yield client


@contextlib.asynccontextmanager
async def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Run a server that answers every request with this function; yield its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/render-ws/v1"
    finally:
        await runner.cleanup()


# -- logging in ------------------------------------------------------------------------------------------------------


async def test_the_urls_user_and_password_authenticate_and_appear_in_no_fault() -> None:
    async def forbid(request: web.Request) -> web.StreamResponse:
        given.append(request.headers.get("Authorization"))
        return web.Response(status=403, text="not you")

    given: list[str | None] = []
    async with answering(forbid) as url, client_of(url.replace("//", "//em:pw4711@")) as client:
        with pytest.raises(LoginRefused, match=r"check the user in render\.url") as refused:
            await client.ping()
        assert client.base_url == url
    assert given == ["Basic " + base64.b64encode(b"em:pw4711").decode()]
    assert "pw4711" not in str(refused.value)


async def test_the_fault_of_an_unreachable_service_does_not_contain_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client_of(f"http://em:pw4711@127.0.0.1:{unused.getsockname()[1]}/v1") as client:
            with pytest.raises(RenderUnavailable) as away:
                await client.stack(RAW)
    assert "127.0.0.1" in str(away.value)
    assert "pw4711" not in str(away.value)


# -- creating and opening --------------------------------------------------------------------------------------------


async def test_reading_an_absent_stack_gives_none_and_reading_its_tiles_a_fault(client: RenderClient) -> None:
    assert await client.stack(RAW) is None
    with pytest.raises(StackMissing):
        await client.tile_bounds(RAW, 1050.0)
    with pytest.raises(StackMissing):
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")])


async def test_a_stack_is_created_with_its_resolution_and_read_back(service: Standin) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    async with client_of(service.url, now=lambda: moment) as client:
        meta = await create_stack(client, RAW, RESOLUTION_NM)
    assert meta.state is StackState.LOADING
    assert meta.resolution_nm == RESOLUTION_NM
    stored = await service.send("GET", RAW.path)
    assert stored["currentVersion"]["createTimestamp"] == "2024-05-06T07:08:09.123Z"


async def test_an_existing_stack_is_never_created_again(service: Standin, client: RenderClient) -> None:
    await create_stack(client, RAW, RESOLUTION_NM)
    await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    await close_stack(client, RAW)
    meta = await create_stack(client, RAW, (1.0, 1.0, 1.0))
    assert meta.state is StackState.COMPLETE
    assert meta.resolution_nm == RESOLUTION_NM
    assert len(await service.requests("POST")) == 1


async def test_an_existing_stack_without_a_resolution_gets_one(service: Standin, client: RenderClient) -> None:
    await service.send("POST", RAW.path, {})
    meta = await ensure_loading(client, RAW, RESOLUTION_NM)
    assert meta.resolution_nm == RESOLUTION_NM
    assert len(await service.requests("POST")) == 1


async def test_two_clients_that_create_a_stack_at_once_both_find_it_open(service: Standin) -> None:
    async with client_of(service.url) as one, client_of(service.url) as other:
        await service.set_fault(f"^POST .*{RAW.stack}$", "late", seconds=0.2, times=2)
        metas = await asyncio.gather(ensure_loading(one, RAW, RESOLUTION_NM), ensure_loading(other, RAW, RESOLUTION_NM))
    assert {meta.state for meta in metas} == {StackState.LOADING}
    assert {meta.resolution_nm for meta in metas} == {RESOLUTION_NM}


@pytest.mark.parametrize("kind", ["late", "cut"])
async def test_after_a_lost_answer_to_a_creation_the_client_reads_the_stack_and_does_not_create_it_again(
    service: Standin, kind: str
) -> None:
    short_limits = TimeLimits(connect_s=1, silence_s=0.3, request_s=0.3)
    await service.set_fault("^POST ", kind, seconds=0.6, times=1)
    async with client_of(service.url, time_limits=short_limits) as client:
        with contextlib.suppress(RenderUnavailable):
            await create_stack(client, RAW, RESOLUTION_NM)
        assert len(await service.requests("POST")) <= 1
    async with client_of(service.url) as client:
        assert (await create_stack(client, RAW, RESOLUTION_NM)).state is StackState.LOADING


async def test_a_complete_stack_is_reopened(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    closed = await close_stack(client, RAW)
    meta = await ensure_loading(client, RAW, RESOLUTION_NM)
    assert meta.state is StackState.LOADING
    assert meta.current_version_number == closed.meta.current_version_number + 1


@pytest.mark.parametrize("state", [StackState.READ_ONLY, StackState.OFFLINE])
async def test_a_read_only_stack_is_not_closed_again(service: Standin, client: RenderClient, state: StackState) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    await close_stack(client, RAW)
    await service.send("PUT", f"{RAW.path}/state/{state}")
    with pytest.raises(StackLocked, match=state):
        await ensure_loading(client, RAW, RESOLUTION_NM)
    with pytest.raises(StackLocked, match=state):
        await close_stack(client, RAW)
    with pytest.raises(StackLocked, match=state):
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    assert len(await service.requests("PUT", "state/LOADING")) == 0


async def test_the_client_refuses_to_make_a_stack_offline(client: RenderClient) -> None:
    with pytest.raises(RenderRefused):
        await client.set_state(RAW, StackState.OFFLINE)


async def test_a_404_of_another_server_is_reported_as_a_wrong_url(service: Standin) -> None:
    async with client_of(service.url.removesuffix("/v1")) as client:
        with pytest.raises(NotRender, match=r"render\.url"):
            await create_stack(client, RAW, RESOLUTION_NM)
    assert await service.requests("POST") == []


# -- tiles -----------------------------------------------------------------------------------------------------------


async def test_tiles_are_put_in_chunks_and_each_chunk_has_the_shared_transforms(
    service: Standin, client: RenderClient
) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    specs = [tile_spec(f"t{n}", x=100 * n, refs=("lens",)) for n in range(7)]
    count = await client.put_tiles(RAW, 1050.0, specs, {"lens": lens(), "unused": lens("unused")}, max_tiles=3)
    assert count == 3
    assert len(await service.requests("PUT", "/z/1050.0/resolvedTiles")) == 3
    assert {tile.tile_id for tile in await client.tile_bounds(RAW, 1050.0)} == {f"t{n}" for n in range(7)}
    layer = await client.resolved_tiles(RAW, 1050.0)
    assert layer is not None
    assert [layer.tile_id_to_spec_map["t2"][side] for side in ("minX", "maxX")] == [200.0, 300.0]
    assert list(layer.transform_id_to_spec_map) == ["lens"]


async def test_an_upload_bigger_than_a_mebibyte_arrives(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    specs = [tile_spec(f"t{n}", labels=["x" * 1000]) for n in range(1500)]
    assert await client.put_tiles(RAW, 1050.0, specs) == 1
    assert len(await client.tile_bounds(RAW, 1050.0)) == 1500


async def test_an_invalid_upload_is_refused_before_anything_is_sent(service: Standin, client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    for specs in ([], [tile_spec("a", 5.0)], [tile_spec("a"), tile_spec("a")], [tile_spec("a", refs=("absent",))]):
        with pytest.raises(RenderRefused):
            await client.put_tiles(RAW, 1050.0, specs)
    assert await service.requests("PUT", "resolvedTiles") == []


async def test_a_closed_stack_and_a_broken_service_raise_different_faults(
    service: Standin, client: RenderClient
) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    await close_stack(client, RAW)
    before = len(await service.requests("PUT", "resolvedTiles"))
    with pytest.raises(StackNotLoading):
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    assert len(await service.requests("PUT", "resolvedTiles")) == before + 1
    with pytest.raises(StackNotLoading):
        await client.delete_tile(RAW, "a")
    await service.set_fault("resolvedTiles", "status", status=500, times=10)
    with pytest.raises(RenderBroken):
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")])


async def test_a_refusal_of_render_ws_is_reported_with_its_text(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    with pytest.raises(RenderRefused, match="bounding box"):
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")], derive=False)


async def test_tiles_with_unusual_names_are_read_and_deleted_one_by_one(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    unusual = "a;b c%20ü#?+&=.1050.0"
    await client.put_tiles(RAW, 1050.0, [tile_spec(unusual), tile_spec("b")])
    spec = await client.tile(RAW, unusual)
    assert spec is not None
    assert spec["tileId"] == unusual
    await client.delete_tile(RAW, unusual)
    await client.delete_tile(RAW, unusual)
    assert await client.tile(RAW, unusual) is None
    assert [tile.tile_id for tile in await client.tile_bounds(RAW, 1050.0)] == ["b"]


async def test_an_empty_layer_is_none_and_lists_no_tiles(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    assert await client.resolved_tiles(RAW, 7.5) is None
    assert await client.tile_bounds(RAW, 7.5) == ()
    await client.put_tiles(RAW, 7.5, [tile_spec("a", 7.5)])
    await client.put_tiles(RAW, 7.0, [tile_spec("b", 7.0)])
    assert await client.z_values(RAW) == (7.0, 7.5)


async def test_a_path_builder_is_set_and_read_back(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    assert await client.path_builder(RAW) is None
    builder = PathBuilder(root_path="/m", number_of_levels=6, extension="tif")
    await client.put_path_builder(RAW, builder)
    assert await client.path_builder(RAW) == builder.normalized()
    with pytest.raises(StackMissing):
        await client.path_builder(MIPS)


# -- cancelling ------------------------------------------------------------------------------------------------------


class Held:
    """A service that answers when `may_answer` is set."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.answered = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requested.set()
        await self.may_answer.wait()
        self.answered += 1
        return web.json_response({"state": "LOADING"}, status=201 if request.method == "PUT" else 200)


async def test_a_cancelled_write_still_waits_for_its_answer() -> None:
    held = Held()
    async with answering(held.answer) as url, client_of(url) as client:
        writing = asyncio.create_task(client.put_tiles(RAW, 1050.0, [tile_spec("a")]))
        await held.requested.wait()
        writing.cancel()
        done, _ = await asyncio.wait([writing], timeout=0.2)
        assert not done
        held.may_answer.set()
        await asyncio.wait([writing], timeout=60)
        assert writing.cancelled()
        assert held.answered == 1


async def test_the_failure_of_a_cancelled_write_is_not_reported_as_an_unretrieved_exception() -> None:
    held = Held()

    async def fail(request: web.Request) -> web.StreamResponse:
        await held.answer(request)
        return web.Response(status=500, text="broken")

    async with answering(fail) as url, client_of(url) as client:
        writing = asyncio.create_task(client.delete_tile(RAW, "a"))
        await held.requested.wait()
        writing.cancel()
        await asyncio.sleep(0)
        held.may_answer.set()
        await asyncio.wait([writing], timeout=60)
        assert writing.cancelled()
        assert held.answered == 1  # tests/conftest.py fails this test if the exception of the request stays unretrieved


async def test_a_write_that_is_cancelled_twice_is_dropped() -> None:
    held = Held()
    async with answering(held.answer) as url, client_of(url) as client:
        writing = asyncio.create_task(client.put_tiles(RAW, 1050.0, [tile_spec("a")]))
        await held.requested.wait()
        writing.cancel()
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing], timeout=60)
        assert writing.cancelled()
        assert held.answered == 0
        held.may_answer.set()


@pytest.mark.parametrize("request_name", ["tile bounds", "complete"])
async def test_cancelled_reads_and_complete_are_dropped_at_once(request_name: str) -> None:
    held = Held()
    async with answering(held.answer) as url, client_of(url) as client:
        request = (
            client.tile_bounds(RAW, 1050.0)
            if request_name == "tile bounds"
            else client.set_state(RAW, StackState.COMPLETE)
        )
        waiting: asyncio.Task[object] = asyncio.create_task(request)
        await held.requested.wait()
        waiting.cancel()
        await asyncio.wait([waiting], timeout=60)
        assert waiting.cancelled()
        assert held.answered == 0
        held.may_answer.set()


# -- closing ---------------------------------------------------------------------------------------------------------


async def open_with_tiles(client: RenderClient, *tile_ids: str) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await client.put_tiles(RAW, 1050.0, [tile_spec(tile_id) for tile_id in tile_ids])


async def test_closing_derives_once_and_counts_the_tiles(service: Standin, client: RenderClient) -> None:
    await open_with_tiles(client, "a", "b")
    report = await close_stack(client, RAW, [1050.0])
    assert report.meta.state is StackState.COMPLETE
    assert (await service.send("GET", RAW.path))["stats"]["tileCount"] == 2
    assert [(section.z, section.derived, section.live) for section in report.sections] == [(1050.0, 2, 2)]
    assert report.derivations == 1
    again = await close_stack(client, RAW, [1050.0])
    assert again.derivations == 0
    assert again.differing == ()
    assert len(await service.requests("PUT", "state/COMPLETE")) == 1


async def test_after_a_late_answer_to_complete_the_state_is_polled_and_complete_not_sent_again(
    service: Standin, client: RenderClient
) -> None:
    await open_with_tiles(client, "a")
    await service.set_fault("state/COMPLETE", "late", seconds=1.0, times=1)
    report = await close_stack(client, RAW, [1050.0])
    assert report.meta.state is StackState.COMPLETE
    assert report.differing == ()
    assert len(await service.requests("PUT", "state/COMPLETE")) <= 1


async def test_a_connection_cut_during_complete_does_not_send_it_again(service: Standin, client: RenderClient) -> None:
    await open_with_tiles(client, "a")
    await service.set_fault("state/COMPLETE", "cut", times=1)
    try:
        report = await close_stack(client, RAW, [1050.0])
    except RenderUnavailable:
        assert len(await service.requests("PUT", "state/COMPLETE")) == 1
        report = await close_stack(client, RAW, [1050.0])
    else:
        assert len(await service.requests("PUT", "state/COMPLETE")) == 1
    assert report.meta.state is StackState.COMPLETE


async def test_a_derivation_beyond_the_deadline_is_retried_later(service: Standin, client: RenderClient) -> None:
    await open_with_tiles(client, "a")
    await service.set_fault("state/COMPLETE", "stall", seconds=30, times=1)
    with pytest.raises(RenderUnavailable, match="still LOADING"):
        await close_stack(client, RAW, deadline_s=0.5)


async def test_a_tile_that_the_derivation_missed_is_noticed_and_derived_again() -> None:
    """The section data of a COMPLETE stack lack a tile whose write had passed the check of the state before."""
    states = [StackState.COMPLETE]

    async def answer(request: web.Request) -> web.StreamResponse:
        last = request.path.rpartition("/")[2]
        if request.method == "PUT":
            states.append(StackState(last))
            return web.Response(status=201)
        if last == "tileBounds":
            return web.json_response([{"tileId": each, "z": 1050.0, "sectionId": "1050.0"} for each in ("a", "b")])
        if last == "sectionData":
            count = states.count(StackState.COMPLETE)
            return web.json_response([{"z": 1050.0, "sectionId": "1050.0", "tileCount": count}])
        return web.json_response({"state": states[-1]})

    async with answering(answer) as url, client_of(url) as client:
        report = await close_stack(client, RAW, [1050.0])
    assert states == [StackState.COMPLETE, StackState.LOADING, StackState.COMPLETE]
    assert report.derivations == 1
    assert report.differing == ()


async def test_a_tile_without_a_section_id_is_in_no_section_data_and_keeps_no_stack_open(client: RenderClient) -> None:
    await open_with_tiles(client, "a")
    foreign = {**tile_spec("foreign"), "layout": {}}
    await client.put_tiles(RAW, 1050.0, [foreign])
    report = await close_stack(client, RAW, [1050.0])
    assert report.derivations == 1
    assert report.differing == ()
    assert [(section.section_id, section.derived, section.live) for section in report.sections] == [("1050.0", 1, 1)]


async def test_a_tile_put_by_another_client_during_the_derivation_is_in_the_section_data_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    derivation = Hold(monkeypatch, stack_routes)
    async with standin(derive_s=1.0) as service, client_of(service.url) as one, client_of(service.url) as other:
        await open_with_tiles(one, "a")
        closing = asyncio.create_task(close_stack(one, RAW, [1050.0]))
        await derivation.begun.wait()
        await other.put_tiles(RAW, 1050.0, [tile_spec("b")])
        derivation.release()
        report = await closing
        assert report.derivations == 2
        assert [(section.derived, section.live) for section in report.sections] == [(2, 2)]
        assert len(await service.requests("PUT", "state/COMPLETE")) == 2


async def test_a_stack_that_another_client_has_reopened_to_write_is_not_closed() -> None:
    """The section data lack a tile because another client has reopened the stack and put the tile."""
    puts: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        last = request.path.rpartition("/")[2]
        if request.method == "PUT":
            puts.append(last)
            return web.Response(status=201)
        if last == "tileBounds":
            states.append(StackState.LOADING)
            return web.json_response([{"tileId": "a", "z": 1050.0, "sectionId": "1050.0"}])
        return web.json_response([] if last == "sectionData" else {"state": states[-1]})

    states = [StackState.COMPLETE]
    async with answering(answer) as url, client_of(url) as client:
        report = await close_stack(client, RAW, [1050.0])
    assert [(section.derived, section.live) for section in report.differing] == [(0, 1)]
    assert puts == []


async def test_a_stack_that_another_client_reopens_during_the_close_is_closed_later() -> None:
    versions = iter([0, 1])

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(status=201)
        return web.json_response({"state": "LOADING", "currentVersionNumber": next(versions)})

    async with answering(answer) as url, client_of(url) as client:
        with pytest.raises(StackReopened):
            await close_stack(client, RAW)


NOT_AGGREGATED = (
    "section data not aggregated for stack s, set stack state to COMPLETE to generate the aggregate collection"
)


async def test_section_data_that_another_client_is_deriving_are_requested_again(
    service: Standin, client: RenderClient
) -> None:
    await open_with_tiles(client, "a")
    await service.set_fault("sectionData", "status", status=400, text=NOT_AGGREGATED, times=2)
    report = await close_stack(client, RAW, [1050.0])
    assert report.differing == ()
    assert len(await service.requests("PUT", "state/COMPLETE")) == 1


async def test_section_data_that_stay_missing_are_retried_later(service: Standin, client: RenderClient) -> None:
    await open_with_tiles(client, "a")
    await service.set_fault("sectionData", "status", status=400, text=NOT_AGGREGATED)
    with pytest.raises(SectionDataMissing, match="section data not aggregated") as raised:
        await close_stack(client, RAW, [1050.0])
    assert raised.value.waiting_helps is Waiting.ALWAYS


async def test_a_stack_without_tiles_cannot_be_closed(client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    with pytest.raises(RenderRefused, match="no tiles"):
        await close_stack(client, RAW)
    with pytest.raises(StackMissing):
        await close_stack(client, MIPS)


# -- faults of the connection -----------------------------------------------------------------------------------------


async def test_a_service_at_which_nothing_listens_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/render-ws/v1"
        async with client_of(url) as client:
            with pytest.raises(RenderUnavailable, match="cannot be reached"):
                await client.ping()
            with pytest.raises(RenderUnavailable, match=str(RAW)):
                await create_stack(client, RAW, RESOLUTION_NM)


async def test_a_ping_succeeds_when_render_ws_answers_and_times_out_when_it_does_not(
    service: Standin, client: RenderClient
) -> None:
    await client.ping()
    await service.set_fault("versionInfo", "stall", seconds=30)
    with pytest.raises(AnswerLate):
        await client.ping()


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_reading_and_putting_tiles_are_retried_after_two_failures(
    service: Standin, client: RenderClient, status: int
) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await service.set_fault("resolvedTiles", "status", status=status, times=2)
    await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    await service.set_fault("tileBounds", "status", status=status, times=2)
    assert len(await client.tile_bounds(RAW, 1050.0)) == 1


async def test_a_permanent_failure_is_reported_after_three_tries(service: Standin, client: RenderClient) -> None:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await service.set_fault("resolvedTiles", "status", status=503, times=100)
    with pytest.raises(RenderUnavailable):
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
    assert len(await service.requests("PUT", "resolvedTiles")) == 3


async def test_a_connection_cut_in_the_middle_of_an_answer_is_retried(service: Standin, client: RenderClient) -> None:
    await open_with_tiles(client, *(f"t{n}" for n in range(50)))
    await service.set_fault("GET .*resolvedTiles", "cut", times=1)
    layer = await client.resolved_tiles(RAW, 1050.0)
    assert layer is not None
    assert len(layer.tile_id_to_spec_map) == 50


async def test_a_request_that_timed_out_is_not_sent_again(service: Standin) -> None:
    async with client_of(service.url, time_limits=TimeLimits(silence_s=0.3, request_s=0.3)) as client:
        await service.set_fault("^GET ", "stall", seconds=30)
        with pytest.raises(AnswerLate):
            await client.stack(RAW)
        assert len(await service.requests("GET", RAW.path)) == 1


@pytest.mark.parametrize(
    ("time_limits", "problem"),
    [
        (TimeLimits(connect_s=1, silence_s=0.2, request_s=30), "and render-ws sent nothing for 0.2 s"),
        (TimeLimits(connect_s=1, silence_s=30, request_s=0.2), "and the answer was not complete after 0.2 s"),
    ],
)
async def test_the_fault_of_a_time_out_names_the_limit(time_limits: TimeLimits, problem: str) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while time_limits.silence_s > time_limits.request_s:
                await answer.write(b" ")
                await asyncio.sleep(0.02)
            await asyncio.sleep(5)
        return answer

    async with answering(trickle) as url, client_of(url, time_limits=time_limits) as client:
        with pytest.raises(AnswerLate, match=problem):
            await client.stack(RAW)


async def test_creations_and_completions_are_sent_only_once() -> None:
    sent: list[str] = []

    async def hang_up(request: web.Request) -> web.StreamResponse:
        sent.append(f"{request.method} {request.path.rpartition('/')[2]}")
        if request.method == "GET":
            return web.Response(status=404, text="stack with owner 'em' does not exist")
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with answering(hang_up) as url, client_of(url) as client:
        with pytest.raises(AnswerLost):
            await create_stack(client, RAW, RESOLUTION_NM)
        with pytest.raises(AnswerLost):
            await client.set_state(RAW, StackState.COMPLETE)
        assert [line for line in sent if not line.startswith("GET")] == ["POST raw", "PUT COMPLETE"]
        with pytest.raises(AnswerLost):
            await client.set_state(RAW, StackState.LOADING)
        assert sent.count("PUT LOADING") == 3


async def test_a_page_of_another_service_is_refused() -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>please log in</html>", content_type="text/html")

    async with answering(page) as url, client_of(url) as client:
        with pytest.raises(NotRender, match="perhaps a login page: please log in"):
            await client.stack(RAW)
        with pytest.raises(NotRender, match="perhaps a login page"):
            await client.put_tiles(RAW, 1050.0, [tile_spec("a")])


async def test_a_redirect_is_refused_rather_than_followed() -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with answering(redirect) as url, client_of(url) as client:
        with pytest.raises(NotRender, match="302"):
            await client.stack(RAW)


async def test_an_answer_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.render.stack_client._LISTED_Z", Limit(1000))

    async def flood(request: web.Request) -> web.StreamResponse:
        return web.Response(text="[" + "1," * 5000 + "1]", content_type="application/json")

    async with answering(flood) as url, client_of(url) as client:
        with pytest.raises(RenderRefused, match="longer than"):
            await client.z_values(RAW)


async def test_requests_name_temwatch_and_never_ask_for_compression() -> None:
    received: list[web.Request] = []

    async def record(request: web.Request) -> web.StreamResponse:
        received.append(request)
        return web.Response(status=201)

    async with answering(record) as url, client_of(url + "/") as client:
        await client.put_tiles(RAW, 1050.0, [tile_spec("a")])
        await client.set_state(RAW, StackState.LOADING)
    for request in received:
        assert request.headers["User-Agent"].startswith("temwatch/")
        assert request.headers["Accept-Encoding"] == "identity"
        assert request.headers["Content-Type"] == "application/json"
        assert "Content-Encoding" not in request.headers
        assert "Transfer-Encoding" not in request.headers
    assert received[0].path_qs == f"/render-ws/v1{RAW.path}/z/1050.0/resolvedTiles?deriveData=true"


async def test_the_number_of_concurrent_requests_is_limited() -> None:
    under_way = maximum = 0
    is_full = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, maximum
        under_way += 1
        maximum = max(maximum, under_way)
        if under_way == 3:
            is_full.set()
        await asyncio.wait_for(is_full.wait(), 60)
        await asyncio.sleep(0.01)
        under_way -= 1
        return web.json_response([])

    async with answering(slow) as url, client_of(url, connections=3) as client:
        await asyncio.gather(*(client.tile_bounds(RAW, float(z)) for z in range(20)))
    assert maximum == 3


def test_the_delay_of_polling_grows_up_to_a_limit() -> None:
    delays = [Polling(first_s=0.5, max_s=10).delay_s(number) for number in range(200)]
    assert delays[0] == 0.5
    assert delays == sorted(delays)
    assert delays[-1] == 10
