"""Alerts with a real journal, and messages through apprise to a receiver on a loopback port."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event
from daemon.notify import heartbeat, postman
from daemon.notify.alerting import Severity
from daemon.notify.alerts import Alerting
from daemon.notify.letters import Letter
from daemon.notify.messages import read_addresses, send
from daemon.pipeline.health import Disk, Facts
from handlers.errors import Fault, MetafileFault, SettingsFault, StorageFault
from handlers.identity import FileIdentity
from tests.integration.receiver import receiving

# apprise imports a module of Python 3.11 that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
HOUR = 3600.0
FINE = Facts((), (), None, None, None, 7200.0)


class World:
    """A journal, facts that a test sets, and the messages that were delivered."""

    def __init__(self, journal: Journal, tmp_path: Path) -> None:
        self.journal = journal
        self.path = tmp_path / "alerts.urls"
        self.facts = FINE
        self.now = 1.7e9
        self.told: list[str] = []
        self.sent: list[tuple[str, str]] = []
        """Address and id of each letter."""
        self.refusing: set[str] = set()
        self.heartbeat_url: str | None = None
        self.addresses("json://one")
        self.send = self._take
        self.restart()

    def addresses(self, *addresses: str) -> None:
        self.path.write_text("\n".join(addresses))
        self.path.chmod(0o600)

    def settings(self) -> Settings:
        watch = {"name": "w", "directory": "/data", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/mips"}}
        render = {"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}
        alerts = {"urls_file": str(self.path), "heartbeat_url": self.heartbeat_url}
        return Settings.model_validate({"render": render, "watch": [watch], "alerts": alerts})

    def restart(self) -> None:
        """Lose everything that is not in the journal."""

        async def facts() -> Facts:
            return self.facts

        self.alerting = Alerting(self.settings, self.journal, facts, wall=lambda: self.now, send=self.send)

    def _take(self, address: str, number: int, letter: Letter) -> None:
        if address in self.refusing:
            raise StorageFault("alerts.urls_file", f"address {number} did not take a message")
        assert (letter.severity is Severity.OVER) == letter.title.startswith("over")
        self.sent.append((address, letter.id))
        self.told.append(letter.title)

    async def look(self, after_s: float = 10.0) -> list[str]:
        """Look some time later; return the new messages."""
        self.now += after_s
        told = len(self.told)
        await self.alerting.look()
        await self.alerting.deliver()
        return self.told[told:]

    async def fail(self, number: int) -> int:
        path = Path(f"/data/_metadata_{number}_.json")
        montage = await self.journal.notice(Sighting("w", path, FileIdentity(1, 1, 1, number), FoundBy.SCAN))
        assert montage is not None
        await self.journal.fail(montage, MetafileFault(str(path), "is not JSON"))
        return montage


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Journal(tmp_path / "journal.sqlite") as journal:
        yield World(journal, tmp_path)


async def test_failures_are_told_together_and_their_end_once(world: World) -> None:
    first, second = await world.fail(1), await world.fail(2)
    assert await world.look() == []
    assert await world.look(60) == ["montage failed (w): 2"]
    assert await world.look(HOUR) == []
    await world.journal.retry(first, "changed")
    assert await world.look() == []
    await world.journal.dismiss(second, "not needed")
    assert await world.look() == ["over: montage failed (w): 2"]
    assert await world.look() == []
    assert await world.journal.read(lambda connection: connection.execute("SELECT * FROM alerts").fetchall()) == []


async def test_a_restart_at_any_moment_repeats_no_message_and_forgets_none(world: World) -> None:
    await world.fail(1)
    assert await world.look() == []
    world.restart()
    assert await world.look(60) == ["montage failed (w)"]
    world.restart()
    assert await world.look() == []
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    world.refusing = {"json://one"}
    assert await world.look() == []
    world.restart()
    world.refusing = set()
    assert await world.look(120) == ["disk low"]
    world.restart()
    world.facts = FINE
    assert await world.look() == ["over: disk low"]
    world.restart()
    assert await world.look(12 * HOUR) == ["montage failed (w)"]


async def test_a_message_that_is_not_delivered_is_a_problem_and_is_tried_again(world: World) -> None:
    world.refusing, world.facts = {"json://one"}, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.look() == []
    assert world.alerting.problem == "alerts.urls_file: address 1 did not take a message"
    world.refusing = set()
    assert await world.look(10) == []  # not at once
    assert await world.look(60) == ["disk low"]
    assert world.alerting.problem == ""


async def test_an_address_that_took_a_message_does_not_get_it_again_while_another_refuses(world: World) -> None:
    world.addresses("json://one", "json://two")
    world.refusing, world.facts = {"json://two"}, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.look() == ["disk low"]
    assert "address 2" in world.alerting.problem
    world.restart()
    world.facts = FINE
    assert await world.look(60) == ["over: disk low"]
    assert "address 2" in world.alerting.problem
    world.refusing = set()
    assert await world.look(60) == ["disk low", "over: disk low"]
    ids = [letter_id for _, letter_id in world.sent]
    assert world.sent == [
        ("json://one", ids[0]),
        ("json://one", ids[1]),
        ("json://two", ids[0]),
        ("json://two", ids[1]),
    ]
    assert (await world.look(60), world.alerting.problem) == ([], "")


async def test_a_message_that_nobody_takes_for_a_day_is_given_up_and_stays_a_problem(world: World) -> None:
    world.refusing, world.facts = {"json://one"}, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    for _ in range(25):
        assert await world.look(HOUR) == []
    assert world.alerting.problem
    world.refusing = set()
    told = await world.look(HOUR)
    assert told == ["disk low"]  # it lasts, so it is told again
    assert len({letter_id for _, letter_id in world.sent}) == 1


async def test_an_address_that_never_answers_delays_no_other_and_gets_one_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postman, "SEND_S", 0.05)
    world.addresses("json://dead", "json://two")
    answers, begun = threading.Event(), []
    send = world.send

    def hang(address: str, number: int, letter: Letter) -> None:
        if address == "json://dead":
            begun.append(letter.id)
            assert answers.wait(20)
        send(address, number, letter)

    world.send = hang
    world.restart()
    try:
        world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
        assert await world.look() == ["disk low"]
        world.facts = FINE
        assert await world.look(60) == ["over: disk low"]
        assert "address 1 has not taken a message within" in world.alerting.problem
        assert len(begun) == 1
    finally:
        answers.set()
    monkeypatch.setattr(postman, "SEND_S", 20.0)
    assert (await world.look(60))[-1] == "over: disk low"
    assert [address for address, _ in world.sent].count("json://dead") == 2  # none twice, though it answered late
    assert world.alerting.problem == ""


async def test_people_are_told_while_the_journal_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.look()
    fault = StorageFault("journal", "the disk is full")
    monkeypatch.setattr(type(world.journal), "fault", property(lambda _: fault))
    world.facts = replace(FINE, journal_fault=str(fault))
    assert await world.look() == ["journal not writable"]
    assert await world.look() == []
    monkeypatch.undo()
    world.facts = FINE
    assert await world.look() == ["over: journal not writable"]


async def test_three_workers_lost_in_ten_minutes_are_told_and_three_in_a_day_are_not(world: World) -> None:
    for deaths in (0, 1, 2, 3):
        world.facts = replace(FINE, worker_deaths=deaths)
        assert await world.look(8 * HOUR) == []
    assert await world.look(700) == []
    for deaths in (4, 5):
        world.facts = replace(FINE, worker_deaths=deaths)
        assert await world.look(60) == []
    world.facts = replace(FINE, worker_deaths=6)
    assert await world.look(60) == ["workers lost"]
    assert await world.look(700) == ["over: workers lost"]


async def test_images_that_are_late_are_told_before_the_montage_fails(world: World) -> None:
    path = Path("/data/_metadata_9_.json")
    montage = await world.journal.notice(Sighting("w", path, FileIdentity(1, 1, 1, 9), FoundBy.SCAN))
    assert montage is not None
    await world.journal.wait(montage, "1 of 4 images missing or incomplete: x.tif is missing")
    noticed = await world.journal.montage(montage)
    assert noticed is not None
    world.now = noticed.changed_at
    assert await world.look(1799) == []
    assert await world.look(10) == ["images late (w)"]
    await world.journal.record(montage, Event.SUPERSEDED)
    assert await world.look() == ["over: images late (w)"]


@pytest.fixture
def apprise_ends() -> Iterator[None]:
    """End the threads that apprise keeps for its next message."""
    core = pytest.importorskip("apprise.apprise", reason='needs the extra "alerts"')
    yield
    for name in ("_shared_executor", "_coordinator_executor"):
        if executor := getattr(core, name, None):
            executor.shutdown()
            setattr(core, name, None)


async def test_a_message_arrives_through_apprise(apprise_ends: None) -> None:
    async with receiving() as receiver:
        address = f"json://user:secret@{receiver.url.split('/')[2]}/secret"
        await asyncio.to_thread(send, address, 1, "disk low", "/mips\x1b is full\nfree space", Severity.ERROR)
        (_, body) = receiver.requests[0]
        said: dict[str, Any] = json.loads(body)
        assert (said["title"], said["type"]) == ("temwatch: disk low", "failure")
        assert said["message"] == "/mips\\x1b is full\nfree space"
        receiver.answer = lambda _: 500
        with pytest.raises(Fault, match=r"address 1 did not take a message") as caught:
            await asyncio.to_thread(send, address, 1, "disk low", "x", Severity.INFO)
    assert "secret" not in str(caught.value)


SENDS = """
from daemon.notify.alerting import Severity
from daemon.notify.messages import send
from daemon.system.log import set_up_logging
from handlers.errors import Fault
set_up_logging("debug", "json")
try:
    send("json://user:secret@127.0.0.1:1/secret", 1, "disk low", "x", Severity.INFO)
except Fault as fault:
    print("refused:", fault)
"""


def test_no_line_of_the_log_shows_an_address() -> None:
    pytest.importorskip("apprise", reason='needs the extra "alerts"')
    done = subprocess.run([sys.executable, "-c", SENDS], capture_output=True, text=True, check=True)
    assert "refused: alerts.urls_file: address 1 did not take a message" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("json://localhost", 0o644, "is open to other users"),
        ("# none\n", 0o600, "holds no address"),
        ("json://user:secret@x\n" * 51, 0o600, "holds more than 50 addresses"),
    ],
)
def test_a_wrong_file_of_addresses_is_named_and_shows_no_secret(
    tmp_path: Path, text: str, mode: int, problem: str
) -> None:
    path = tmp_path / "alerts.urls"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(SettingsFault, match=problem) as caught:
        read_addresses(path)
    assert "secret" not in str(caught.value)


def test_an_address_that_apprise_does_not_know_is_named_by_its_number() -> None:
    pytest.importorskip("apprise", reason='needs the extra "alerts"')
    with pytest.raises(SettingsFault, match="address 3 is not one of apprise") as caught:
        send("nonsense://user:secret@x", 3, "a", "b", Severity.INFO)
    assert "secret" not in str(caught.value)


async def test_the_heartbeat_beats_while_the_daemon_is_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.02)
    async with receiving() as receiver:
        receiver.answer = lambda _: 200
        world.heartbeat_url, world.facts = receiver.url, replace(FINE, render_fault="away")
        task = asyncio.create_task(world.alerting.run())
        try:
            await asyncio.sleep(0.2)  # ten beats, if it did not wait for readiness
            assert receiver.beats == 0
            world.facts = FINE
            await receiver.until(lambda: receiver.beats > 2)
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
