"""Tests kill the processes that they started, and no others."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from tests.process_group import kill_group
from tests.waiting import wait_for

SLEEPS = "import time; time.sleep(600)"
LEAVES_A_CHILD = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]).pid)"


def started(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_a_process_with_the_reused_id_of_an_ended_leader_is_not_killed() -> None:
    with started(SLEEPS) as other:
        former: Any = SimpleNamespace(pid=other.pid, poll=lambda: 0, wait=lambda: 0)
        kill_group(former)
        assert other.poll() is None
        kill_group(other)


def test_the_child_of_an_ended_leader_is_killed() -> None:
    with started(LEAVES_A_CHILD) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        leader.wait()
        kill_group(leader)
    wait_for(lambda: is_gone(child), "the child is killed")


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
