"""The daemon as a service: what it answers and hears while it starts, reloads and stops."""

import socket
import urllib.error
import urllib.request
from pathlib import Path

from tests.acceptance.rig import Program, Rig, wait_for


def status(url: str) -> int | None:
    """Of an answer; None if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_every_page_answers_from_the_first_moment_on(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    rig.settings = {"http.port": port}
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.daemon = daemon = Program(tmp_path / "daemon.log", "daemon", "run", "--config", str(rig.config()))
    seen: set[int] = set()

    def is_ready() -> bool:
        for page in ("readyz", "metrics", "api/montages"):
            seen.update(filter(None, [status(f"http://127.0.0.1:{port}/{page}")]))
        return any('"daemon.ready"' in line for line in daemon.lines())

    wait_for(is_ready, 30)
    assert seen <= {200, 503}
