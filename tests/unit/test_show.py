"""Output of the demonstration: tables that fit a terminal, commands that can be pasted, quality verdicts."""

import io
import os
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from daemon.simulator.demonstration.processes import forget_site
from daemon.simulator.demonstration.quality import planted_faults, quality_lines, quality_problem
from daemon.simulator.demonstration.results import Result, montage_table, stack_table
from daemon.simulator.demonstration.text import program, purpose
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
def test_the_command_of_the_running_program_can_be_pasted(
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


def test_a_section_whose_metafile_is_written_first_is_announced() -> None:
    assert "section 2" in purpose(2)
    assert "on purpose" in purpose(2)


# --- quality

FINDINGS = [
    {"rule": "min_focus", "limit": 16.0, "value": 14.649, "verdict": "fail", "tiles": ["a.1050.0"], "tile_count": 1},
    {"rule": "min_std_dev", "limit": 5.0, "value": 20.0, "verdict": "pass", "tiles": [], "tile_count": 0},
]
VERDICTS = {7: {"verdict": "fail", "findings": FINDINGS}}


def test_a_verdict_is_shown_with_its_broken_limits_and_their_tiles() -> None:
    assert list(quality_lines([{"id": 7, "z": 1050.0}, {"id": 8, "z": 1051.0}], VERDICTS)) == [
        "quality   z 1050: fail",
        "          min_focus 14.65, limit 16",
        "            a.1050.0",
    ]


def test_a_verdict_is_correct_if_it_names_all_bad_tiles_and_no_other(tmp_path: Path) -> None:
    log = tmp_path / "microscope.log"
    log.write_text('{"section": 1, "fault": "blurred", "tile": "a"}\n{"section": 1, "file": "/x/a.tif"}\n')
    planted = planted_faults(log)
    assert planted == {"a": "blurred"}
    assert quality_problem(VERDICTS, planted) == ""
    assert quality_problem(VERDICTS, {**planted, "b": "shifted"}) == "b is shifted, but no verdict lists it"
    assert quality_problem(VERDICTS, {}) == "a is in a verdict, but is not bad"


def test_the_processes_of_a_demonstration_get_no_settings_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    of_site = ("TEMWATCH_RENDER__URL", "temwatch_journal__path", "AWS_PROFILE", "https_proxy", "NO_PROXY")
    monkeypatch.setattr(os, "environ", dict.fromkeys((*of_site, "PATH"), "site"))
    forget_site()
    assert os.environ == {"PATH": "site"}
