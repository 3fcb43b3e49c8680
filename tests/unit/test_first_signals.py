"""Signals that arrive before the event loop handles them: each one that ends the process prints a message."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import wait_for

SCRIPT = """
import sys, time
from daemon.system.first_signals import FirstSignals
signals = FirstSignals()
signals.handle()
print("ready", flush=True)
while not signals.has_received_sighup:
    time.sleep(0.01)
print("received SIGHUP", flush=True)
time.sleep(60)
"""
STOPS = (signal.SIGTERM, signal.SIGINT)
CANNOT_BE_HANDLED = {signal.SIGKILL, signal.SIGSTOP}
SUSPENDS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
IGNORED = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ}
RECORDED = {signal.SIGHUP}


@contextmanager
def handling(code: str = SCRIPT, **options: object) -> "Iterator[subprocess.Popen[str]]":
    """Context with a process that handles signals as the daemon does before its event loop runs."""
    given = {"stdin": subprocess.DEVNULL, **options}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, **given) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


PRINT_ENDS = """
import json, os, signal, sys, time
from daemon.system.first_signals import FirstSignals

def end_by(number):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(into, 2)
        FirstSignals().handle()
        os.kill(os.getpid(), number)
        time.sleep(0)  # Python runs its signal handlers here
        os._exit(0)
    os.close(into)
    status = os.waitstatus_to_exitcode(os.waitpid(child, os.WUNTRACED)[1])
    with open(out) as stderr:
        return status, stderr.read()

print(json.dumps({number: end_by(number) for number in map(int, sys.argv[1:])}))
"""


def test_every_signal_that_ends_the_process_is_named() -> None:
    numbers = sorted(signal.valid_signals() - CANNOT_BE_HANDLED - SUSPENDS)
    command = [sys.executable, "-c", PRINT_ENDS, *map(str, map(int, numbers))]
    ends = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert len(ends) == len(numbers) > 25
    assert [number for number, (code, text) in ends.items() if code != 0 and not text] == []
    assert {int(number) for number, (code, text) in ends.items() if not text} == IGNORED | RECORDED


def test_sigterm_and_sigint_end_the_process_with_exit_code_0() -> None:
    for number in STOPS:
        with handling() as process:
            process.send_signal(number)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0
        assert stderr == f"temwatch: received {number.name} while starting: stopping\n"


def test_a_signal_that_the_daemon_does_not_handle_is_named_and_ends_the_process() -> None:
    with handling() as process:
        process.send_signal(signal.SIGUSR1)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGUSR1
    assert stderr == "temwatch: received SIGUSR1, which the daemon does not handle: exiting\n"


def test_a_crash_of_compiled_code_prints_its_traceback() -> None:
    crash = SCRIPT.replace("while not", "import ctypes\nctypes.string_at(0)\nwhile not")
    with handling(crash) as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in stderr
    assert "string_at" in stderr


def test_sighup_is_recorded_without_a_terminal_and_ends_the_process_after_its_terminal_was_closed() -> None:
    with handling() as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "received SIGHUP\n"
    master, terminal = pty.openpty()
    with handling(stdin=terminal) as process:
        os.close(terminal)
        os.close(master)
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "received SIGHUP while starting" in stderr


def test_a_process_without_standard_error_ends_at_sigterm_with_exit_code_0() -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: process.poll() is not None, "the process ends")
        finally:
            process.kill()
    assert process.returncode == 0
