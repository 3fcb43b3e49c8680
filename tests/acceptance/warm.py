"""Processes of temwatch forked from a process that has imported it, which saves the CPU of the imports.

From `daemon.__main__.main` on, such a process is like `python -m daemon`: it has its own session, files, signals and
environment, and the interpreter ends it as usual. Three things differ: `ps` shows the command line of the process from
which it was forked, the modules of other commands are imported too, and the server of its workers is forked. Tests of
these three, and of the start, start a process by its command line.
"""

import asyncio
import atexit
import contextlib
import functools
import itertools
import json
import multiprocessing.util
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_REQUEST_BYTES = 1 << 18
_SPAWN = multiprocessing.util.spawnv_passfds


class WarmProcess:
    """A running command, with the members of `subprocess.Popen` that tests use."""

    def __init__(self, line: socket.socket, arguments: Sequence[str]) -> None:
        self._line = line
        self.args = list(arguments)
        self.pid = int(self._line.recv(32))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ask(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ask(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _ask(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            self._line.settimeout(timeout_s)
            try:
                answer = self._line.recv(32)
            except (TimeoutError, BlockingIOError):
                return None
            assert answer, "the process from which all others are forked has ended"
            self.returncode = int(answer)
            self._line.close()
        return self.returncode

    def __del__(self) -> None:
        self._line.close()


def start(
    arguments: Sequence[str],
    output: IO[bytes],
    errors: IO[bytes],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    standard_input: IO[bytes] | None = None,
) -> WarmProcess:
    """Start `temwatch ARGUMENTS` in a new session."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    variables = dict(os.environ if environment is None else environment)
    request = {"arguments": list(arguments), "environment": variables, "cwd": str(cwd or Path.cwd())}
    with contextlib.ExitStack() as stack:
        stack.enter_context(theirs)
        read = standard_input or stack.enter_context(Path(os.devnull).open("rb"))
        files = [read.fileno(), output.fileno(), errors.fileno(), theirs.fileno()]
        socket.send_fds(_forking(), [json.dumps(request).encode()], files)
    return WarmProcess(ours, ["temwatch", *arguments])


def run(arguments: Sequence[str], timeout_s: float, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `temwatch ARGUMENTS` and capture its output."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start(arguments, output, errors, cwd)
        try:
            code = process.wait(timeout_s)
        except BaseException:
            process.kill()
            raise
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(process.args, code, *texts)


@functools.cache
def _forking() -> socket.socket:
    """Start the process that forks; return the connection to it. It ends together with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.acceptance.warm", str(theirs.fileno())]
        nothing = subprocess.DEVNULL
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a process with threads cannot be forked
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=nothing,
            stdout=nothing,
            env=environment,
            start_new_session=True,
        )
    atexit.register(_end_forking, ours, process)
    return ours


def _end_forking(connection: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    """End the process that forks, and reap it."""
    connection.close()
    process.kill()
    process.wait()


# --- the process that forks


def _serve(requests: socket.socket) -> list[str]:
    """Fork a process for each request. In each new process it returns the arguments of its command."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fd)
                    pid, line = running.pop(key.fd)
                    os.close(key.fd)
                    _report(line, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
                    line.close()
                    continue
                text, (*standard, descriptor) = _receive(requests)
                line = socket.socket(fileno=descriptor)
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for ended, (_, other) in running.items():
                        os.close(ended)
                        other.close()
                    requests.close()
                    return _become(json.loads(text), standard, line)
                for each in standard:
                    os.close(each)
                ended = os.pidfd_open(pid)
                running[ended] = pid, line
                selector.register(ended, selectors.EVENT_READ)


def _receive(requests: socket.socket) -> tuple[bytes, list[int]]:
    """Return a request with its four files; end this process when the tests have ended."""
    text, files, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 4)
    if not text:
        os._exit(0)
    return text, files


def _report(line: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # the test has ended
        line.send(text.encode())


def _become(request: dict[str, Any], standard: Sequence[int], line: socket.socket) -> list[str]:
    """Give this process the session, files and environment of the request, then send its pid."""
    os.setsid()
    for number, descriptor in enumerate(standard):  # none of them is 0, 1 or 2: this process has these
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115  as Python does
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["cwd"])
    with line:
        _report(line, str(os.getpid()))
    multiprocessing.util.spawnv_passfds = _spawn_or_fork  # type: ignore[assignment]
    return list(request["arguments"])


def _spawn_or_fork(path: bytes, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    """Start `python -c CODE` like `multiprocessing.util.spawnv_passfds`, but by a fork if there is no other thread.

    This starts the fork server of the workers and the resource tracker. A fork saves the imports of the server.
    """
    if threading.active_count() > 1 or asyncio._get_running_loop() is not None:
        return _SPAWN(path, arguments, descriptors)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _close_all_but(descriptors)
            with contextlib.suppress(SystemExit):
                exec(arguments[-1], {"__name__": "__main__"})
            code = 0
        finally:
            if error := sys.exception():
                traceback.print_exception(error)
            os._exit(code)
    return pid


def _close_all_but(descriptors: Sequence[int]) -> None:
    kept = sorted({0, 1, 2, *descriptors})
    for before, after in itertools.pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
        os.closerange(before + 1, after)


def _import_everything() -> None:
    import daemon.app
    import daemon.commands
    import daemon.simulator.standin

    for module in pkgutil.walk_packages(daemon.commands.__path__, "daemon.commands."):
        __import__(module.name)


if __name__ == "__main__":
    _import_everything()
    given = _serve(socket.socket(fileno=int(sys.argv[1])))
    from daemon import __main__ as command

    sys.argv = [str(command.__file__), *given]
    command.main()
