"""Live events: each event of the journal once, from where the browser stopped, until the daemon stops."""

import asyncio
import json

import pytest

from daemon.montages.states import Event
from daemon.web import live_events
from daemon.web.pages.handlers import Pages
from tests.integration.paged import Paged

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "POLL_S", 0.02)
    monkeypatch.setattr(live_events, "IDLE_S", 0.05)


class Stream:
    """An open stream of events."""

    def __init__(self, answer) -> None:
        self.answer = answer

    async def __aenter__(self) -> "Stream":
        self.response = await self.answer.__aenter__()
        if self.response.status == 200:
            assert (await self.next())[0] == "hello"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.answer.__aexit__(*error)

    async def next(self) -> tuple[str, str, object] | None:
        """Return name, id and data of the next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.response.content.readline()).decode():
                name, _, value = line.rstrip("\r\n").partition(": ")
                if line.strip():
                    fields[name] = value
                elif "data" in fields:
                    return fields["event"], fields.get("id", ""), json.loads(fields["data"])
        return None


def stream(pages: Paged, after: int | None = None) -> Stream:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    return Stream(pages.client.get("/api/events", headers=headers))


async def wait_for_streams(pages: Paged, count: int) -> None:
    """Wait until the server has noticed the ends of all streams but `count`."""
    async with asyncio.timeout(DEADLINE_S):
        while pages.live.open_streams > count:  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)


async def test_a_page_gets_each_event_with_its_number_in_the_journal(pages):
    montage_id = await pages.settled(1050)
    async with stream(pages) as events:
        await pages.journal.record(montage_id, Event.INGESTED)
        await pages.journal.record(montage_id, Event.MIPMAPPED)
        name, number, body = await events.next()
        assert (name, body["montage"], body["state"], body["z"]) == ("montage", montage_id, "ingested", 1050.0)
        assert (await events.next())[1:2] == (str(int(number) + 1),)


async def test_finished_tiles_cause_a_progress_event(pages):
    montage_id = await pages.settled(1)
    async with stream(pages) as events:
        await pages.journal.record_tiles(montage_id, {"a": None})
        assert (await events.next())[0] == "progress"


async def test_a_returning_browser_gets_each_missed_event_once(pages):
    montage_id = await pages.settled(1)
    await pages.journal.record(montage_id, Event.INGESTED)
    async with stream(pages, after=1) as events:
        assert [(await events.next())[2]["event"] for _ in range(2)] == ["settled", "ingested"]
        await pages.journal.record(montage_id, Event.MIPMAPPED)
        assert (await events.next())[2]["event"] == "mipmapped"


async def test_a_browser_that_missed_too_many_events_is_told_to_reload(pages, monkeypatch):
    monkeypatch.setattr(live_events, "MAX_EVENTS", 3)
    for number in range(1, 4):
        await pages.settled(number)
    async with stream(pages, after=1) as events:
        assert (await events.next())[0] == "reload"


@pytest.mark.parametrize("after", ["x", "-1", "9" * 40, ""])
async def test_an_invalid_last_event_id_counts_as_none(pages, after):
    async with Stream(pages.client.get("/api/events", headers={"Last-Event-ID": after})) as events:
        await pages.settled(1)
        assert (await events.next())[0] == "montage"


async def test_streams_forbid_buffering_by_proxies_and_their_number_is_bounded(pages, monkeypatch):
    monkeypatch.setattr(live_events, "MAX_STREAMS", 2)
    async with stream(pages) as first, stream(pages):
        assert first.response.headers["X-Accel-Buffering"] == "no"
        assert first.response.content_type == "text/event-stream"
        async with stream(pages) as third:
            assert third.response.status == 503
    await wait_for_streams(pages, 1)
    async with stream(pages) as again:
        assert again.response.status == 200


async def test_a_closed_browser_releases_its_stream(pages):
    async with stream(pages):
        assert pages.live.open_streams == 1
    await wait_for_streams(pages, 0)


async def test_a_stopping_daemon_ends_the_streams_and_opens_no_more(pages):
    async with stream(pages) as one, stream(pages) as two:
        await pages.live.close()
        assert await one.next() is None
        assert await two.next() is None
    async with stream(pages) as late:
        assert late.response.status == 503


async def test_nothing_is_read_while_no_page_is_open(pages, monkeypatch):
    reads = []
    real = pages.journal.read
    monkeypatch.setattr(pages.journal, "read", lambda closure: reads.append(closure) or real(closure))
    async with stream(pages):
        await pages.settled(1)
    await wait_for_streams(pages, 0)
    count = len(reads)
    for _ in range(20):
        await asyncio.sleep(0.02)
    assert len(reads) <= count + 1


async def test_open_pages_share_an_answer_until_the_next_event(pages, monkeypatch):
    drawn = []
    real = Pages._overview
    monkeypatch.setattr(Pages, "_overview", lambda self, request: drawn.append(1) or real(self, request))
    montage_id = await pages.settled(1)
    async with stream(pages) as events:
        for _ in range(5):
            assert 'aria-label="z 1, scope 5, settled' in await pages.page("/")
        assert len(drawn) == 1
        await pages.page("/?state=failed")
        assert len(drawn) == 2
        await pages.journal.record(montage_id, Event.INGESTED)
        assert (await events.next())[2]["state"] == "ingested"
        assert 'aria-label="z 1, scope 5, ingested' in await pages.page("/")
        assert len(drawn) == 3
