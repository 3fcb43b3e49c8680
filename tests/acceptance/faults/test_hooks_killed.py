"""kill -9 of the daemon around COMPLETE, with a faulty receiver: exactly the committed events arrive, in order."""

import contextlib
import json
import random
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon.montages.announcements import KIND_OF_EVENT, Kind
from daemon.montages.states import Event
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.rows import FaultRun, Scale
from tests.acceptance.rig import Program, Rig, running, temwatch, wait_for

SLOW_S = 0.5
FIRST_GRID = 2000
FINAL_S = 600.0
LIFE_S = 300.0
"""Time-out of a start, and of a section until it is MIPMAPPED: other work may take most of the machine."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the receiver decides."""

    protocol_version = "HTTP/1.1"
    receiver: "Receiver"

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.receiver.take(event)
        if status == 0:  # the connection drops after the request was read
            self.close_connection = True
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """A server that does not wait for its threads."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: a killed daemon drops its connections."""


class Receiver:
    """A receiver that at random is slow, refuses, redirects, or drops the connection after it has read the request."""

    def __init__(self, rng: random.Random) -> None:
        self.accepted: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.answers: defaultdict[int, int] = defaultdict(int)
        self.is_well = False
        self._rng = rng
        self._lock = threading.Lock()
        self._port = 0
        self._server: Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/events"

    def start(self) -> None:
        handler = type("Own", (Handler,), {"receiver": self})
        self._server = Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def take(self, event: dict[str, Any]) -> int:
        """Record an event; return the answer, 0 for none."""
        with self._lock:
            self.seen.append(event)
            status = 204 if self.is_well else self._rng.choice([204] * 8 + [500, 410, 302, 0, -1])
            self.answers[status] += 1
            if status == 204:
                self.accepted.append(event)
        if status == -1:
            time.sleep(SLOW_S)
            with self._lock:
                self.accepted.append(event)
            return 204
        return status


class Hooked(Rig):
    """A rig whose daemon has a hook."""

    hook = ""

    def config_text(self) -> str:
        """Return the configuration with the hook."""
        return f"{super().config_text()}\n{self.hook}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201  to repeat the test
    receiver = Receiver(random.Random(seed))
    try:
        yield receiver
    finally:
        receiver.stop()


def rows(journal: Path, query: str) -> list[tuple[Any, ...]]:
    """Return rows of a journal to which a daemon may be writing; none before its tables exist."""
    if not journal.exists():
        return []
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=10)
    with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):
        return connection.execute(query).fetchall()
    return []


def announced_by_events(journal: Path) -> dict[str, list[str]]:
    """Return the kinds of the messages that the committed events of each montage require."""
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for montage_id, event in rows(journal, "SELECT montage_id, event FROM events ORDER BY id"):
        if kind := KIND_OF_EVENT.get(Event(event)):
            expected[f"montages/{montage_id}"].append(str(kind))
    return dict(expected)


def problems(journal: Path, receiver: Receiver) -> list[str]:
    """Return a text for each message that is missing, out of order, or not committed."""
    outbox = rows(journal, "SELECT number, event_id, kind, subject, data FROM outbox ORDER BY number")
    by_id = {event_id: (number, kind, subject, json.loads(data)) for number, event_id, kind, subject, data in outbox}
    found = []
    recorded: defaultdict[str, list[str]] = defaultdict(list)
    for _, _, kind, subject, _ in outbox:
        if subject.startswith("montages/"):
            recorded[subject].append(kind)
    if recorded != (expected := announced_by_events(journal)):
        found.append(f"the outbox differs from the events: {dict(recorded)}; {expected}")
    accepted = {event["id"] for event in receiver.accepted}
    found += [f"{kind} of {subject} never arrived" for i, (_, kind, subject, _) in by_id.items() if i not in accepted]
    for event in receiver.seen:
        if event["id"] not in by_id:
            found.append(f"{event['type']} of {event['subject']} was not committed")
        elif (event["type"], event["subject"], event["data"]) != by_id[event["id"]][1:]:
            found.append(f"{event['type']} of {event['subject']} differs from what was committed")
    order: defaultdict[str, list[str]] = defaultdict(list)
    for event in receiver.accepted:
        order[event["subject"]].append(event["sequence"])
    found += [f"{subject} arrived in the order {each}" for subject, each in order.items() if each != sorted(each)]
    return found


def kill_around_complete(rig: Rig, journal: Path, rng: random.Random, montages: int) -> None:
    """Kill the daemon up to a second after the newest montage is MIPMAPPED, when others are about to be COMPLETE."""
    states = "SELECT state FROM montages ORDER BY id"

    def is_mipmapped() -> bool:
        found = [state for (state,) in rows(journal, states)]
        return len(found) == montages and found[-1] in ("mipmapped", "applied", "complete", "failed")

    wait_for(is_mipmapped, LIFE_S, lambda: str(rows(journal, states)))
    time.sleep(rng.random() ** 2)
    assert isinstance(rig.daemon, Program)
    rig.daemon.kill()


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_every_event_arrives_in_order_although_the_daemon_is_killed_and_the_receiver_fails(
    tmp_path: Path, scale: Scale, enter: Callable[[FaultRun], None], receiver: Receiver
) -> None:
    kills, rng = scale.pick(100, 6, 3), random.Random(secrets.randbits(32))
    hooked = Hooked(tmp_path, {"watch.stacks.close_after_s": 0.2})
    hooked.hook = f'[[hook]]\nname = "h"\nurl = "{receiver.url}"\non = {json.dumps([str(kind) for kind in Kind])}\n'
    with running(hooked) as rig:
        journal, config = tmp_path / "daemon.sqlite", rig.config()
        sections = []
        for number in range(kills):
            sections.append(write_section(section_plan(FIRST_GRID + number, tiles=1, size=(64, 64)), rig.acquisition))
            if number % 5 == 4:
                receiver.stop()
            kill_around_complete(rig, journal, rng, number + 1)
            if number % 5 == 4:
                receiver.start()
            rig.start(LIFE_S)
        receiver.is_well = True
        replays = _complete_all(config, journal)
        _deliver_all(config, journal)
        found = problems(journal, receiver)
        repeated = len(receiver.seen) - len({event["id"] for event in receiver.seen})
        enter(
            FaultRun(
                "kill -9 around COMPLETE, with a hook whose receiver is down, slow, refuses, redirects or hangs up",
                kills,
                len(sections),
                len(sections),
                lost=len(found),
                note=f"{len({event['id'] for event in receiver.accepted})} events, {repeated} repeated requests; "
                f"{replays} replays of montages that failed after ten crashes; "
                f"answers {dict(sorted(receiver.answers.items()))}; {found[:5] or 'all arrived in order'}",
            )
        )


def _complete_all(config: Path, journal: Path) -> int:
    """Wait until every montage is COMPLETE; return how often montages were replayed that failed after ten crashes."""
    replays = 0

    def is_done() -> bool:
        nonlocal replays
        states = {state for (state,) in rows(journal, "SELECT DISTINCT state FROM montages")}
        if "failed" in states:
            replays += 1
            assert temwatch("replay", "--state", "failed", "--config", str(config)).returncode == 0
        return states == {"complete"}

    wait_for(is_done, FINAL_S, lambda: str(rows(journal, "SELECT state, count(*) FROM montages GROUP BY state")))
    return replays


def _deliver_all(config: Path, journal: Path) -> None:
    """Retry the refused messages until none waits; the daemon itself waits for an hour after a 410."""

    def is_done() -> bool:
        waiting = [str(each) for (each,) in rows(journal, "SELECT id FROM deliveries ORDER BY id LIMIT 500")]
        queued = rows(journal, "SELECT position FROM hooks")[0][0]
        if waiting:
            temwatch("notify", "retry", *waiting, "--config", str(config))
        return not waiting and bool(queued == rows(journal, "SELECT max(number) FROM outbox")[0][0])

    wait_for(is_done, FINAL_S, lambda: f"delivered: {rows(journal, 'SELECT * FROM deliveries')}")
