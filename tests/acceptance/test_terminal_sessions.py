"""Commands on terminals of 80 and 160 columns: progress, Ctrl-C and failures, compared with tests/screens."""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.rig import Rig, Standins, wait_for
from tests.terminal import Session, assert_screen, run_in_terminal

WIDTHS = (80, pytest.param(160, marks=pytest.mark.slow))


@pytest.fixture
def rig(standins: Standins) -> Iterator[Rig]:
    """A rig below a path of fixed length, so that lines are wrapped at the same place in each run."""
    root = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    rig = Rig(root, standins=standins)
    try:
        yield rig
    finally:
        rig.close()
        shutil.rmtree(root)


def plain(screen: str, rig: Rig) -> str:
    """Return the screen without log lines, and with fixed values for those that vary."""
    lines = screen.splitlines()
    log = [line for line in lines if "{" in line]
    assert all(json.loads(line)["event"] for line in log)
    screen = "\n".join(line for line in lines if line not in log)
    screen = screen.replace(str(rig.root), "/tmp/" + "r" * len(rig.root.name))
    screen = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: "127.0.0.1:" + "0" * len(found[1]), screen)
    # After the time follows the reason why a montage waits, once it is known.
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
    rig.use_z_table_without_sections()
    rig.start_standin()
    section = write()
    code, screen = run_in_terminal(["replay", str(section.metafile), "--config", str(rig.config())], columns, rig.root)
    assert code == 1, screen
    assert_screen(f"replay-fails-{columns}", plain(screen, rig))


@pytest.mark.parametrize("columns", WIDTHS)
def test_ctrl_c_ends_a_replay_and_lists_the_unfinished_montages(rig: Rig, write, columns):
    rig.start_standin()
    section = write()
    rig.tell_standin(match="", kind="status", status=503)
    session = Session(["replay", str(section.metafile), "--config", str(rig.config())], columns, rig.root)
    session.wait_for(lambda screen: "503" in screen)
    session.press_ctrl_c()
    code, screen = session.end()
    assert code == 130, screen
    assert_screen(f"replay-interrupted-{columns}", plain(screen, rig))


# --- the import commands

TILESPECS, MIPMAPS, APPLY = "generate_EM_tilespecs_from_metafile", "generate_mipmaps", "apply_mipmaps_to_render"


def imported(rig: Rig, name: str, **values: object) -> list[str]:
    """Return the arguments of an import command, whose parameters are in a file."""
    address = rig.render_url.removeprefix("http://").partition("/")[0]
    host, _, port = address.partition(":")
    project = "".join(filter(str.isalnum, rig.root.name))
    render = {"host": host, "port": int(port), "owner": "em", "project": project}
    mips = str(rig.mipmaps)
    given = {
        TILESPECS: {"stack": "raw"},
        MIPMAPS: {"input_stack": "raw", "output_dir": mips, "pool_size": 1, "levels": 1, "zValues": [1050, 1051]},
        APPLY: {"input_stack": "raw", "output_stack": "mips", "mipmap_dir": mips, "levels": 1, "zValues": [1050, 1051]},
    }[name]
    parameters = rig.root / f"{name}.json"
    parameters.write_text(json.dumps({"render": render, **given, **values}))
    return [name, "--input_json", str(parameters), "--output_json", str(rig.root / "result.json")]


@pytest.fixture
def stack(rig: Rig, write) -> Rig:
    """A rig with a stack of two sections, which the first command has put there."""
    rig.start_standin()
    for z in (1050, 1051):
        section = write(z)
        command = imported(rig, TILESPECS, metafile=str(section.metafile), z_index=z)
        code, screen = run_in_terminal(command, 80, rig.root)
        assert (code, screen.strip()) == (0, ""), screen
    return rig


@pytest.mark.parametrize("columns", WIDTHS)
def test_mipmaps_show_their_progress_and_ctrl_c_prints_how_to_continue(stack: Rig, columns: int):
    stack.tell_standin(match="z/1051.*/resolvedTiles", kind="stall", seconds=60)
    session = Session(imported(stack, MIPMAPS), columns, stack.root)
    session.wait_for(lambda screen: "4/4" in screen)
    assert_screen(f"mipmaps-{columns}", plain(session.screen(), stack))
    session.press_ctrl_c()
    code, screen = session.end()
    assert code == 130, screen
    assert_screen(f"mipmaps-interrupted-{columns}", plain(screen, stack))


@pytest.mark.parametrize("columns", WIDTHS)
def test_mipmaps_that_fail_are_grouped_below_the_bar(stack: Rig, columns: int):
    for image in sorted(stack.acquisition.rglob("*.tif"))[:3]:
        image.write_bytes(b"no image")
    code, screen = run_in_terminal(imported(stack, MIPMAPS), columns, stack.root)
    assert code == 1, screen
    assert_fits(screen, columns)
    assert_screen(f"mipmaps-fail-{columns}", plain(screen, stack))


@pytest.mark.parametrize("columns", WIDTHS)
def test_applying_shows_its_progress_and_ctrl_c_prints_how_to_continue(stack: Rig, columns: int):
    assert run_in_terminal(imported(stack, MIPMAPS), columns, stack.root)[0] == 0
    stack.tell_standin(match="raw/z/1051.*/resolvedTiles", kind="stall", seconds=60)
    session = Session(imported(stack, APPLY, pool_size=1), columns, stack.root)
    session.wait_for(lambda screen: "1/2" in screen)
    assert_screen(f"apply-{columns}", plain(session.screen(), stack))
    session.press_ctrl_c()
    code, screen = session.end()
    assert code == 130, screen
    assert_screen(f"apply-interrupted-{columns}", plain(screen, stack))


@pytest.mark.parametrize("columns", WIDTHS)
def test_applying_mipmaps_that_are_missing_fails_with_the_first_file(stack: Rig, columns: int):
    stack.mipmaps.mkdir(exist_ok=True)
    code, screen = run_in_terminal(imported(stack, APPLY), columns, stack.root)
    assert code == 1, screen
    assert_fits(screen, columns)
    assert_screen(f"apply-fails-{columns}", plain(screen, stack))


@pytest.mark.parametrize("columns", WIDTHS)
def test_failed_and_interrupted_tile_specs_are_reported(rig: Rig, write, columns: int):
    rig.start_standin()
    section = write()
    section.images[0].unlink()
    command = imported(rig, TILESPECS, metafile=str(section.metafile), z_index=7)
    code, screen = run_in_terminal(command, columns, rig.root)
    assert code == 1, screen
    assert_fits(screen, columns)
    assert_screen(f"tilespecs-fail-{columns}", plain(screen, rig))
    other = write(1051)
    rig.tell_standin(match="PUT", kind="stall", seconds=60)
    session = Session(imported(rig, TILESPECS, metafile=str(other.metafile), z_index=8), columns, rig.root)
    wait_for(lambda: any(each["method"] in ("PUT", "POST") for each in rig.requests()), 60, "a write to the stack")
    session.press_ctrl_c()
    code, screen = session.end()
    assert code == 130, screen
    assert_screen(f"tilespecs-interrupted-{columns}", plain(screen, rig))


# --- the daemon and the demonstration


def assert_fits(screen: str, columns: int) -> None:
    assert [line for line in screen.splitlines() if len(line) > columns] == []


@pytest.mark.slow
@pytest.mark.parametrize("columns", WIDTHS)
def test_log_lines_of_a_daemon_fit_the_terminal(rig: Rig, write, columns: int):
    rig.settings |= {"log.format": "console"}
    rig.start_standin()
    section = write()
    missing = write(1051)
    missing.images[0].write_bytes(b"no image")
    session = Session(["run", "--config", str(rig.config())], columns, rig.root, lines=400)
    names = ("montage.complete", "montage.failed")
    screen = session.wait_for(lambda screen: all(name in screen for name in names))
    os.kill(session.process.pid, signal.SIGTERM)
    code, screen = session.end()
    assert code == 0, screen
    assert_fits(screen, columns)
    joined = "".join(line.removeprefix(" " * 8) for line in screen.splitlines())
    assert str(section.metafile) in joined
    heads = [line for line in screen.splitlines() if not line.startswith(" " * 8)]
    assert [
        head for head in heads if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (info|warning|error) +\w", head)
    ] == []
    code, screen = run_in_terminal(["log", str(missing.metafile), "--config", str(rig.config())], columns, rig.root)
    assert code == 0, screen
    shown, _, hint = screen.partition("the daemon does not run; ")
    assert_fits(shown, columns)
    assert "montage.failed" in shown
    assert "| grep" in hint


@pytest.mark.slow  # tests/acceptance/test_command.py also runs the demonstration
@pytest.mark.parametrize("columns", WIDTHS)
def test_the_demonstration_fits_the_terminal(columns: int):
    root = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    try:
        command = ["demo", "--sections", "2", "--tiles", "4", "--size", "128x128", "--output", str(root / "demo")]
        code, screen = run_in_terminal(command, columns, root)
        assert code == 0, screen
        assert_fits("\n".join(line for line in screen.splitlines() if sys.executable not in line), columns)
        assert_screen(f"demo-{columns}", demo_plain(screen, root))
    finally:
        shutil.rmtree(root)


def demo_plain(screen: str, root: Path) -> str:
    """Return the screen with fixed values for those that vary."""
    screen = screen.replace(str(root), "/tmp/" + "r" * len(root.name))
    screen = re.sub(r"(127\.0\.0\.1:)\d+", r"\g<1>00000", screen)
    screen = re.sub(r"(?<!\d)\d{14}_", "20260105080000_", screen)
    screen = screen.replace(f"{sys.executable} -m daemon", "temwatch")
    screen = re.sub(r"\b\d:\d\d:\d\d\b", "0:00:00", screen)
    screen = screen.replace(" \\\n      --", " --")  # whether a command is wrapped depends on the path of Python
    screen = re.sub(r"^page .*\n", "", screen, flags=re.MULTILINE)  # only if a browser is installed
    return re.sub(r"\b\d+\.\d$", "0.0", screen, flags=re.MULTILINE)
