"""The daemon and the stand-in as processes: their logs, answers, CPU seconds and memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.common import TICKS

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.02) -> T:
    """Return the condition's first true value. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every_s)
    raise TimeoutError(f"not within {timeout_s:g} s: {what}")


def fetch(url: str, data: bytes | None = None, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
    """Return the body of the answer, whatever its status: JSON as its value, otherwise text. None without an answer."""
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
    except OSError:
        return None
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text.decode()


class Program:
    """A Python module that runs as a process, with its output in a file."""

    def __init__(self, log: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.log = log
        self.began = time.monotonic()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def first_line(self, event: str) -> dict[str, Any] | None:
        """Return the first log line of this event; None if there is none."""
        for line in self.lines():
            if event in line:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if record.get("event") == event:
                        return dict(record)
        return None

    def cpu_s(self) -> float:
        """CPU seconds of the process and of its descendants, also of those that have been reaped."""
        return sum(cpu_of(pid) for pid in family(self.pid))

    def memory_bytes(self) -> int:
        """Memory of the process and its descendants, bytes; shared memory counts once."""
        return sum(_pss_bytes(pid) for pid in family(self.pid))

    def stop(self, timeout_s: float = 60.0) -> None:
        """Send SIGTERM, wait, and kill the processes that are left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """Kill the process and its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return [pid]
    children = [int(child) for task in tasks for child in _children_of_thread(task)]
    return [pid, *(member for child in children for member in family(child))]


def _children_of_thread(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []  # the thread has ended


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of the children that it has reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


@contextlib.contextmanager
def standin(directory: Path) -> Iterator[tuple[Program, str]]:
    """Start a stand-in for render-ws; yield it and its URL."""
    program = Program(directory / "standin.log", "daemon", "standin", "--port", "0")
    try:
        url = wait_for(
            lambda: next((line for line in program.lines() if line.startswith("http")), ""), 60, "the stand-in's URL"
        )
        yield program, url
    finally:
        program.kill()


@contextlib.contextmanager
def daemon(
    directory: Path, config: Path, *, timeout_s: float = 120.0, name: str = "daemon", prefix: tuple[str, ...] = ()
) -> Iterator[tuple[Program, str]]:
    """Start a daemon; yield it and its URL when it is ready, and stop it at the end."""
    program = Program(directory / f"{name}.log", "daemon", "run", "--config", str(config), prefix=prefix)

    def ready() -> dict[str, Any] | None:
        if program.process.poll() is not None:
            raise RuntimeError("the daemon ended:\n" + "\n".join(program.lines()[-20:]))
        return program.first_line("daemon.ready")

    try:
        yield program, str(wait_for(ready, timeout_s, f"daemon.ready in {program.log}")["url"])  # type: ignore[index]
    finally:
        program.stop(20.0)


def write_config(
    directory: Path,
    render_url: str,
    acquisition: Path,
    *,
    watch: Mapping[str, object] | None = None,
    stacks: Mapping[str, object] | None = None,
    mipmaps: Mapping[str, object] | None = None,
    workers: Mapping[str, object] | None = None,
) -> Path:
    """Write a configuration file with a short settle time and the given keys."""
    parts: dict[str, Mapping[str, object]] = {
        "[render]": {"url": render_url, "owner": "bench", "project": "bench"},
        "[journal]": {"path": directory / "journal.sqlite"},
        "[http]": {"port": 0},
        "[log]": {"format": "json"},
        "[workers]": workers or {},
        "[[watch]]": {"name": "bench", "directory": acquisition, "settle_s": 0.5, **(watch or {})},
        "[watch.z]": {"rule": "grid"},
        "[watch.stacks]": {"raw": "{specimen_id}_raw", "mipmapped": "{specimen_id}_mips", **(stacks or {})},
        "[watch.mipmaps]": {"output_dir": directory / "mipmaps", **(mipmaps or {})},
    }
    lines = [
        line
        for head, values in parts.items()
        for line in (head, *(f"{key} = {_toml(value)}" for key, value in values.items()))
    ]
    config = directory / "config.toml"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def _toml(value: object) -> str:
    return json.dumps(str(value) if isinstance(value, Path) else value)
