"""Output of `temwatch` on terminals of 80 and 160 columns, compared with the screens in tests/screens."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from daemon.commands import daemon_client
from daemon.commands.daemon_client import ALIVE_S
from daemon.commands.status.report import JOURNAL_S
from daemon.config.settings import HttpSettings
from daemon.journal.journal import Journal
from tests.settings_text import UNREACHABLE, settings_text
from tests.terminal import Session, assert_screen, run_in_terminal

WIDTHS = (80, 160)


def montage(number: int, state: str, **values: Any) -> dict[str, Any]:
    """Return a montage in the form of /api/montages."""
    name = f"_metadata_20260105080000_295434_{1000 + number:06d}_0_.json"
    return {
        "id": number,
        "watch": "temca2",
        "metafile": f"/data/temca2/20260105/{1000 + number:06d}/0/{name}",
        "state": state,
        "failed_in": None,
        "z": 1000.0 + number,
        "tiles": 200,
        "fault": None,
        "waiting_for": None,
        "attempt": 1,
        "next_try_at": None,
        "noticed_at": f"2026-01-05T08:{number % 60:02d}:00.000+00:00",
        "changed_at": f"2026-01-05T09:{number % 60:02d}:00.000+00:00",
        "complete_at": None,
        **values,
    }


def failed(number: int, kind: str, problem: str, hint: str, subject: str = "", **values: Any) -> dict[str, Any]:
    row = montage(number, "failed", **{"failed_in": "noticed", **values})
    fault = {"kind": kind, "subject": subject or row["metafile"], "problem": problem, "hint": hint}
    return {**row, "fault": fault}


def failures() -> list[dict[str, Any]]:
    """Return 13 FAILED montages with three causes."""
    cut = [
        failed(
            number,
            "ImageFault",
            f"is truncated: expected 20,971,640 bytes, found {number},048,576",
            "copy or acquire the image again",
            f"/data/temca2/20260105/{1000 + number:06d}/0/col0012_row0034_cam3.tif",
            failed_in="ingested",
            attempt=5,
        )
        for number in (*range(1, 10), 12)
    ]
    missing = [
        failed(
            number,
            "ImagesMissing",
            f"{number} of 200 images did not arrive in 3600 s",
            "copy them",
        )
        for number in (20, 21)
    ]
    return [*cut, *missing, failed(30, "MetafileFault", "expected a number in grid, found 'x'", "", z=None, tiles=None)]


def waiting() -> list[dict[str, Any]]:
    """Return 104 unfinished montages: 100 wait for render-ws, four for images."""
    away = {"kind": "RenderUnavailable", "subject": "http://render:8080/render-ws/v1", "problem": "refuses connections"}
    rows = [
        montage(
            number,
            "settled",
            fault={**away, "hint": "start it"},
            attempt=7,
            next_try_at=f"2026-01-05T10:{number % 60:02d}:30.000+00:00",
        )
        for number in range(100, 200)
    ]
    return rows + [montage(n, "noticed", waiting_for=f"{n} of 200 images", z=None, tiles=None) for n in range(40, 44)]


class Answers:
    """A daemon's HTTP server with fixed answers."""

    def __init__(self) -> None:
        self.readyz: dict[str, Any] = {
            "ready": True,
            "reasons": [],
            "warnings": [],
            "watches": [{"name": "temca2", "status": "polling"}],
            "disks": [
                {
                    "directory": "/data/mipmaps",
                    "free_bytes": 1_234_000_000_000,
                    "needed_bytes": 268_435_456,
                    "problem": "",
                }
            ],
        }
        self.reload: dict[str, Any] = {"asked": 0, "answered": 0, "problems": [], "refused_at": None}
        self.montages: list[dict[str, Any]] = []
        done = montage(999, "complete", complete_at="2026-01-05T09:58:00.000+00:00")
        self.complete = [done]
        self.counts = {"temca2": {"complete": 1200}}

    def set_montages(self, rows: list[dict[str, Any]]) -> None:
        self.montages = rows
        states = [row["state"] for row in rows]
        self.counts = {"temca2": {"complete": 1200} | {state: states.count(state) for state in set(states)}}

    def answer(self, path: str, query: dict[str, list[str]]) -> dict[str, Any]:
        if path == "/api/montages":
            states = query["state"][0].split(",")
            rows = self.complete if states == ["complete"] else [row for row in self.montages if row["state"] in states]
            return {"montages": rows, "counts": self.counts}
        return {"/healthz": {"alive": True}, "/readyz": self.readyz, "/api/reload": self.reload}[path]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def port(answers: Answers) -> Iterator[int]:
    """Port of a server with these answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = json.dumps(answers.answer(parts.path, parse_qs(parts.query))).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, name="answers")
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


@pytest.fixture
def configure(tmp_path: Path) -> Callable[[int, str], None]:
    """Return a function that writes config.toml, last changed at a fixed time."""

    def write(port: int, extra: str = "") -> None:
        config = tmp_path / "config.toml"
        watched = settings_text(tmp_path / "acquisition", tmp_path / "mipmaps", url=UNREACHABLE)
        rest = f'[journal]\npath = "{tmp_path}/journal.sqlite"\n[http]\nport = {port}\n'
        config.write_text(f"{extra}{watched}{rest}")
        os.utime(config, (1767607200, 1767607200))  # 2026-01-05 10:00 UTC

    return write


def without_port(screen: str, port: int) -> str:
    return screen.replace(f":{port}", ":" + "0" * len(str(port)))


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    "options", [(), ("--failed",), ("--by-cause",)], ids=lambda options: "".join(options) or "plain"
)
def test_status_shows_failures_first_and_by_cause(
    answers: Answers, port: int, configure: Any, tmp_path: Path, columns: int, options: tuple[str, ...]
) -> None:
    answers.set_montages(waiting() + failures())
    reason = "render-ws is unavailable: http://render:8080/render-ws/v1: refuses connections (start it)"
    answers.readyz |= {"ready": False, "reasons": [reason]}
    configure(port)
    code, screen = run_in_terminal(["status", "--config", "config.toml", *options], columns, tmp_path)
    assert code == 0
    assert [line for line in screen.splitlines() if len(line) > columns] == []
    assert_screen(f"status{options[0].removeprefix('-') if options else ''}-{columns}", without_port(screen, port))


@pytest.mark.parametrize("columns", WIDTHS)
def test_status_of_a_healthy_daemon_shows_its_last_complete_montage(
    port: int, configure: Any, tmp_path: Path, columns: int
) -> None:
    configure(port)
    code, screen = run_in_terminal(["status", "--config", "config.toml"], columns, tmp_path)
    assert code == 0
    assert_screen(f"status-healthy-{columns}", without_port(screen, port))


def test_a_watch_that_does_not_exist_is_refused(port: int, configure: Any, tmp_path: Path) -> None:
    configure(port)
    code, screen = run_in_terminal(["status", "--config", "config.toml", "--watch", "temca9"], 80, tmp_path)
    assert (code, screen.strip()) == (2, "--watch: there is no watch 'temca9'; known are temca2")


def test_status_of_one_watch_does_not_show_the_others(
    answers: Answers, port: int, configure: Any, tmp_path: Path
) -> None:
    answers.set_montages([*failures(), montage(77, "noticed", watch="temca3")])
    answers.readyz["watches"].append({"name": "temca3", "status": "watching"})
    configure(port)
    _, screen = run_in_terminal(["status", "--config", "config.toml", "--watch", "temca3"], 80, tmp_path)
    assert "FAILED" not in screen
    assert "UNFINISHED: 1 montage" in screen


@pytest.mark.parametrize("columns", WIDTHS)
def test_status_and_health_work_while_the_configuration_is_refused(
    answers: Answers, port: int, configure: Any, tmp_path: Path, columns: int
) -> None:
    answers.reload |= {"problems": ["watch[0].z: is required"], "refused_at": "2026-01-05T09:59:00.000+00:00"}
    configure(port, "verbose = yes\n")
    code, screen = run_in_terminal(["status", "--config", "config.toml"], columns, tmp_path)
    assert code == 0
    assert_screen(f"status-refused-{columns}", without_port(screen, port))
    code, screen = run_in_terminal(["health", "--config", "config.toml"], columns, tmp_path)
    assert code == 0
    assert_screen(f"health-refused-{columns}", without_port(screen, port))


@pytest.mark.parametrize("columns", WIDTHS)
def test_status_names_the_process_that_holds_the_journal_and_does_not_answer(
    configure: Any, tmp_path: Path, columns: int
) -> None:
    code = """
import os, pathlib, signal, socket, sys
from daemon.system.locks import lock_journal
with lock_journal(pathlib.Path(sys.argv[1])) as lock, socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    journal = tmp_path / "journal.sqlite"
    asyncio.run(_open_and_close(journal))
    command = [sys.executable, "-c", code, str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stopped:
        try:
            port = int(stopped.stdout.readline())  # type: ignore[union-attr]
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
            configure(port)
            exit_code, screen = run_in_terminal(["status", "--config", "config.toml"], columns, tmp_path)
            answer = run_in_terminal(["health", "--config", "config.toml"], columns, tmp_path)
        finally:
            stopped.send_signal(signal.SIGKILL)
    assert exit_code == 0
    for text in (" ".join(screen.split()), " ".join(answer[1].split())):
        assert f"process {stopped.pid} holds its journal: it is stopped by a signal" in text
        assert f"kill -CONT {stopped.pid}" in text
    assert "from the journal:" in screen, "a journal without montages can be read"
    assert answer[0] == 2


async def _open_and_close(journal: Path) -> None:
    async with Journal(journal):
        pass


def test_a_stopped_process_is_reported_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        monkeypatch.setattr(daemon_client, "journal_owner", lambda journal: stopped.pid)
        monkeypatch.setattr(daemon_client, "is_alive", None)
        found = daemon_client.find_daemon(HttpSettings(), tmp_path / "journal.sqlite")
        stopped.kill()
    assert (found.is_alive, found.pid) == (False, stopped.pid)


def test_the_time_outs_for_a_daemon_that_does_not_answer_add_up_to_less_than_five_seconds() -> None:
    assert ALIVE_S + JOURNAL_S < 5


@pytest.mark.parametrize("columns", WIDTHS)
def test_follow_replaces_each_report_by_the_next_until_ctrl_c(
    answers: Answers, port: int, configure: Any, tmp_path: Path, columns: int
) -> None:
    answers.set_montages(waiting()[:1])
    configure(port)
    session = Session(["status", "--config", "config.toml", "--follow"], columns, tmp_path)
    session.wait_for(lambda screen: "UNFINISHED: 1 montage" in screen)
    answers.set_montages([])
    shown = session.wait_for(lambda screen: "backlog     none" in screen)
    session.press_ctrl_c()
    code, _ = session.end()
    assert code == 0
    assert_screen(f"status-healthy-{columns}", without_port(shown, port))


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_errors_of_a_wrong_configuration_are_listed_by_key(configure: Any, tmp_path: Path, columns: int) -> None:
    configure(99999, "verbose = true\n")
    code, screen = run_in_terminal(["check-config", "--config", "config.toml"], columns, tmp_path)
    assert code == 2
    assert_screen(f"check-config-refused-{columns}", screen)
