"""The start and the end of an import command, which is a program without the group of all commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.commands.imports.command_names import IMPORT_COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", IMPORT_COMMANDS)
def test_the_program_and_the_command_group_give_the_same_result(name: str) -> None:
    outcomes = []
    for code in ("from daemon.__main__ import main; main()", "from daemon.temwatch import temwatch; temwatch()"):
        command = [sys.executable, "-c", code, name, "--levls", "3", "--input_json", "/nowhere"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        outcomes.append((done.returncode, done.stdout, done.stderr))
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0][0], outcomes[0][1]) == (2, "")
    assert "/nowhere" in outcomes[0][2]


@pytest.mark.parametrize("flag", ["--print_schema", "--help"])
def test_a_closed_standard_output_causes_no_traceback(flag: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "daemon", "generate_mipmaps", flag]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


STOPPED = """
import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException as error:  # as pydantic's compiled code does
                raise ValueError("replaced") from error
sys.meta_path.insert(0, Finder())
sys.argv = ["temwatch", "apply_mipmaps_to_render", "--z", "1"]
from daemon.__main__ import main
main()
"""


def test_ctrl_c_during_the_imports_ends_the_command_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_import_command_warns_about_python_daemon(tmp_path: Path) -> None:
    (tmp_path / "python_daemon-3.1.2.dist-info").mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "daemon", "apply_mipmaps_to_render", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr.startswith(f"temwatch: python-daemon is installed in {tmp_path}: ")


def test_a_name_that_is_not_utf_8_is_printed_with_escapes() -> None:
    command = [sys.executable, "-m", "daemon", "apply_mipmaps_to_render", b"--input_json=/nowhere/caf\xe9"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "caf\\xe9" in done.stderr
