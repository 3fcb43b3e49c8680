"""What the service writes to its log and tells systemd."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.system.service import SystemdNotifier, watchdog_interval_s

ROOT = Path(__file__).resolve().parents[2]

SPEAK = """
import logging, sys, warnings
import structlog
from daemon.system.service import set_up_logging

set_up_logging(*sys.argv[1:])
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(montage=7, stack="em/v1/mips"):
    log.info("tiles.ingested", tiles=200, size="3.9 µm")
    log.debug("not wanted")
    logging.getLogger("aiohttp.server").warning("bad request from %s", "10.0.0.1")
    logging.getLogger("watchdog.observers").info("noise")
warnings.warn("old ways", UserWarning)
try:
    raise ValueError("broken")
except ValueError:
    log.exception("step.broke")
"""


def speak(*arguments: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", SPEAK, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


def test_in_service_every_record_is_one_json_object() -> None:
    records = [json.loads(line) for line in speak()]
    ingested, request, warning, broken = records
    assert list(ingested)[:3] == ["time", "level", "event"]
    assert ingested | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "tiles.ingested",
        "montage": 7,
        "stack": "em/v1/mips",
        "tiles": 200,
        "size": "3.9 µm",
    }
    assert ingested["time"].endswith("Z")
    assert (request["event"], request["logger"]) == ("bad request from 10.0.0.1", "aiohttp.server")
    assert request["stack"] == "em/v1/mips"
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    assert "old ways" in warning["event"]
    assert broken["exception"].endswith("ValueError: broken")
    assert "stack" not in broken


ODD = """
import logging, os, structlog, sys
from daemon.system.service import set_up_logging

set_up_logging("info", sys.argv[1])
path = os.fsdecode(b"/data/probe_\\xe4 \\xc2\\xb5")
structlog.get_logger().info("noticed", metafile=path, others=[{path: 1}])
logging.getLogger("library").warning("odd: %s", path)
structlog.get_logger().error("wide", text="\\ud83d")
"""


def bytes_said(code: str, form: str, locale: str = "C.UTF-8") -> bytes:
    env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, "-c", code, form], cwd=ROOT, capture_output=True, check=True, env=env)
    assert run.stderr == b""
    return run.stdout


def test_a_path_that_is_not_utf_8_is_logged_with_escapes() -> None:
    noticed, odd, wide = map(json.loads, bytes_said(ODD, "json").decode().splitlines())
    assert noticed["metafile"] == "/data/probe_\\xe4 µ"
    assert noticed["others"] == [{"/data/probe_\\xe4 µ": 1}]
    assert odd["event"] == "odd: /data/probe_\\xe4 µ"
    assert wide["text"] == "\\ud83d"


@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_lines_are_utf_8_in_every_locale(locale: str) -> None:
    assert len([json.loads(line) for line in bytes_said(ODD, "json", locale).decode().splitlines()]) == 3
    assert len(bytes_said(ODD, "console", locale).decode().splitlines()) == 3


SECRET = """
import logging, structlog, sys
from daemon.system.service import set_up_logging

set_up_logging("info", sys.argv[1])
url = "http://em:pw4711@render/v1"
structlog.get_logger().info("away", urls=[url])
logging.getLogger("library").warning("cannot reach %s", url)
logging.getLogger("library").error("broke", exc_info=ValueError(url))
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_passwords_of_urls_are_not_logged(form: str) -> None:
    said = bytes_said(SECRET, form).decode()
    assert "pw4711" not in said
    assert said.count("http://render/v1") == 3


def test_the_level_holds_for_libraries_too() -> None:
    assert [json.loads(line)["event"] for line in speak("error", "json")] == ["step.broke"]


def test_on_a_terminal_lines_are_for_people() -> None:
    ingested = speak("info", "console")[0]
    assert "tiles.ingested" in ingested
    assert "stack_id=em/v1/mips" in ingested
    assert "tiles=200" in ingested


# --- systemd


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_systemd_hears_every_state(systemd: socket.socket) -> None:
    notifier = SystemdNotifier()

    def told() -> str:
        return systemd.recv(4096).decode()

    notifier.ready()
    assert told() == "READY=1"
    notifier.status("3 under way,\n  tile 5 µm … done")
    assert told() == "STATUS=3 under way, tile 5 µm … done"
    notifier.status("probe_\udce4")
    assert told() == "STATUS=probe_\\udce4"
    notifier.reloading()
    assert told().startswith("RELOADING=1\nMONOTONIC_USEC=")
    notifier.watchdog()
    assert told() == "WATCHDOG=1"
    notifier.extend_timeout(1.5)
    assert told() == "EXTEND_TIMEOUT_USEC=1500000"
    notifier.stopping()
    assert told() == "STOPPING=1"
    notifier.close()
    notifier.ready()  # says nothing, and does not fail


def test_systemd_hears_through_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        notifier = SystemdNotifier()
        notifier.ready()
        assert listening.recv(4096) == b"READY=1"
        notifier.close()


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = SystemdNotifier()
    notifier.ready()
    notifier.close()


def test_a_systemd_that_is_gone_does_not_stop_the_service(systemd: socket.socket) -> None:
    notifier = SystemdNotifier()
    systemd.close()
    notifier.watchdog()
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_where_systemd_waits_for_this_process(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_interval_s(environ) == seconds
