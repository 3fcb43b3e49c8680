"""Records of dask in the daemon's log: one line each, under temwatch's name, whatever dask's configuration is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import asyncio, logging, sys, warnings
from daemon.system.log import set_up_logging

set_up_logging(sys.argv[1], "json")
"""
IMPORT = """
import distributed
from distributed.client import AllExit
from handlers.workers.cluster.lean_client import report_end
"""
RECORDS = """
log = logging.getLogger("distributed.client")
log.info("Client report stream closed")
log.warning("Couldn't gather %s keys,\\nrescheduling", 3)
try:
    raise OSError("Timed out during handshake while connecting to\\ntls://node7:8786 after 30 s")
except OSError as error:
    log.exception(error)
    logging.getLogger("tornado.application").error("Exception in callback <f>", exc_info=True, stack_info=True)
logging.getLogger("distributed.core").warning(
    "Event loop was unresponsive in Client for 3.05s.  This is often caused by long-running GIL-holding functions")
logging.getLogger("distributed.gc").warning("full garbage collections took 11% CPU time recently (threshold: 10%)")
logging.getLogger("distributed.core").exception("no exception is handled here")
for error in (OSError(), asyncio.CancelledError()):
    try:
        raise error
    except BaseException as caught:
        log.exception(caught)
warnings.warn_explicit("large graph\\nof 20 MB", UserWarning, distributed.__file__, 17)
warnings.warn_explicit("old ways", UserWarning, "/opt/library.py", 17)
"""
ENDS = """
def caught(raise_it):
    try:
        raise_it()
    except BaseException as error:
        return error

def of_dask():
    distributed.comm.addressing.parse_host_port("no port", None)

def quiet():
    raise AllExit()

loop = asyncio.new_event_loop()
loop.set_exception_handler(report_end)
for raise_it, future in ((of_dask, None), (quiet, None), (lambda: exec("raise TimeoutError('Timeout')"), object())):
    loop.call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": caught(raise_it), "future": future})
from handlers.text import byte_size
ours = caught(lambda: byte_size(""))
loop.call_exception_handler({"message": "Task exception was never retrieved", "exception": ours})
loop.call_exception_handler({"message": "Unclosed connection"})
loop.close()
"""


def written(code: str, level: str = "info", **environment: str) -> list[dict[str, Any]]:
    """Return the lines that a program logs."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    run = subprocess.run(
        [sys.executable, "-c", BEGIN + code, level],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return [json.loads(line) for line in run.stdout.splitlines()]


def parts_of(line: dict[str, Any]) -> tuple[str, ...]:
    """Return level, logger, note and problem of a line of dask."""
    assert line["event"] == "workers.dask"
    assert not {"exception", "stack", "stack_info"} & line.keys()
    return (line["level"], line["logger"], line.get("note", ""), line.get("problem", ""))


def test_each_record_of_dask_is_one_line_under_temwatchs_name_without_a_traceback() -> None:
    *lines, foreign = written(IMPORT + RECORDS)
    handshake = "Timed out during handshake while connecting to"
    late = (
        "Event loop was unresponsive in Client for 3.05s.  This is often caused by long-running GIL-holding functions"
    )
    assert [parts_of(line) for line in lines] == [
        ("warning", "temwatch.distributed.client", "Couldn't gather 3 keys,", ""),
        ("error", "temwatch.distributed.client", handshake, f"OSError: {handshake} tls://node7:8786 after 30 s"),
        (
            "error",
            "temwatch.tornado.application",
            "Exception in callback <f>",
            f"OSError: {handshake} tls://node7:8786 after 30 s",
        ),
        ("warning", "temwatch.distributed.core", late, ""),
        (
            "warning",
            "temwatch.distributed.gc",
            "full garbage collections took 11% CPU time recently (threshold: 10%)",
            "",
        ),
        ("error", "temwatch.distributed.core", "no exception is handled here", ""),
        ("error", "temwatch.distributed.client", "", "OSError"),
        ("warning", "temwatch.distributed.warnings", "UserWarning: large graph", ""),
    ]
    assert foreign["logger"] == "py.warnings"


def test_the_level_of_the_log_applies_to_dask_too() -> None:
    assert {line["level"] for line in written(IMPORT + RECORDS, "error")} == {"error"}


def test_an_unretrieved_exception_has_a_traceback_only_if_temwatch_raised_it() -> None:
    of_dask, of_temwatch, without = written(IMPORT + ENDS)
    never = "Task exception was never retrieved"
    assert parts_of(of_dask)[:3] == ("error", "temwatch.distributed.asyncio", never)
    assert of_dask["problem"].startswith("ValueError: ")
    assert parts_of(without) == ("error", "temwatch.distributed.asyncio", "Unclosed connection", "")
    assert of_temwatch["logger"] == "asyncio"
    assert "handlers/text.py" in of_temwatch["exception"]


CONNECT = """
from handlers.workers.cluster.access import ClusterAccess
from handlers.workers.cluster.connection import Connection, SchedulerAway

async def connect():
    async with Connection.connect(ClusterAccess("tcp://127.0.0.1:1")):
        pass

try:
    asyncio.run(connect())
except SchedulerAway:
    pass
"""
PROBE = """
from pathlib import Path
from handlers.errors import WorkersUnavailable
from handlers.workers.cluster.access import ClusterAccess
from handlers.workers.cluster.preflight import ask_cluster

try:
    asyncio.run(ask_cluster(ClusterAccess("tls://127.0.0.1:1", Path("/no/ca"), Path("/no/certificate")), (), ()))
except WorkersUnavailable:
    pass
"""
NEW_STYLE = "logging:\n  version: 1\n  disable_existing_loggers: true\n  root:\n    level: CRITICAL\n"


@pytest.mark.parametrize(
    ("code", "configuration"),
    [
        (CONNECT, NEW_STYLE),
        pytest.param(PROBE, NEW_STYLE, marks=pytest.mark.slow),
        pytest.param(CONNECT, "distributed:\n  logging:\n    distributed.client: critical\n", marks=pytest.mark.slow),
        pytest.param(CONNECT, "distributed:\n  logging-file-config: /nowhere.ini\n", marks=pytest.mark.slow),
        pytest.param(CONNECT, "logging-file-config: /nowhere.ini\n", marks=pytest.mark.slow),
    ],
)
def test_a_configuration_of_dask_does_not_change_the_log(tmp_path: Path, code: str, configuration: str) -> None:
    (tmp_path / "dask.yaml").write_text(configuration)
    lines = written(code + IMPORT + RECORDS, DASK_CONFIG=str(tmp_path))
    assert [line["logger"] for line in lines][:2] == ["temwatch.distributed.client"] * 2
    assert len(lines) == 9
