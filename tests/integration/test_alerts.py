"""Alerts with a real journal, and messages through apprise to a receiver on a loopback port."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event
from daemon.montages.verdicts import Decision
from daemon.notify.alerts import alerts, broadcast, heartbeat
from daemon.notify.alerts.addresses import read_addresses, send
from daemon.notify.alerts.alerts import Alerting
from daemon.notify.alerts.messages import Message
from daemon.notify.alerts.rules import Severity
from daemon.notify.alerts.silences import SilenceRequest, silence
from daemon.pipeline.health import Disk, Facts
from handlers.errors import Fault, MetafileFault, SettingsFault, StorageFault
from handlers.identity import FileIdentity
from handlers.quality.rules import Finding, Judgement, Rule, Verdict
from tests.integration.receiver import apprise_ending, receiving

# apprise imports a module of Python 3.11 that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
HOUR = 3600.0
FINE = Facts((), (), None, None, None, 7200.0)


class World:
    """A journal, facts that tests set, and the delivered messages."""

    def __init__(self, journal: Journal, tmp_path: Path) -> None:
        self.journal = journal
        self.path = tmp_path / "alerts.urls"
        self.facts = FINE
        self.facts_requests = 0
        self.now = 1.7e9
        self.titles: list[str] = []
        """Title of each delivered message."""
        self.bodies: list[str] = []
        self.severities: list[Severity] = []
        self.sent: list[tuple[str, str]] = []
        """Address and id of each message."""
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
        alerts = {"urls_file": str(self.path), "heartbeat_url": self.heartbeat_url, "daily_digest": ""}
        return Settings.model_validate({"render": render, "watch": [watch], "alerts": alerts})

    def restart(self) -> None:
        """Lose everything that is not in the journal."""

        async def facts() -> Facts:
            self.facts_requests += 1
            return self.facts

        self.alerting = Alerting(self.settings, self.journal, facts, wall=lambda: self.now, send=self.send)

    def _take(self, address: str, number: int, message: Message) -> None:
        if address in self.refusing:
            raise StorageFault("alerts.urls_file", f"address {number} did not accept a message")
        assert (message.severity is Severity.OVER) == message.title.startswith("over")
        self.sent.append((address, message.id))
        self.titles.append(message.title)
        self.bodies.append(message.body)
        self.severities.append(message.severity)

    async def check(self, after_s: float = 10.0) -> list[str]:
        """Check and deliver after some time; return the titles of the new messages."""
        self.now += after_s
        before = len(self.titles)
        await self.alerting.check()
        await self.alerting.deliver()
        return self.titles[before:]

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


async def test_failures_share_a_message_and_their_end_is_reported_once(world: World) -> None:
    first, second = await world.fail(1), await world.fail(2)
    assert await world.check() == []
    assert await world.check(60) == ["montage failed (w): 2"]
    assert await world.check(HOUR) == []
    await world.journal.retry(first, "changed")
    assert await world.check() == []
    await world.journal.dismiss(second, "not needed")
    assert await world.check() == ["over: montage failed (w): 2"]
    assert await world.check() == []
    assert await world.journal.read(lambda connection: connection.execute("SELECT * FROM alerts").fetchall()) == []


async def test_a_restart_at_any_moment_repeats_no_message_and_loses_none(world: World) -> None:
    await world.fail(1)
    assert await world.check() == []
    world.restart()
    assert await world.check(60) == ["montage failed (w)"]
    world.restart()
    assert await world.check() == []
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    world.refusing = {"json://one"}
    assert await world.check() == []
    world.restart()
    world.refusing = set()
    assert await world.check(120) == ["disk low"]
    world.restart()
    world.facts = FINE
    assert await world.check() == ["over: disk low"]
    world.restart()
    assert await world.check(12 * HOUR) == ["montage failed (w)"]


async def test_a_message_that_is_not_delivered_is_a_problem_and_is_retried(world: World) -> None:
    world.refusing, world.facts = {"json://one"}, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.check() == []
    assert world.alerting.problem == "alerts.urls_file: address 1 did not accept a message"
    world.refusing = set()
    assert await world.check(10) == []  # the address is still paused
    assert await world.check(60) == ["disk low"]
    assert world.alerting.problem == ""


async def test_an_address_that_accepted_a_message_does_not_get_it_again_while_another_refuses(world: World) -> None:
    world.addresses("json://one", "json://two")
    world.refusing, world.facts = {"json://two"}, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.check() == ["disk low"]
    assert "address 2" in world.alerting.problem
    world.restart()
    world.facts = FINE
    assert await world.check(60) == ["over: disk low"]
    assert "address 2" in world.alerting.problem
    world.refusing = set()
    assert await world.check(60) == ["disk low", "over: disk low"]
    ids = [message_id for _, message_id in world.sent]
    assert world.sent == [
        ("json://one", ids[0]),
        ("json://one", ids[1]),
        ("json://two", ids[0]),
        ("json://two", ids[1]),
    ]
    assert (await world.check(60), world.alerting.problem) == ([], "")


async def test_a_message_that_no_address_accepts_for_a_day_is_given_up_and_stays_a_problem(world: World) -> None:
    world.refusing, world.facts = {"json://one"}, replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    for _ in range(25):
        assert await world.check(HOUR) == []
    assert world.alerting.problem
    world.refusing = set()
    assert await world.check(HOUR) == ["disk low"]  # the condition lasts, so there is a new message
    assert len({message_id for _, message_id in world.sent}) == 1


async def test_an_address_that_never_answers_delays_no_other_address_and_uses_one_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "SEND_S", 0.02)
    world.addresses("json://dead", "json://two")
    answers, begun = threading.Event(), []
    send = world.send

    def hang(address: str, number: int, message: Message) -> None:
        if address == "json://dead":
            begun.append(message.id)
            assert answers.wait(90)
        send(address, number, message)

    world.send = hang
    world.restart()
    try:
        world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
        await deliver_until(world, ["disk low"])
        world.facts = FINE
        await deliver_until(world, ["disk low", "over: disk low"])
        assert "address 1 has not accepted a message within" in world.alerting.problem
        assert len(begun) == 1
    finally:
        answers.set()
    monkeypatch.setattr(broadcast, "SEND_S", 20.0)
    assert (await world.check(60))[-1] == "over: disk low"
    assert [address for address, _ in world.sent].count(
        "json://dead"
    ) == 2  # each message once, despite the late answer
    assert world.alerting.problem == ""


async def deliver_until(world: World, titles: list[str]) -> None:
    """Check until these messages were delivered: on a slow machine even an address that answers misses its time-out."""
    async with asyncio.timeout(60):
        while world.titles != titles:
            await world.check(1.0)


async def silenced(world: World, for_s: float, **keys: str) -> list[dict[str, Any]]:
    """Silence alerts from now on; return the silences that are in force."""
    request = SilenceRequest.model_validate({"for_s": for_s, "by": "anna", **keys})
    rows: list[dict[str, Any]] = (await silence(world.journal, request, lambda: world.now))["silences"]
    return rows


async def test_a_silence_lasts_over_a_restart_until_its_end(world: World) -> None:
    (row,) = await silenced(world, 2 * HOUR, kind="disk low", reason="new disks on Monday")
    assert (row["kind"], row["watch"], row["by"], row["reason"]) == ("disk low", None, "anna", "new disks on Monday")
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    await world.fail(1)
    assert await world.check() == []
    assert await world.check(HOUR) == ["montage failed (w)"]
    world.restart()
    assert await world.check(0.9 * HOUR) == []
    assert await world.check(0.1 * HOUR) == ["disk low"]


async def test_the_end_of_a_silenced_alert_is_not_reported_and_a_silence_can_be_ended(world: World) -> None:
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.check() == ["disk low"]
    await silenced(world, HOUR)
    world.facts = FINE
    assert await world.check() == []
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    assert await world.check() == []
    assert await silenced(world, 0) == []
    assert await world.check() == ["disk low"]


async def test_a_silence_applies_to_a_watch_or_a_subject(world: World) -> None:
    first, second = await world.fail(1), await world.fail(2)
    assert len(await silenced(world, HOUR, subject=f"montages/{first}")) == 1
    assert len(await silenced(world, HOUR, kind="montage failed", watch="other")) == 2
    assert await world.check() == []
    assert await world.check(60) == ["montage failed (w)"]
    assert f"montage {second}" in world.bodies[-1]
    assert f"montage {first}" not in world.bodies[-1]


async def judged(world: World, z: int, rules: Sequence[Rule] = (), scope: str = "t2", montage: int = 0) -> int:
    """Record the verdict on a section that a microscope has made; return the montage."""
    number = 10 * z + montage
    path = Path(f"/data/_metadata_2017082900{number:04d}_.json")
    identity = FileIdentity(1, 1, 1, number)
    montage_id = await world.journal.notice(Sighting("w", path, identity, FoundBy.SCAN))
    assert montage_id is not None
    facts = Settled(f"{scope}{number}", float(z), "em/v1/s_raw", "em/v1/s_mips", (f"{scope}{number}",), (), scope=scope)
    await world.journal.settle(Inspection(montage_id, identity, identity, facts.digest), facts)
    await judge(world, montage_id, rules)
    return montage_id


async def judge(world: World, montage_id: int, rules: Sequence[Rule]) -> None:
    findings = tuple(Finding(rule, 16.0, 3.0, Verdict.FAIL, ("t",), 1) for rule in rules)
    await world.journal.judge(montage_id, Judgement(Verdict.FAIL if rules else Verdict.PASS, findings), None)


FOCUS, BLANK = Rule.MIN_FOCUS, Rule.MAX_BLANK_TILES


async def test_broken_rules_are_reported_by_microscope_once_in_ten_minutes(world: World) -> None:
    assert await world.check() == []
    await judged(world, 1, [FOCUS])
    await judged(world, 2)
    assert await world.check() == ["QC rule broken (w, t2)"]
    assert "montage 1 z 1: min_focus" in world.bodies[-1]
    await judged(world, 3, [FOCUS, BLANK])
    await judged(world, 4)
    await judged(world, 5, [BLANK])
    await judged(world, 6, [FOCUS], scope="t3")
    assert await world.check() == ["QC rule broken (w, t3)"]
    assert await world.check(580) == []
    assert await world.check(10) == ["QC rule broken (w, t2): 2"]
    assert "montage 3 z 3: min_focus, max_blank_tiles\nmontage 5 z 5: max_blank_tiles" in world.bodies[-1]
    assert await world.check(12 * HOUR) == []  # it is not repeated, and it does not end
    assert set(world.severities) == {Severity.WARNING}


async def test_three_sections_in_a_row_that_break_a_rule_are_an_error(world: World) -> None:
    await world.check()
    for z in (1, 2):
        await judged(world, z, [FOCUS])
        await judged(world, z, montage=1)  # another region of the section
        await world.check(600)
    assert world.severities == [Severity.WARNING] * 2
    await judged(world, 7, [FOCUS], scope="t3")
    third = await judged(world, 3, [BLANK])
    assert sorted(await world.check(600)) == ["QC rule broken (w, t2)", "QC rule broken (w, t3)"]
    assert sorted(world.severities[2:]) == [Severity.ERROR, Severity.WARNING]
    assert any("z 3: max_blank_tiles; 3 sections in a row" in body for body in world.bodies)
    await world.journal.decide(third, Decision.PASS, "anna", "the image is good")
    assert await world.check(600) == []  # a decision of a person causes no message
    await judged(world, 4)
    await judged(world, 5, [BLANK])
    assert await world.check(600) == ["QC rule broken (w, t2)"]
    assert world.severities[-1] is Severity.WARNING


async def test_a_rule_broken_before_the_first_observation_is_reported(world: World) -> None:
    await judged(world, 1, [FOCUS])
    await world.alerting.register()  # the daemon starts
    await judged(world, 2, [FOCUS])
    world.restart()
    await world.alerting.register()
    assert await world.check() == ["QC rule broken (w, t2)"]
    assert "montage 2 z 2" in world.bodies[-1]


async def test_a_crash_loses_no_broken_rule_and_repeats_none(world: World) -> None:
    await world.check()
    await judged(world, 1, [FOCUS])
    world.restart()
    assert await world.check() == ["QC rule broken (w, t2)"]
    await judged(world, 2, [FOCUS])
    world.refusing = {"json://one"}
    assert await world.check(700) == []  # stored, and not delivered
    world.restart()
    world.refusing = set()
    assert await world.check() == ["QC rule broken (w, t2)"]
    world.restart()
    assert await world.check(700) == []
    await silenced(world, HOUR, kind="QC rule broken")
    await judged(world, 3, [FOCUS])
    assert await world.check(700) == []
    assert await world.check(HOUR) == []  # it is an event without a duration


async def test_messages_are_sent_while_the_journal_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.check()
    fault = StorageFault("journal", "the disk is full")
    monkeypatch.setattr(type(world.journal), "fault", property(lambda _: fault))
    world.facts = replace(FINE, journal_fault=str(fault))
    assert await world.check() == ["journal not writable"]
    assert await world.check() == []
    monkeypatch.undo()
    world.facts = FINE
    assert await world.check() == ["over: journal not writable"]


async def test_a_message_is_sent_once_the_journal_has_stored_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    await world.check()
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    with monkeypatch.context() as patch:
        patch.setattr("daemon.notify.alerts.alerts.SAVE_S", 0.01)
        patch.setattr(world.journal, "write", hang)
        assert await world.check() == []
    assert await world.check() == ["disk low"]


async def test_three_workers_lost_in_ten_minutes_are_reported_and_three_in_a_day_are_not(world: World) -> None:
    for deaths in (0, 1, 2, 3):
        world.facts = replace(FINE, worker_deaths=deaths)
        assert await world.check(8 * HOUR) == []
    assert await world.check(700) == []
    for deaths in (4, 5):
        world.facts = replace(FINE, worker_deaths=deaths)
        assert await world.check(60) == []
    world.facts = replace(FINE, worker_deaths=6)
    assert await world.check(60) == ["workers lost"]
    assert await world.check(700) == ["over: workers lost"]


async def test_late_images_are_reported_before_the_montage_fails(world: World) -> None:
    path = Path("/data/_metadata_9_.json")
    montage = await world.journal.notice(Sighting("w", path, FileIdentity(1, 1, 1, 9), FoundBy.SCAN))
    assert montage is not None
    await world.journal.wait(montage, "1 of 4 images missing or incomplete: x.tif is missing")
    noticed = await world.journal.montage(montage)
    assert noticed is not None
    world.now = noticed.changed_at
    assert await world.check(1799) == []
    assert await world.check(10) == ["images late (w)"]
    await world.journal.record(montage, Event.SUPERSEDED)
    assert await world.check() == ["over: images late (w)"]


@pytest.fixture
def apprise_ends() -> Iterator[None]:
    with apprise_ending():
        yield


async def test_a_message_arrives_through_apprise(apprise_ends: None) -> None:
    async with receiving() as receiver:
        address = f"json://user:secret@{receiver.url.split('/')[2]}/secret"
        await asyncio.to_thread(send, address, 1, "disk low", "/mips\x1b is full\nfree space", Severity.ERROR)
        (_, body) = receiver.requests[0]
        message: dict[str, Any] = json.loads(body)
        assert (message["title"], message["type"]) == ("temwatch: disk low", "failure")
        assert message["message"] == "/mips\\x1b is full\nfree space"
        receiver.answer = lambda _: 500
        with pytest.raises(Fault, match=r"address 1 did not accept a message") as caught:
            await asyncio.to_thread(send, address, 1, "disk low", "x", Severity.INFO)
    assert "secret" not in str(caught.value)


SENDS = """
from daemon.notify.alerts.rules import Severity
from daemon.notify.alerts.addresses import send
from daemon.system.log import set_up_logging
from handlers.errors import Fault
set_up_logging("debug", "json")
try:
    send("json://user:secret@127.0.0.1:1/secret", 1, "disk low", "x", Severity.INFO)
except Fault as fault:
    print("refused:", fault)
"""


def test_no_log_line_shows_an_address() -> None:
    pytest.importorskip("apprise", reason='needs the extra "alerts"')
    done = subprocess.run([sys.executable, "-c", SENDS], capture_output=True, text=True, check=True)
    assert "refused: alerts.urls_file: address 1 did not accept a message" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("json://localhost", 0o644, "is open to other users"),
        ("# none\n", 0o600, "contains no address"),
        ("json://user:secret@x\n" * 51, 0o600, "contains more than 50 addresses"),
    ],
)
def test_a_wrong_file_of_addresses_is_refused_without_showing_a_secret(
    tmp_path: Path, text: str, mode: int, problem: str
) -> None:
    path = tmp_path / "alerts.urls"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(SettingsFault, match=problem) as caught:
        read_addresses(path)
    assert "secret" not in str(caught.value)


def test_an_address_that_apprise_does_not_know_is_refused_by_its_number() -> None:
    pytest.importorskip("apprise", reason='needs the extra "alerts"')
    with pytest.raises(SettingsFault, match="address 3 is not an apprise address") as caught:
        send("nonsense://user:secret@x", 3, "a", "b", Severity.INFO)
    assert "secret" not in str(caught.value)


async def test_an_unexpected_exception_in_the_alerts_does_not_end_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "CHECK_S", 0.01)
    world.facts = replace(FINE, disks=(Disk("/mips", 0, 1, "is full"),))
    observe, broken = world.alerting._observer.observe, [1]

    async def observe_after_a_bug(*arguments: Any) -> Any:
        if broken:
            raise ValueError(broken.pop())
        return await observe(*arguments)

    monkeypatch.setattr(world.alerting._observer, "observe", observe_after_a_bug)
    task = asyncio.create_task(world.alerting.run())
    try:
        async with asyncio.timeout(60):
            while not world.titles:  # noqa: ASYNC110  a thread appends to it
                await asyncio.sleep(0.01)
        assert (world.titles, task.done()) == (["disk low"], False)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_heartbeats_are_sent_only_while_the_daemon_is_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.02)
    async with receiving() as receiver:
        receiver.answer = lambda _: 200
        world.heartbeat_url, world.facts = receiver.url, replace(FINE, render_fault="away")
        task = asyncio.create_task(world.alerting.run())
        try:
            await receiver.until(lambda: world.facts_requests > 10)  # each heartbeat asks for them first
            assert receiver.heartbeats == 0
            world.facts = FINE
            await receiver.until(lambda: receiver.heartbeats > 2)
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
