"""Texts of other programs, such as file names and answers of render-ws, are printed without control characters."""

import io
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from rich.console import Console

from daemon.commands.cli.exits import exit_with
from daemon.commands.cli.output import say, say_json, say_lines
from daemon.commands.imports import commands as imports
from daemon.commands.imports import reporting
from daemon.commands.imports.results import TilespecsResult
from daemon.commands.replay.progress import Outcomes
from daemon.commands.status.screen import show_report
from daemon.montages.waits import NOTHING
from daemon.simulator.demonstration.results import montage_table
from daemon.system.log import set_up_logging
from daemon.system.printable_log import PrintableFormatter
from daemon.system.sd_notify import SystemdNotifier
from daemon.web.answers import encode_montages
from handlers.errors import Fault
from tests.unit.test_selection import montage

HOSTILE = "/data/\x1b[2J\x1b]0;title\x07\nready at http://evil\r\u202egpj.exe\x9b31m\u2028\x7f" + os.fsdecode(b"\xe9")
SHOWN = r"/data/\x1b[2J\x1b]0;title\x07\nready at http://evil\r\u202egpj.exe\u009b31m\u2028\x7f\xe9"
TIME = "2026-01-02T03:04:05.678+00:00"
ROW = {
    "id": 7, "metafile": HOSTILE, "state": "failed", "failed_in": "ingested", "attempt": 5, "waiting_for": HOSTILE,
    "z": 1.0, "tiles": 2, "mipmapped_stack": HOSTILE, "watch": "temca2",
    "noticed_at": TIME, "changed_at": TIME, "complete_at": None,
    "fault": {"kind": "RenderRefused", "subject": HOSTILE, "problem": HOSTILE, "hint": HOSTILE},
}  # fmt: skip


def assert_printable(written: str, *, lines: int) -> None:
    """Require that a text has this many lines and no unprintable character in them."""
    assert written.count("\n") == lines, written
    assert written.replace("\n", "").isprintable(), ascii(written)


def test_a_fault_is_printable() -> None:
    assert str(Fault(HOSTILE, HOSTILE, HOSTILE)) == f"{SHOWN}: {SHOWN} ({SHOWN})"


@pytest.fixture
def logged() -> Iterator[Callable[[str], io.StringIO]]:
    """Function that sets up the log in a format, and returns the stream to which it is written."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level

    def set_up(form: str) -> io.StringIO:
        set_up_logging("info", form, stream)
        return stream

    yield set_up
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_log_is_printable(logged: Callable[[str], io.StringIO], form: str) -> None:
    stream = logged(form)
    structlog.get_logger().info("noticed", metafile=HOSTILE, others=[{HOSTILE: HOSTILE}], fault=Fault(HOSTILE, "x"))
    logging.getLogger("library").warning("cannot open %s", HOSTILE)
    assert_printable(stream.getvalue(), lines=2)
    shown = json.dumps(SHOWN)[1:-1] if form == "json" else SHOWN
    assert f"cannot open {shown}" in stream.getvalue()


def test_a_traceback_in_the_log_cannot_look_like_a_line_of_the_log(logged: Callable[[str], io.StringIO]) -> None:
    stream = logged("console")
    try:
        raise ValueError("x\n2026-01-02 03:04:05 info    daemon.ready\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("step.bug")
    first, *traceback = stream.getvalue().splitlines()
    assert "step.bug" in first
    assert traceback
    assert all(line.startswith("    ") and line.isprintable() for line in traceback)


@pytest.mark.parametrize("by_cause", [False, True])
def test_status_is_printable(capsys: pytest.CaptureFixture[str], by_cause: bool) -> None:
    unfinished = {**ROW, "id": 8, "state": "settled", "fault": None}
    report = {
        "running": True, "ready": False, "pid": 1, "unresponsive_because": HOSTILE, "url": "http://localhost",
        "reasons": [HOSTILE], "warnings": [HOSTILE], "reload": {"problems": [HOSTILE], "refused_at": TIME},
        "config": {"file": HOSTILE, "problems": [HOSTILE], "changed_at": None},
        "watches": [{"name": "temca2", "status": "watching"}], "counts": {"temca2": {"failed": 1, "settled": 1}},
        "disks": [{"directory": HOSTILE, "free_bytes": 1, "needed_bytes": 1}],
        "montages": [ROW, unfinished], "last_complete": None,
    }  # fmt: skip
    show_report(report, watch=None, failed=False, by_cause=by_cause)
    written = capsys.readouterr().out
    assert written.replace("\n", "").isprintable()
    assert sum(line.startswith("ready") for line in written.splitlines()) == 0
    assert written.count(r"\nready at http://evil") >= 6


def test_the_output_of_commands_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say_lines(f"{HOSTILE}\n")
    say_json({HOSTILE: HOSTILE})
    with pytest.raises(SystemExit):
        exit_with(1, HOSTILE)
    written = capsys.readouterr()
    assert_printable(written.out, lines=6)
    assert_printable(written.err, lines=1)


def test_outcomes_of_a_replay_are_printable() -> None:
    stream = io.StringIO()
    outcomes = Outcomes(Console(file=stream, soft_wrap=True, highlight=False))
    with outcomes.progress(2):
        outcomes.add_ended(ROW)
        outcomes.add_refused({"metafile": HOSTILE, "note": HOSTILE})
        outcomes.show_waiting([ROW])
    assert_printable(stream.getvalue(), lines=2)


def test_import_commands_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    utf_8 = HOSTILE[:-1]
    reporting.say(1, HOSTILE)
    to_stdout = SimpleNamespace(failures_file=None, output_json=None)
    imports._write_result(TilespecsResult(tile_count=0, stack=utf_8), [], [], to_stdout)  # type: ignore[arg-type]
    written = capsys.readouterr()
    assert_printable(written.err, lines=1)
    assert written.out.replace("\n", "").isprintable()
    assert json.loads(written.out)["stack"] == utf_8
    record = logging.LogRecord("library", logging.WARNING, "", 0, "cannot open %s", (HOSTILE,), None)
    assert_printable(PrintableFormatter("%(message)s").format(record), lines=0)


def test_answers_over_http_are_ascii() -> None:
    hostile = replace(montage(), metafile=Path(HOSTILE), waiting_for=HOSTILE)
    body = encode_montages([hostile], {}, NOTHING, {})
    assert body.isascii()
    assert_printable(body.decode(), lines=0)
    assert json.loads(body)["montages"][0]["metafile"] == str(Path(HOSTILE))


def test_the_status_line_of_systemd_is_printable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        SystemdNotifier().status(HOSTILE)
        assert_printable(listening.recv(4096).decode(), lines=0)


def test_names_in_the_output_of_the_demonstration_are_printable() -> None:
    stream = io.StringIO()
    Console(file=stream, width=400).print(montage_table([ROW]))
    assert r"\u202egpj.exe" in stream.getvalue()
    assert stream.getvalue().replace("\n", "").isprintable()


WRITES = re.compile(r"click\.echo\(|stream\.write\(|\bprint\(|sys\.std(out|err)\.write\(|console\.print\(")
ALLOWED = {
    "daemon/commands/cli/output.py", "daemon/commands/replay/progress.py",
    "daemon/commands/imports/commands.py", "daemon/commands/imports/reporting.py",
    "daemon/simulator/demonstration/demonstrate.py",
}  # fmt: skip
"""Modules whose output is tested above."""
OWN_TEXTS = {
    "daemon/config/reference.py", "daemon/commands/imports/arguments.py", "daemon/simulator/microscope.py",
    "daemon/simulator/picture.py", "daemon/simulator/standin/server.py", "daemon/notify/hooks/cloud_event.py",
    "daemon/simulator/demonstration/store.py", "daemon/commands/verify/command.py",
}  # fmt: skip
"""Modules that write only their own texts, JSON in ASCII, or lines converted by `printable`."""


def test_no_other_module_writes_to_a_terminal() -> None:
    root = Path(__file__).resolve().parents[2]
    writing = {
        str(path.relative_to(root))
        for package in ("daemon", "handlers")
        for path in (root / package).rglob("*.py")
        if WRITES.search(path.read_text())
    }
    assert writing == ALLOWED | OWN_TEXTS
