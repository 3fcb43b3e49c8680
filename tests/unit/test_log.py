"""Format of the lines of the log."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.system.log_lines import console_line
from handlers.text import fitted

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import logging, sys, warnings
import structlog
from daemon.system.log import set_up_logging

set_up_logging(*sys.argv[1:])
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(montage=7, stack="em/v1/mips"):
    log.info("tiles.ingested", tiles=200, size="3.9 µm")
    log.debug("not written")
    logging.getLogger("aiohttp.server").warning("bad request from %s", "10.0.0.1")
    logging.getLogger("watchdog.observers").info("noise")
warnings.warn("is deprecated", UserWarning)
try:
    raise OSError("Timed out\\nafter 30 s")
except OSError:
    logging.getLogger("distributed.core").exception("lost\\nconnection")
logging.getLogger("distributed.core").info("noise")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("step.broke")
"""


def log_bytes(code: str, *arguments: str, locale: str = "C.UTF-8") -> bytes:
    """Return the standard output of a Python program; its standard error must be empty."""
    env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, check=True, env=env)
    assert run.stderr == b""
    return run.stdout


def log_lines(code: str, *arguments: str, locale: str = "C.UTF-8") -> list[str]:
    return log_bytes(code, *arguments, locale=locale).decode().splitlines()


def test_every_record_is_one_json_object() -> None:
    records = [json.loads(line) for line in log_lines(PROGRAM)]
    ingested, request, warning, lost, broken = records
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
    assert "is deprecated" in warning["event"]
    assert lost | {"time": ""} == {
        "time": "",
        "level": "error",
        "event": "workers.dask",
        "logger": "temwatch.distributed.core",
        "note": "lost",
        "problem": "OSError: Timed out after 30 s",
    }
    assert broken["exception"].endswith("ValueError: broken")
    assert "stack" not in broken


INVALID_UTF_8 = """
import logging, os, structlog, sys
from daemon.system.log import set_up_logging

set_up_logging("info", sys.argv[1])
path = os.fsdecode(b"/data/probe_\\xe4 \\xc2\\xb5")
structlog.get_logger().info("noticed", metafile=path, others=[{path: 1}])
logging.getLogger("library").warning("cannot open %s", path)
structlog.get_logger().error("surrogate", text="\\ud83d")
"""


def test_a_path_that_is_not_utf_8_is_logged_with_escapes() -> None:
    noticed, warning, surrogate = map(json.loads, log_lines(INVALID_UTF_8, "json"))
    assert noticed["metafile"] == "/data/probe_\\xe4 µ"
    assert noticed["others"] == [{"/data/probe_\\xe4 µ": 1}]
    assert warning["event"] == "cannot open /data/probe_\\xe4 µ"
    assert surrogate["text"] == "\\ud83d"


@pytest.mark.skipif(not str(ROOT).isascii(), reason="Python cannot read the path of this checkout in the locale C")
@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_lines_are_utf_8_in_every_locale(locale: str) -> None:
    assert len([json.loads(line) for line in log_lines(INVALID_UTF_8, "json", locale=locale)]) == 3
    assert len(log_lines(INVALID_UTF_8, "console", locale=locale)) == 3


SECRET = """
import logging, structlog, sys
from daemon.system.log import set_up_logging

set_up_logging("info", sys.argv[1])
url = "http://em:pw4711@render/v1"
structlog.get_logger().info("unreachable", urls=[url])
logging.getLogger("library").warning("cannot reach %s", url)
logging.getLogger("library").error("broke", exc_info=ValueError(url))
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_passwords_of_urls_are_not_logged(form: str) -> None:
    written = log_bytes(SECRET, form).decode()
    assert "pw4711" not in written
    assert written.count("http://render/v1") == 3


def test_the_level_applies_to_libraries() -> None:
    assert [json.loads(line)["event"] for line in log_lines(PROGRAM, "error", "json")] == ["workers.dask", "step.broke"]


def test_console_lines_show_event_and_facts() -> None:
    ingested = log_lines(PROGRAM, "info", "console")[0]
    assert ingested[20:] == 'info    tiles.ingested     montage=7 stack=em/v1/mips tiles=200 size="3.9 µm"'


ORDERED = """
import structlog, sys
from daemon.system.log import set_up_logging

set_up_logging("info", sys.argv[1])
log = structlog.get_logger()
path = "/data/temca2/_metadata_1_.json"
facts = {"metafile": path, "tiles": 3, "stack": "em/v1/raw", "z": 1050.0, "watch": "temca2"}
log.info("one", seconds=1.5, montage=17, fault=None, **facts)
log.info("two", montage=17, watch="temca2", by="event", seconds=0.5, metafile=path, z=None)
"""


def test_facts_have_the_same_order_in_every_line_and_the_same_names_in_both_formats() -> None:
    one, two = (list(json.loads(line)) for line in log_lines(ORDERED, "json"))
    assert one == ["time", "level", "event", "watch", "montage", "z", "stack", "tiles", "seconds", "metafile"]
    assert two == ["time", "level", "event", "watch", "montage", "seconds", "by", "metafile"]
    lines = log_lines(ORDERED, "console")
    assert [re.findall(r"(\w+)=", line) for line in lines] == [one[3:], two[3:]]


def test_a_long_console_line_is_broken_between_facts_and_after_slashes() -> None:
    path = "/data/temca2/20260105/001050/0/_metadata_20260105080000_295434_001050_0_.json"
    facts = {"time": "2026-01-05T08:00:00.1Z", "level": "warning", "event": "step.failed", "watch": "temca2"}
    facts |= {"montage": 17, "fault": "lacks 1 of 4 images", "metafile": path}
    assert console_line(facts, width=80).splitlines() == [
        "2026-01-05 08:00:00 warning step.failed        watch=temca2 montage=17",
        '        fault="lacks 1 of 4 images" metafile=/data/temca2/20260105/001050/0/',
        "        _metadata_20260105080000_295434_001050_0_.json",
    ]
    assert len(console_line(facts, width=400).splitlines()) == 1
    coloured = console_line(facts, width=80, colours=True)
    assert re.sub("\x1b[^m]*m", "", coloured) == console_line(facts, width=80)
    assert "\x1b[33mwarning\x1b[0m step.failed" in coloured


@given(
    text=st.text(st.sampled_from("ab/ =")),
    width=st.integers(10, 40),
    indent=st.integers(0, 8),
    first=st.text(st.just("x"), max_size=12),
)
def test_a_fitted_text_has_no_line_longer_than_the_width_and_loses_no_text(
    text: str, width: int, indent: int, first: str
) -> None:
    rest = "." * indent
    lines = fitted(text, width, first, rest)
    assert [line for line in lines[1:] if len(line) > width] == []
    assert lines == [] or len(lines[0]) <= max(width, len(first))
    kept = "".join([line.removeprefix(rest) if at else line.removeprefix(first) for at, line in enumerate(lines)])
    assert kept.replace(" ", "") == text.replace(" ", "")
