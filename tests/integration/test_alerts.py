"""Alerts with a real journal, and messages through apprise to a receiver on a loopback port."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event
from daemon.notify import alerts as alerts_module
from daemon.notify.alerts import Alerting
from daemon.notify.messages import send
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
        self.refuses = False
        self.heartbeat_url: str | None = None
        self.restart()

    def settings(self) -> Settings:
        watch = {"name": "w", "directory": "/data", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/mips"}}
        render = {"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}
        alerts = {"urls_file": str(self.path), "heartbeat_url": self.heartbeat_url}
        return Settings.model_validate({"render": render, "watch": [watch], "alerts": alerts})

    def restart(self) -> None:
        """Lose everything that is not in the journal."""

        async def facts() -> Facts:
            return self.facts

        self.alerting = Alerting(self.settings, self.journal, facts, wall=lambda: self.now, deliver=self._deliver)

    async def _deliver(self, title: str, body: str, is_good: bool) -> None:
        if self.refuses:
            raise StorageFault("alerts", "a service did not take it")
        assert is_good == title.startswith("over")
        self.told.append(title)

    async def look(self, after_s: float = 10.0) -> list[str]:
        """Look some time later; return the new messages."""
        self.now += after_s
        told = len(self.told)
        await self.alerting.look()
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
    world.refuses = True
    assert await world.look() == []
    world.restart()
    world.refuses = False
    assert await world.look(120) == ["disk low"]
    world.restart()
    world.facts = FINE
    assert await world.look() == ["over: disk low"]
    world.restart()
    assert await world.look(12 * HOUR) == ["montage failed (w)"]


async def test_a_message_that_is_not_delivered_is_a_problem_and_is_tried_again(world: World) -> None:
    world.refuses, world.facts = True, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.look() == []
    assert "did not take it" in world.alerting.problem
    world.refuses = False
    assert await world.look(10) == []  # not at once
    assert await world.look(60) == ["disk low"]
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


async def test_a_message_arrives_through_apprise(tmp_path: Path, apprise_ends: None) -> None:
    path = tmp_path / "alerts.urls"
    async with receiving() as receiver:
        path.write_text(f"# ours\njson://{receiver.url.split('/')[2]}/em\n")
        path.chmod(0o600)
        await asyncio.to_thread(send, path, "disk low", "/mips\x1b is full\nfree space", is_good=False)
        (_, body) = receiver.requests[0]
        said: dict[str, Any] = json.loads(body)
        assert (said["title"], said["type"]) == ("temwatch: disk low", "warning")
        assert said["message"] == "/mips\\x1b is full\nfree space"
        receiver.answer = lambda _: 500
        with pytest.raises(Fault, match="could not be delivered"):
            await asyncio.to_thread(send, path, "disk low", "x")


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("json://localhost", 0o644, "is open to other users"),
        ("# none\n", 0o600, "holds no address"),
        ("nonsense://user:secret@x\n", 0o600, "address 1 is not one of apprise"),
    ],
)
def test_a_wrong_file_of_addresses_is_named_and_shows_no_secret(
    tmp_path: Path, text: str, mode: int, problem: str
) -> None:
    pytest.importorskip("apprise", reason='needs the extra "alerts"')
    path = tmp_path / "alerts.urls"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(SettingsFault, match=problem) as caught:
        send(path, "a", "b")
    assert "secret" not in str(caught.value)


async def test_the_heartbeat_beats_while_the_daemon_is_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "HEARTBEAT_S", 0.02)
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
