"""What the demonstration prints: tables that fit a terminal, commands that can be pasted."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from daemon.simulator.show_results import Result, montage_table, stack_table
from daemon.simulator.show_text import program, purpose
from handlers.render.names import StackId

MONTAGE = {
    "metafile": "/data/demo/TEMCA2/_metadata_20261125224700_20314_2L_0151_07_001050_0_.json",
    "z": 1050.0,
    "tiles": 2772,
    "state": "superseded",
    "noticed_at": "2026-11-25T22:47:00+00:00",
    "complete_at": "2026-11-25T23:00:03.5+00:00",
}


def test_a_montage_has_one_row_in_a_terminal_of_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(montage_table([MONTAGE, MONTAGE]))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("20261125224700_20314_2L_0151_07_001050_0" in line and "783.5" in line for line in lines) == 2


def test_a_stack_has_one_row_in_a_terminal_of_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(stack_table([Result(StackId("demo", "temwatch", "20314_2L_mips"), "COMPLETE", 72, 432, ())]))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("20314_2L_mips" in line and "432" in line for line in lines) == 1


@pytest.mark.parametrize("directory", ["bin", "a directory"])
def test_the_command_of_the_program_that_runs_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    own = tmp_path / directory / "temwatch"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(own)])
    assert shlex.split(program()) == [str(own)]
    monkeypatch.setenv("PATH", str(own.parent))
    assert program() == "temwatch"


def test_a_program_without_a_script_is_named_with_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/daemon/__main__.py"])
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    assert program() == "/usr/bin/python3 -m daemon"


def test_a_section_whose_metafile_comes_first_is_announced() -> None:
    assert "section 2" in purpose(2)
    assert "on purpose" in purpose(2)
