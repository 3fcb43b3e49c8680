"""Hooks against a receiver on a real port, with a real journal."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import deliveries
from daemon.montages.sighting import FoundBy, Sighting
from daemon.notify.hooks import courier, delays
from daemon.notify.hooks.notifier import Notifier
from handlers.identity import FileIdentity
from tests.integration.receiver import Receiver, receiving
from tests.outbox import announced

ALL = ["montage.noticed", "montage.failed", "montage.repeated", "stack.closed"]


def settings_with(*hooks: dict[str, Any]) -> Settings:
    watch = {"name": "w", "directory": "/data", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/mips"}}
    render = {"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}
    return Settings.model_validate({"render": render, "watch": [watch], "hook": list(hooks)})


class World:
    """A journal, a notifier, and the outcomes that it counted."""

    def __init__(self, journal: Journal, *hooks: dict[str, Any]) -> None:
        self.journal = journal
        self.settings = settings_with(*hooks)
        self.counted: list[tuple[str, str]] = []
        self.offset_s = 0.0
        self.notifier = Notifier(
            lambda: self.settings,
            journal,
            lambda hook, outcome: self.counted.append((hook, outcome)),
            wall=lambda: time.time() + self.offset_s,
        )
        self._count = 0

    async def notice(self) -> str:
        """Record a new montage; return its subject."""
        self._count += 1
        path = Path(f"/data/_metadata_{self._count}_.json")
        montage = await self.journal.notice(Sighting("w", path, FileIdentity(1, 1, 1, self._count), FoundBy.SCAN))
        return f"montages/{montage}"

    async def notice_again(self, subject: str) -> None:
        """Record another event of the montage."""
        montage = await self.journal.montage(int(subject.partition("/")[2]))
        assert montage
        await self.journal.notice_again(Sighting("w", montage.metafile, replace_size(montage.identity), FoundBy.SCAN))

    async def counts(self) -> dict[str, deliveries.HookCounts]:
        return await self.journal.read(deliveries.counts)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.notifier.register()
        task = asyncio.create_task(self.notifier.run())
        try:
            yield
        finally:
            assert not task.done(), task
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def replace_size(identity: FileIdentity) -> FileIdentity:
    return identity._replace(size=identity.size + 1)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(delays, "MAX_DELAY_S", 0.1)
    monkeypatch.setattr(delays, "MAX_PAUSE_S", 0.1)


async def test_an_event_arrives_as_a_cloud_event(journal: Journal, receiver: Receiver) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL})
    async with world.running():
        subject = await world.notice()
        await receiver.until(lambda: world.counted)
    (event,) = receiver.accepted
    (recorded,) = await announced(journal)
    assert event["data"] == dict(recorded.data)
    assert {key: event[key] for key in ("specversion", "id", "type", "subject", "sequence", "datacontenttype")} == {
        "specversion": "1.0",
        "id": recorded.event_id,
        "type": "montage.noticed",
        "subject": subject,
        "sequence": "00000000000000000001",
        "datacontenttype": "application/json",
    }
    assert event["source"] == f"//{socket.gethostname()}/temwatch"
    headers, _ = receiver.requests[0]
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert "webhook-signature" not in headers
    assert world.counted == [(receiver.url.split("/")[2], "delivered")]
    assert await world.counts() == {}


async def test_a_hook_gets_the_events_that_it_names_of_the_watches_that_it_names(
    journal: Journal, receiver: Receiver
) -> None:
    world = World(
        journal,
        {"name": "stacks", "url": f"{receiver.url}/stacks", "on": ["stack.closed"]},
        {"name": "w", "url": f"{receiver.url}/w", "on": ALL, "watch": ["w"]},
    )
    async with world.running():
        await journal.close_stack("em/v1/other", "gone", [])
        await journal.close_stack("em/v1/s", "w", [])
        await receiver.until(lambda: len(receiver.accepted) == 3)
    assert sorted(event["subject"] for event in receiver.accepted) == [
        "stacks/em/v1/other",
        "stacks/em/v1/s",
        "stacks/em/v1/s",
    ]


async def test_a_new_hook_gets_only_later_events(journal: Journal, receiver: Receiver) -> None:
    world = World(journal)
    async with world.running():
        await world.notice()
        world.settings = settings_with({"url": receiver.url, "on": ALL})
        await world.notifier.adopt()
        subject = await world.notice()
        await receiver.until(lambda: receiver.accepted)
    assert [event["subject"] for event in receiver.accepted] == [subject]


async def test_events_recorded_before_the_deliveries_start_are_delivered(journal: Journal, receiver: Receiver) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL})
    await world.notifier.register()
    subjects = [await world.notice() for _ in range(20)]
    async with world.running():
        await receiver.until(lambda: len(receiver.accepted) == 20)
    assert sorted(event["subject"] for event in receiver.accepted) == sorted(subjects)


@pytest.mark.parametrize("answer", [500, 404, 503, 302, 410, 0])
async def test_a_refused_event_is_repeated_with_the_same_id_before_the_next_event_of_its_montage(
    journal: Journal, receiver: Receiver, answer: int
) -> None:
    receiver.headers = {"Location": "/elsewhere"} if answer == 302 else {}
    receiver.answer = lambda _: answer if len(receiver.requests) < 4 else 204
    world = World(journal, {"url": receiver.url, "on": ALL})
    async with world.running():
        subject = await world.notice()
        await world.notice_again(subject)
        await world.notice_again(subject)
        await receiver.until(lambda: len(receiver.accepted) == 3)
    bodies = [json.loads(body) for _, body in receiver.requests]
    assert len({event["id"] for event in bodies[:4]}) == 1
    assert [event["sequence"] for event in receiver.accepted] == sorted(event["sequence"] for event in bodies[3:])
    assert {body for _, body in receiver.requests[:4]} == {receiver.requests[0][1]}
    assert [outcome for _, outcome in world.counted].count("failed") == 3


async def test_a_redirect_is_not_followed(journal: Journal, receiver: Receiver) -> None:
    async with receiving() as other:
        receiver.headers, receiver.answer = {"Location": other.url}, lambda _: 307
        world = World(journal, {"url": receiver.url, "on": ALL})
        async with world.running():
            await world.notice()
            await receiver.until(lambda: len(receiver.requests) > 2)
            await receiver.until(lambda: "failed" in [outcome for _, outcome in world.counted])
        (counts,) = (await world.counts()).values()
        assert f"a redirect to {other.url}" in (counts.problem or "")
        assert other.requests == []


async def test_a_refused_event_delays_no_other_montage(journal: Journal, receiver: Receiver) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL})
    async with world.running():
        refused = await world.notice()
        receiver.answer = lambda event: 500 if event["subject"] == refused else 204
        others = [await world.notice() for _ in range(12)]
        await receiver.until(lambda: {event["subject"] for event in receiver.accepted} >= set(others))
        receiver.answer = lambda _: 204
        await receiver.until(lambda: len(receiver.accepted) == 13)


async def test_a_request_without_an_answer_times_out_and_delays_no_other_montage(
    journal: Journal, receiver: Receiver
) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL, "timeout_s": 0.1})
    async with world.running():
        hanging = await world.notice()
        receiver.answer = lambda event: -1 if event["subject"] == hanging else 204
        others = [await world.notice() for _ in range(12)]
        await receiver.until(lambda: {event["subject"] for event in receiver.accepted} >= set(others))
        receiver.answer = lambda _: 204
        await receiver.until(lambda: hanging in [event["subject"] for event in receiver.accepted])


async def test_events_are_delivered_when_a_receiver_that_was_down_listens_again(journal: Journal) -> None:
    async with receiving() as first:
        url = first.url
    world = World(journal, {"url": url, "on": ALL})
    async with world.running():
        subjects = [await world.notice() for _ in range(10)]
        await first.until(lambda: len(world.counted) > 3)
        assert "no answer" in ((await world.counts()).popitem()[1].problem or "")
        async with receiving(int(url.rpartition(":")[2].partition("/")[0])) as again:
            await again.until(lambda: len(again.accepted) == 10)
            assert sorted(event["subject"] for event in again.accepted) == sorted(subjects)


async def test_a_failing_receiver_gets_one_request_at_a_time(journal: Journal, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    world = World(journal, {"url": receiver.url, "on": ALL})
    await world.notifier.register()
    for _ in range(50):
        await world.notice()
    async with world.running():
        await receiver.until(lambda: len(receiver.requests) > courier.REQUESTS_AT_ONCE + 3)
        before = len(receiver.requests)
        receiver.answer = lambda _: -1
        await receiver.until(lambda: len(receiver.requests) > before)
        await asyncio.sleep(0.2)  # longer than the longest pause, after which a second request would follow
        assert len(receiver.requests) == before + 1


async def test_an_event_is_given_up_after_a_day_and_an_operator_can_retry_or_drop_it(
    journal: Journal, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 500
    world = World(journal, {"name": "h", "url": receiver.url, "on": ALL})
    async with world.running():
        first, second = await world.notice(), await world.notice()
        await receiver.until(lambda: len(receiver.requests) > 3)
        world.offset_s = delays.GIVE_UP_S
        await receiver.until(lambda: world.counted.count(("h", "dead")) == 2)
        (counts,) = (await world.counts()).values()
        assert (counts.waiting, counts.dead) == (0, 2)
        (facts,) = await world.notifier.facts()
        assert (facts.name, facts.dead) == ("h", 2)
        listed = await journal.read(lambda connection: deliveries.listing(connection, 10))
        assert [(each.subject, each.is_dead) for each in listed] == [(first, True), (second, True)]
        assert "answered 500" in (listed[0].problem or "")
        receiver.answer = lambda _: 204
        ids = [each.id for each in listed]
        assert await journal.write(
            lambda connection: deliveries.retry(connection, [ids[0], 999], time.time() + world.offset_s)
        ) == [ids[0]]
        assert await journal.write(lambda connection: deliveries.drop(connection, [ids[1], 999])) == [ids[1]]
        world.notifier.wake()
        await receiver.until(lambda: ("h", "delivered") in world.counted)
    assert [event["subject"] for event in receiver.accepted] == [first]
    assert await world.counts() == {}


async def test_an_event_older_than_a_day_is_tried_after_a_restart_before_it_is_given_up(
    journal: Journal, receiver: Receiver
) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL})
    receiver.answer = lambda _: 500
    async with world.running():
        await world.notice()
        await receiver.until(lambda: receiver.requests)
    world.offset_s = 10 * delays.GIVE_UP_S
    receiver.answer = lambda _: 204
    async with world.running():
        await receiver.until(lambda: receiver.accepted)


async def test_old_events_are_deleted_when_no_hook_waits_for_them(journal: Journal, receiver: Receiver) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL})
    receiver.answer = lambda event: 500 if event["sequence"].endswith("2") else 204
    async with world.running():
        for _ in range(3):
            await world.notice()
        await receiver.until(lambda: len(receiver.accepted) == 2)
        await receiver.until(lambda: len(world.counted) > 2)
    await journal.write(lambda connection: deliveries.prune(connection, 2e12, 0.0))
    left = await announced(journal)
    assert [each.number for each in left] == [2]
    await journal.write(lambda connection: deliveries.prune(connection, 0.0, 2e12))
    assert len(await world.counts()) == 1  # it waits: only deliveries that were given up are deleted


async def test_an_unexpected_exception_in_sending_is_a_failed_attempt(
    journal: Journal, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(journal, {"url": receiver.url, "on": ALL})

    async def broken(*_: object) -> None:
        raise LookupError("planted")

    monkeypatch.setattr(world.notifier, "_send", broken)
    async with world.running():
        await world.notice()
        await receiver.until(lambda: len(world.counted) > 1)
        assert "planted" in ((await world.counts()).popitem()[1].problem or "")


async def test_a_request_is_signed_with_the_secret(journal: Journal, receiver: Receiver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    secret.chmod(0o600)
    world = World(journal, {"url": receiver.url, "on": ALL, "secret_file": str(secret)})
    async with world.running():
        await world.notice()
        await receiver.until(lambda: receiver.accepted)
        headers, body = receiver.requests[0]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert headers["webhook-id"] == receiver.accepted[0]["id"]
        secret.chmod(0o644)  # the daemon notices it at the next request
        await world.notice()
        await receiver.until(lambda: [outcome for _, outcome in world.counted].count("failed"))
        assert "open to other users" in ((await world.counts()).popitem()[1].problem or "")
        secret.chmod(0o600)
        await receiver.until(lambda: len(receiver.accepted) == 2)


def program(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path), str(tmp_path / "out")]


async def test_a_program_gets_the_event_on_standard_input(journal: Journal, tmp_path: Path) -> None:
    world = World(journal, {"command": program(tmp_path, 'cat >> "$1"; echo >> "$1"; echo noise'), "on": ALL})
    async with world.running():
        subjects = [await world.notice() for _ in range(3)]
        await until(lambda: world.counted.count(("program", "delivered")) == 3)
    events = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [event["subject"] for event in events] == subjects


async def test_a_failed_program_is_run_again_and_its_last_line_is_logged(journal: Journal, tmp_path: Path) -> None:
    text = 'if [ ! -e "$1" ]; then touch "$1"; echo first >&2; echo no cluster today >&2; exit 3; fi'
    world = World(journal, {"command": program(tmp_path, text), "on": ALL})
    with structlog.testing.capture_logs() as lines:
        async with world.running():
            await world.notice()
            await until(lambda: ("program", "delivered") in world.counted)
    (failed,) = [line for line in lines if line["event"] == "hook.failed"]
    assert failed["problem"] == "ended with exit code 3: no cluster today"


async def test_a_program_that_takes_too_long_is_killed_with_its_children(journal: Journal, tmp_path: Path) -> None:
    text = 'sleep 1000 & echo $! > "$1"; wait'
    world = World(journal, {"command": program(tmp_path, text), "on": ALL, "timeout_s": 0.5})
    async with world.running():
        await world.notice()
        output = tmp_path / "out"  # an attempt may be killed before it has written the number
        await until(lambda: ("program", "failed") in world.counted and output.exists() and output.read_text().strip())
        problem = (await world.counts())["program"].problem
        assert problem == "was still running after 0.5 s, and was killed"
    child = int(output.read_text())
    await until(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())


async def test_processes_that_a_program_leaves_running_do_not_delay_its_delivery(
    journal: Journal, tmp_path: Path
) -> None:
    text = "sleep 5 & echo started >&2"
    world = World(journal, {"command": program(tmp_path, text), "on": ALL, "timeout_s": 4})
    async with world.running():
        await world.notice()
        await until(lambda: world.counted)
    assert world.counted == [("program", "delivered")]


async def test_a_program_that_cannot_be_run_is_a_failed_attempt(journal: Journal, tmp_path: Path) -> None:
    world = World(journal, {"command": [str(tmp_path)], "name": "h", "on": ALL})
    async with world.running():
        await world.notice()
        await until(lambda: ("h", "failed") in world.counted)
        assert "cannot be run: Permission denied" in ((await world.counts())["h"].problem or "")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  the condition may be about anything
            await asyncio.sleep(0.01)


async def test_waiting_deliveries_are_counted_again_only_after_a_write(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(journal, {"name": "away", "url": "http://127.0.0.1:1/", "on": ALL})
    reads = 0

    async def read(closure: Callable[..., Any]) -> Any:
        nonlocal reads
        reads += 1
        return await Journal.read(journal, closure)

    monkeypatch.setattr(journal, "read", read)
    await world.notifier.register()
    assert [(await world.notifier.facts())[0].waiting for _ in range(3)] == [0, 0, 0]
    assert reads == 1
    await world.notice()
    await journal.write(lambda connection: deliveries.queue(connection, {"away": lambda *_: True}, time.time()))
    assert [(await world.notifier.facts())[0].waiting for _ in range(3)] == [1, 1, 1]
    assert reads == 2
