"""`status` and `health` beside a daemon of another version, whose answers have other fields."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from daemon.temwatch import temwatch

ALIVE = {"/healthz": {"alive": True}}
MONTAGES: dict[str, Any] = {"montages": [], "counts": {}}
READY: dict[str, Any] = {"ready": True, "reasons": [], "warnings": [], "watches": [], "disks": []}


@contextlib.contextmanager
def answering(answers: dict[str, Any]) -> Iterator[str]:
    """Serve JSON by path; yield the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(tmp_path: Path, command: str, answers: dict[str, Any]) -> Result:
    with answering(ALIVE | answers) as url:
        config = tmp_path / "config.toml"
        port = url.rpartition(":")[2]
        config.write_text(f'[journal]\npath = "{tmp_path}/journal.sqlite"\n[http]\nport = {port}\n')
        return CliRunner().invoke(temwatch, [*command.split(), "--config", str(config)])


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        ({"ready": True, "reasons": []}, (0, "ready\n")),
        (
            {"ready": False, "reasons": [{"code": 1}, "a disk is full"], "warnings": None},
            (1, "not ready\n  a disk is full\n"),
        ),
        ({"ready": True, "reasons": "none", "more": 1}, (0, "ready\n")),
    ],
)
def test_health_reports_readiness_whatever_else_the_answer_has(
    tmp_path: Path, ready: dict[str, Any], expected: tuple[int, str]
) -> None:
    done = run(tmp_path, "health", {"/readyz": ready})
    assert (done.exit_code, done.stdout) == expected


@pytest.mark.parametrize("ready", [{"ready": "yes"}, {"reasons": []}])
def test_an_answer_without_readiness_is_not_that_of_a_temwatch(tmp_path: Path, ready: dict[str, Any]) -> None:
    done = run(tmp_path, "health", {"/readyz": ready})
    assert (done.exit_code, done.stdout) == (2, "")
    assert "unreachable: no temwatch answers at" in done.stderr


@pytest.mark.parametrize(
    ("answers", "field"),
    [
        ({"/readyz": {"ready": True, "reasons": []}, "/api/montages": MONTAGES}, "warnings"),
        ({"/readyz": READY | {"reasons": [{"code": 1}]}, "/api/montages": MONTAGES}, "reasons"),
        ({"/readyz": READY, "/api/montages": {"montages": []}}, "counts"),
        ({"/readyz": READY, "/api/montages": {"montages": 5, "counts": {}}}, "montages"),
        ({"/readyz": READY, "/api/montages": {"montages": [{"id": 1}], "counts": {}}}, "montages.watch"),
        ({"/readyz": READY | {"disks": [{}]}, "/api/montages": MONTAGES}, "disks.directory"),
        ({"/readyz": READY | {"workers": {"count": 3}}, "/api/montages": MONTAGES}, "workers.hosts"),
    ],
)
@pytest.mark.parametrize("command", ["status", "status --json"])
def test_status_names_the_field_that_a_daemon_of_another_version_lacks(
    tmp_path: Path, command: str, answers: dict[str, Any], field: str
) -> None:
    done = run(tmp_path, command, answers)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"is a temwatch of another version: its answer has no '{field}'" in done.stderr


def test_status_shows_the_answers_of_a_daemon_that_has_further_fields(tmp_path: Path) -> None:
    newer = READY | {"watches": [{"name": "a", "status": "watching", "more": 1}], "further": {}}
    done = run(tmp_path, "status", {"/readyz": newer, "/api/montages": MONTAGES | {"further": 1}})
    assert done.exit_code == 0
    assert "a: watching; no montage" in done.stdout


@pytest.mark.parametrize("url", ["127.0.0.1:8787", "localhost", "file:///etc/passwd", ""])
def test_health_refuses_an_address_without_a_scheme(url: str) -> None:
    done = CliRunner().invoke(temwatch, ["health", "--url", url])
    assert done.exit_code == 2
    assert "does not begin with http:// or https://" in done.stderr
