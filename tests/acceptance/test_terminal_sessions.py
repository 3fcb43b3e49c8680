"""Commands that work, on terminals of 80 and 160 columns: progress, Ctrl-C and failures as in tests/screens."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.rig import Rig, Standins
from tests.terminal import Session, assert_screen, run_in_terminal

WIDTHS = (80, 160)


@pytest.fixture
def rig(standins: Standins) -> Iterator[Rig]:
    """A rig below a path of fixed length, so that lines break at the same place in each run."""
    root = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    rig = Rig(root, standins=standins)
    try:
        yield rig
    finally:
        rig.close()
        shutil.rmtree(root)


def plain(screen: str, rig: Rig) -> str:
    """The screen without log lines, which have lines of their own, and with fixed values for those that vary."""
    lines = screen.splitlines()
    log = [line for line in lines if "{" in line]
    assert all(json.loads(line)["event"] for line in log)
    screen = "\n".join(line for line in lines if line not in log)
    screen = screen.replace(str(rig.root), "/tmp/" + "r" * len(rig.root.name))
    # The reason why a montage waits follows the time as soon as it has been asked for.
    return re.sub(r"\b\d:\d\d:\d\d\b.*", "0:00:00", screen)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_replay_shows_its_progress_and_the_result(rig: Rig, write, columns):
    rig.start_standin()
    write(1050)
    write(1051)
    command = ["replay", str(rig.acquisition), "--config", str(rig.config())]
    code, screen = run_in_terminal(command, columns, rig.root)
    assert code == 0, screen
    assert_screen(f"replay-{columns}", plain(screen, rig))


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_replay_of_a_montage_that_fails_shows_the_fault_and_the_hint(rig: Rig, write, columns):
    table = rig.root / "z.csv"
    table.write_text("grid,z\n2000,7\n")
    rig.settings |= {"watch.z.rule": "table", "watch.z.table": str(table)}
    rig.start_standin()
    section = write()
    code, screen = run_in_terminal(["replay", str(section.metafile), "--config", str(rig.config())], columns, rig.root)
    assert code == 1, screen
    assert_screen(f"replay-fails-{columns}", plain(screen, rig))


@pytest.mark.parametrize("columns", WIDTHS)
def test_ctrl_c_ends_a_replay_with_what_is_left(rig: Rig, write, columns):
    rig.start_standin()
    section = write()
    rig.tell_standin(match="", kind="status", status=503)
    session = Session(["replay", str(section.metafile), "--config", str(rig.config())], columns, rig.root)
    session.wait_for(lambda screen: "503" in screen)
    session.press_ctrl_c()
    code, screen = session.end()
    assert code == 130, screen
    assert_screen(f"replay-interrupted-{columns}", plain(screen, rig))
