"""A simulated day of events gives exactly the expected messages, even if the daemon dies before each delivery.

In this case the messages go through apprise to a receiver on a loopback port.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import differences
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, Step
from daemon.notify.alerts import observer
from daemon.notify.alerts.alerts import Alerting
from daemon.notify.alerts.expiry import Expiry
from daemon.notify.alerts.messages import Message
from daemon.notify.alerts.rules import AlertKind
from daemon.notify.alerts.silences import SilenceRequest, silence
from daemon.pipeline.health import Disk, Facts, HookFacts
from daemon.watching.roots import RootStatus
from handlers.errors import MetafileFault
from handlers.identity import FileIdentity
from handlers.quality.rules import Finding, Judgement, Rule, Verdict
from tests.integration.receiver import apprise_ending, receiving

MINUTE, HOUR = 60, 3600
MIDNIGHT = 1_767_225_600.0
"""The first of January 2026, UTC."""
BAD = Judgement(Verdict.FAIL, (Finding(Rule.MIN_FOCUS, 16.0, 3.0, Verdict.FAIL, ("t",), 1),))
GOOD = Judgement(Verdict.PASS, ())
Action = Callable[["Day"], Awaitable[object]]


def root(status: RootStatus = RootStatus.WATCHING) -> Any:
    reasons = () if status is RootStatus.WATCHING else ("does not answer",)
    return SimpleNamespace(name="w", directory=Path("/data"), status=status, reasons=reasons, last_scan_at=1.0)


FINE = Facts((root(),), (), None, None, None, 7200.0)


@dataclass
class Day:
    """A daemon's journal and facts, and the delivered messages."""

    path: Path
    dies: bool
    """Whether the process dies between each check and its delivery, and after it. Then messages go through apprise."""
    now: float = MIDNIGHT
    facts: Facts = FINE
    delivered: list[tuple[str, str]] = field(default_factory=list)
    """Time and title of each message."""
    ids: list[str] = field(default_factory=list)
    montages: dict[str, int] = field(default_factory=dict)

    async def open(self) -> None:
        """Open the journal, and start the alerts."""
        self.journal = await Journal(self.path / "journal.sqlite", clock=lambda: self.now).__aenter__()
        self.start()

    def start(self) -> None:
        """Start the alerts with nothing but the content of the journal."""

        async def facts() -> Facts:
            return self.facts

        send = None if self.dies else self.take
        self.alerting = Alerting(self.settings, self.journal, facts, wall=lambda: self.now, send=send)

    def settings(self) -> Settings:
        watch = {"name": "w", "directory": "/data", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/mips"}}
        render = {"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}
        alerts = {"urls_file": str(self.path / "urls")}
        return Settings.model_validate({"render": render, "watch": [watch], "alerts": alerts})

    def take(self, _address: str, _number: int, message: Message) -> None:
        self.delivered.append((clock(self.now), message.title))
        self.ids.append(message.id)

    def receive(self, message: dict[str, Any]) -> int:
        """Accept a message like a service; return the status of the answer."""
        self.delivered.append((clock(self.now), message["title"].removeprefix("temwatch: ")))
        self.ids.append(message["message"].rpartition(" ")[2])
        return 204

    async def check(self) -> None:
        await self.alerting.check()
        if self.dies:
            self.start()
        await self.alerting.deliver()
        if self.dies:
            self.start()

    # --- events

    async def montage(self, name: str, z: int | None = None, scope: str | None = None) -> int:
        """Notice a metafile; let it settle if it has a z."""
        number = len(self.montages) + 1
        identity = FileIdentity(1, 1, 1, number)
        path = Path(f"/data/_metadata_{number:04d}_.json")
        montage = await self.journal.notice(Sighting("w", path, identity, FoundBy.SCAN))
        assert montage is not None
        self.montages[name] = montage
        if z is not None:
            facts = Settled(f"d{number}", float(z), "em/v1/s", "em/v1/m", (f"t{number}",), (), scope=scope)
            await self.journal.settle(Inspection(montage, identity, identity, facts.digest), facts)
        return montage

    async def complete(self, name: str, z: int) -> None:
        montage = await self.montage(name, z)
        for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED, Event.COMPLETED):
            await self.journal.record(montage, event)


def clock(at: float) -> str:
    minutes = round(at - MIDNIGHT) // MINUTE
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def facts(**changes: Any) -> Action:
    async def act(day: Day) -> None:
        day.facts = replace(FINE, **changes)

    return act


def failing(name: str) -> Action:
    async def act(day: Day) -> None:
        await day.journal.fail(await day.montage(name), MetafileFault(name, "is truncated"))

    return act


def retried(name: str) -> Action:
    async def act(day: Day) -> None:
        await day.journal.retry(day.montages[name], "changed")
        await day.journal.record(day.montages[name], Event.SUPERSEDED)

    return act


def section(z: int, judgement: Judgement = GOOD) -> Action:
    async def act(day: Day) -> None:
        await day.journal.judge(await day.montage(f"section {z}", z, "t2"), judgement, None)

    return act


async def images_late(day: Day) -> None:
    await day.journal.wait(await day.montage("late"), "1 of 4 images missing or incomplete: x.tif is missing")


async def images_came(day: Day) -> None:
    await day.journal.record(day.montages["late"], Event.SUPERSEDED)


async def differs(day: Day) -> None:
    await day.complete("whole", 9000)
    found = [differences.Found(day.montages["whole"], 3, "apply")]
    await day.journal.write(lambda connection: differences.record(connection, found, (), day.now))


async def replayed(day: Day) -> None:
    await day.journal.replay(day.montages["whole"], Step.APPLY)


def silenced(hours: float, **keys: str) -> Action:
    async def act(day: Day) -> None:
        request = SilenceRequest.model_validate({"for_s": hours * HOUR, **keys})
        await silence(day.journal, request, lambda: day.now)

    return act


FULL = facts(disks=(Disk("/mips", 0, 1, "is full"),))
OK = facts()
ACTIONS: dict[str, list[Action]] = {
    # Too short for a message, then long enough.
    "00:10": [facts(render_fault="cannot connect")],
    "00:14": [OK],
    "02:00": [facts(render_fault="cannot connect")],
    "03:00": [OK],
    "04:00": [failing("a"), failing("b")],
    "04:03": [failing("c")],
    "05:00": [retried("a"), retried("b")],
    "05:10": [retried("c")],
    "06:00": [facts(roots=(root(RootStatus.UNREACHABLE),))],
    "06:01": [OK],
    "06:10": [facts(roots=(root(RootStatus.PAUSED),))],
    "06:20": [OK],
    # A microscope that is quiet between two sections, and when its session has ended.
    **{f"08:{minute}0": [section(minute)] for minute in range(6)},
    "09:00": [section(10, BAD)],
    "09:05": [section(11)],
    "09:10": [section(12, BAD)],
    "09:15": [section(13, BAD)],
    "09:20": [section(14, BAD)],
    "10:10": [section(15)],
    "10:20": [silenced(14, kind="scope quiet")],
    "13:00": [images_late],
    "13:50": [images_came],
    "14:00": [FULL],
    "14:10": [facts(disks=(Disk("/mips", 9, 1, full_in_s=5 * HOUR),))],
    "14:20": [OK],
    "15:00": [facts(render_fault="asks for a login", render_needs_person=True)],
    "15:10": [OK],
    "16:00": [facts(worker_deaths=3)],
    "16:10": [OK],
    "16:30": [facts(oldest_unfinished_s=7201.0)],
    "16:40": [OK],
    "17:00": [facts(hooks=(HookFacts("h", 0, 1, None, ""),))],
    "17:10": [OK],
    "18:00": [differs],
    "18:10": [replayed],
    "20:00": [silenced(1, kind="disk low"), FULL],
    "20:30": [silenced(0, kind="disk low")],
    "20:40": [OK],
    "21:00": [facts(journal_fault="the disk is full")],
    "21:10": [OK],
}
EXPECTED = [
    ("02:05", "render-ws unreachable"),
    ("03:00", "over: render-ws unreachable"),
    ("04:01", "montage failed (w): 2"),
    ("04:04", "montage failed (w)"),
    ("05:10", "over: montage failed (w): 3"),
    ("06:12", "watch unreachable (w)"),
    ("06:20", "over: watch unreachable (w)"),
    ("07:00", "daily digest"),
    ("09:00", "QC rule broken (w, t2)"),
    ("09:10", "QC rule broken (w, t2)"),
    ("09:20", "QC rule broken (w, t2): 2"),
    ("09:50", "scope quiet (w, t2)"),
    ("10:10", "over: scope quiet (w, t2)"),
    ("12:00", "certificate or token expires"),
    ("13:31", "images late (w)"),
    ("13:50", "over: images late (w)"),
    ("14:00", "disk low"),
    ("14:10", "disk fills"),
    ("14:10", "over: disk low"),
    ("14:20", "over: disk fills"),
    ("15:00", "login refused"),
    ("15:10", "over: login refused"),
    ("16:00", "workers lost"),
    ("16:10", "over: workers lost"),
    ("16:30", "backlog"),
    ("16:40", "over: backlog"),
    ("17:00", "hook given up"),
    ("17:10", "over: hook given up"),
    ("18:00", "verify differences (w)"),
    ("18:10", "over: verify differences (w)"),
    ("20:30", "disk low"),
    ("20:40", "over: disk low"),
    ("21:00", "journal not writable"),
    ("21:10", "over: journal not writable"),
]


def minutes_of_checks() -> list[int]:
    """Return the minutes of the day at which the alerts are checked: at events, at due messages, and hourly."""
    begun = [int(at[:2]) * 60 + int(at[3:]) for at in ACTIONS]
    due = [int(at[:2]) * 60 + int(at[3:]) for at, _ in EXPECTED]
    return sorted({*range(0, 1440, 60), *due, *(minute - 1 for minute in due), *begun, *(at + 1 for at in begun)})


@pytest.fixture
async def day(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Day]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    certificate = Expiry("render.ca_file: the certificate for 'x'", MIDNIGHT + 14 * 86_400 + 12 * HOUR - 1)
    monkeypatch.setattr(observer, "expiries", lambda _: [certificate])
    day = Day(tmp_path, request.param)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(time.tzset)
        stack.callback(monkeypatch.undo)
        receiver = await stack.enter_async_context(receiving())
        receiver.answer = day.receive
        if day.dies:
            stack.enter_context(apprise_ending())
        (tmp_path / "urls").write_text(f"json://{receiver.url.removeprefix('http://')}")
        (tmp_path / "urls").chmod(0o600)
        await day.open()
        stack.push_async_exit(day.journal.__aexit__)
        yield day


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # by apprise
@pytest.mark.timeout(500)  # hundreds of turns between threads
@pytest.mark.parametrize("day", [False, True], indirect=True, ids=["undisturbed", "dies before each delivery"])
async def test_the_events_of_a_day_give_exactly_the_expected_messages(day: Day) -> None:
    for minute in minutes_of_checks():
        day.now = MIDNIGHT + minute * MINUTE
        for act in ACTIONS.get(clock(day.now), ()):
            await act(day)
        await day.check()
    assert day.delivered == EXPECTED
    assert len(set(day.ids)) == len(EXPECTED)


def test_the_day_has_a_message_of_each_kind() -> None:
    assert {kind for kind in AlertKind if any(str(kind) in title for _, title in EXPECTED)} == set(AlertKind)
