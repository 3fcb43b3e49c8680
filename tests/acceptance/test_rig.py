"""The rig with a render-ws that it did not start, and with forked processes."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance import rig as rig_module
from tests.acceptance import warm
from tests.acceptance.rig import REAL_URL, Program, Rig, Standins, fetch, verify_levels


@pytest.fixture
def elsewhere(standins: Standins, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Program, str]]:
    """A stand-in in the role of a real render-ws."""
    if REAL_URL:
        pytest.skip("a real render-ws is named: every test shows this")
    program, url = standins.take()
    for name, value in (("REAL_URL", url), ("OWNER", "temwatch"), ("PROJECT", "acceptance_1")):
        monkeypatch.setattr(rig_module, name, value)
    yield program, url
    monkeypatch.undo()
    standins.give_back(program)


def test_a_real_render_ws_is_used_and_only_the_tests_own_stacks_are_deleted(
    elsewhere: tuple[Program, str], rig: Rig, write: Callable[..., object]
) -> None:
    program, url = elsewhere
    fetch(f"{url}/owner/em/project/test/stack/other", method="POST", body={})
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    assert verify_levels(rig.tiles("20314_2L_mips", 1050.0)) == 24
    assert len(fetch(f"{url}/owner/temwatch/project/acceptance_1/stackIds")) == 2
    rig.close()
    assert fetch(f"{url}/owner/temwatch/project/acceptance_1/stackIds") == []
    assert [each["stack"] for each in fetch(f"{url}/owner/em/stackIds")] == ["other"]
    assert program.process.poll() is None


def test_tests_that_control_the_stand_in_are_skipped_with_the_reason(elsewhere: tuple[Program, str], rig: Rig) -> None:
    rig.start_standin()
    for need, reason in (
        (rig.tell_standin, "controls"),
        (rig.requests, "controls"),
        (lambda: rig.start_standin(1234), "port 1234"),
        (lambda: rig.start_standin(0, "--derive-s", "1"), "--derive-s"),
        (lambda: rig.standin.kill, "left alone"),
        (rig.standin.end, "left alone"),
        (lambda: rig_module.require_seen_files(rig.render_url), "TEMWATCH_ACCEPTANCE_SEES_FILES"),
    ):
        with pytest.raises(pytest.skip.Exception, match=reason):
            need()


def test_a_stand_in_is_emptied_for_the_next_test_even_if_the_rig_used_another_url(
    standins: Standins, tmp_path: Path
) -> None:
    rig = Rig(tmp_path, standins=standins)
    rig.start_standin()
    served = rig.render_url
    fetch(rig.stack_url("left"), method="POST", body={})
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    rig.close()
    program, url = standins.take()
    standins.give_back(program)
    assert url == served
    assert fetch(f"{url}/owner/em/stackIds") == []


def state_of(daemon: Program) -> dict[str, object]:
    """Return the kernel's state of a process, with the targets of its descriptors without inode numbers."""
    place = Path(f"/proc/{daemon.process.pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
    stat = (place / "stat").read_text().rpartition(")")[2].split()
    files = [re.sub(r"\[\d+\]|[^/]*\.sqlite.*", "", str(file.readlink())) for file in (place / "fd").iterdir()]
    return {
        "signals": {name: status[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")},
        "leads its group and session": int(stat[2]) == int(stat[3]) == daemon.process.pid,
        "directory": (place / "cwd").readlink(),
        "files": sorted({file for file in files if not file.startswith(("/tmp", "/dev/shm", "socket", "pipe"))}),
        "umask": status["Umask"],
    }


@pytest.mark.slow
def test_a_forked_daemon_has_the_same_process_state_as_one_started_by_its_command_line(rig: Rig):
    states, ends = [], []
    rig.start_standin()
    for rig.is_warm in (False, True):
        rig.start()
        assert rig.daemon is not None
        assert isinstance(rig.daemon.process, subprocess.Popen) != rig.is_warm
        states.append(state_of(rig.daemon))
        ends.append(rig.daemon.stop())
    assert states[0] == states[1]
    assert ends == [0, 0]


def test_a_forked_command_has_environment_directory_output_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "here.toml").write_text("")
    monkeypatch.setenv("TEMWATCH_RENDER__URL", "no address")
    command = ("check-config", "--config", "here.toml")
    cold = subprocess.run([sys.executable, "-m", "daemon", *command], capture_output=True, text=True, cwd=tmp_path)
    done = warm.run(command, 60, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert "no address" in done.stderr


def test_the_exit_code_of_a_forked_process_is_the_signal_that_killed_it(tmp_path: Path):
    with (tmp_path / "log").open("wb") as log:
        process = warm.start(["standin", "--port", "0"], log, log)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(60) == process.poll() == -signal.SIGKILL


def test_the_process_that_forks_ends_with_the_tests() -> None:
    code = "from tests.acceptance import warm; print(warm.run(['--version'], 60).stdout)"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "version" in done.stdout
    assert done.stderr == ""
