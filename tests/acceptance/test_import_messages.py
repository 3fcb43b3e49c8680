"""The messages of the import commands: warnings, grouped failures, names of parameters, dry runs, Ctrl-C."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from daemon.commands.imports.commands import run_command
from daemon.simulator.delivery import Written
from handlers.errors import Fault
from handlers.render.failures import Failure, failure_lines
from tests.acceptance.facility import APPLY, MIPMAPS, TILESPECS, Facility


def remove_images(section: Written, count: int) -> list[str]:
    images = sorted(section.images)[:count]
    for image in images:
        image.unlink()
    return [image.name for image in images]


def resize_images(section: Written, count: int) -> None:
    """Give each image another size, so that no two faults are equal."""
    for number, image in enumerate(sorted(section.images)[:count]):
        Image.new("L", (200 + number, 64)).save(image)


def test_a_warning_is_printed_at_any_log_level(facility: Facility) -> None:
    result = facility.ingest(facility.section(), z=7, log_level="CRITICAL")
    assert result["warnings"]
    assert facility.errors == [f"WARNING {warning}" for warning in result["warnings"]]


def test_an_output_directory_that_cannot_be_created_is_refused_before_any_tile(facility: Facility) -> None:
    facility.ingest(facility.section(tiles=12))
    (facility.root / "file").write_bytes(b"")
    facility.make(output_dir=str(facility.root / "file" / "mips"), code=2)
    (line,) = facility.errors
    assert line.startswith(f"output_dir: {facility.root / 'file'} is not a directory")


def test_equal_failures_give_one_line_and_one_entry_with_their_number(facility: Facility) -> None:
    facility.ingest(facility.section(tiles=12))
    (facility.root / "mips").mkdir()
    (facility.root / "mips" / "1").write_bytes(b"")  # a file instead of the directory of level 1
    result = facility.make(code=1)
    (line,) = facility.errors
    assert re.match(r"12 tiles at z 1050 \(.*, .*, .* and 9 more\): ", line), line
    (failure,) = result["failures"]
    assert (failure["count"], failure["z"]) == (12, 1050)
    assert result["failure_count"] == 12


def test_the_result_lists_the_first_failures_and_the_failures_file_lists_all(facility: Facility) -> None:
    section = facility.section(tiles=130)
    facility.ingest(section)
    resize_images(section, 120)
    listed = facility.root / "failures.json"
    result = facility.make("--failures_file", str(listed), code=1, levels=1)
    assert (result["failure_count"], len(result["failures"])) == (120, 100)
    (line,) = facility.errors
    assert line.startswith("120 tiles at z 1050 (")
    everything = json.loads(listed.read_text())
    assert len({failure["tileId"] for failure in everything}) == 120


def test_only_the_first_of_many_causes_are_shown_and_the_last_line_says_how_to_list_all() -> None:
    words = [first + second for first in "abcde" for second in "abcde"]
    failures = [Failure(7.0, "t", Fault("t", f"lacks {word}")) for word in words]
    lines = failure_lines(failures, "; --failures_file FILE lists all")
    assert len(lines) == 21
    assert lines[-1] == "and 5 more; --failures_file FILE lists all"


def test_all_missing_and_invalid_parameters_are_reported_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(MIPMAPS, ["--levls", "3", "--quality", "900"]) == 2
    names = {line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()}
    render = {f"--render.{name}" for name in ("host", "port", "owner", "project")}
    assert names == {"--levls", "--quality", "--input_stack", "--output_dir", "--z", *render}


def test_all_missing_and_invalid_images_are_reported_together(facility: Facility) -> None:
    section = facility.section(tiles=6)
    missing = remove_images(section, 2)
    cut = sorted(section.images)[2:4]
    for image in cut:
        os.truncate(image, 100)
    facility.run(TILESPECS, metafile=str(section.metafile), stack="raw", z_index=1050, code=1)
    (line,) = facility.errors
    for name in [*missing, *[image.name for image in cut]]:
        assert name in line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--poolsize", "--poolsize: unknown parameter, did you mean --pool_size?"),
        ("--render.hots", "--render.hots: unknown parameter, did you mean --render.host?"),
        ("--xyzzy", "--xyzzy: unknown parameter, see --help"),
        ("--maxz", "--maxz: unknown parameter, did you mean --maxZ?"),
    ],
)
def test_the_fault_of_an_unknown_flag_suggests_a_similar_flag(facility: Facility, given: str, expected: str) -> None:
    facility.make(given, "3", code=2)
    assert facility.errors == [expected]


def test_the_fault_of_an_unknown_key_suggests_a_similar_key(facility: Facility) -> None:
    facility.make(poolsize=3, code=2)
    assert facility.errors == ["poolsize: unknown parameter, did you mean pool_size?"]


@pytest.mark.parametrize(
    ("flags", "values", "named"),
    [
        (("--minZ", "five"), {}, "--minZ"),
        (("--levels", "six"), {}, "--levels"),
        ((), {"minZ": "five"}, "minZ"),
        ((), {"output_prefix": "s3:/bucket/mips"}, "output_prefix"),
        (("--minZ", "5", "--maxZ", "3"), {"z": None}, "--maxZ"),
        (("--render.port", "http"), {}, "--render.port"),
    ],
)
def test_a_fault_names_a_parameter_as_the_user_wrote_it(
    facility: Facility, flags: tuple[str, ...], values: dict[str, Any], named: str
) -> None:
    facility.make(*flags, code=2, **values)
    assert [line.partition(": ")[0] for line in facility.errors] == [named]


def test_the_fault_of_an_unreachable_service_names_the_parameters_of_the_command(
    facility: Facility, unused_tcp_port: int
) -> None:
    facility.make(code=1, render={**facility.render, "port": unused_tcp_port})
    (line,) = facility.errors
    assert "Connection refused" in line
    assert "render.host" in line
    assert "ssl:" not in line
    assert "render.url" not in line


@pytest.mark.parametrize("command", [TILESPECS, MIPMAPS, APPLY])
def test_a_dry_run_prints_parameters_tiles_and_targets_and_changes_nothing(facility: Facility, command: str) -> None:
    section = facility.section()
    if command != TILESPECS:
        facility.ingest(section)
    if command == APPLY:
        facility.make()
    files = sorted(facility.root.rglob("*"))
    runs = {
        TILESPECS: lambda: facility.ingest(section, dry_run=True),
        MIPMAPS: lambda: facility.make("--dry_run"),
        APPLY: lambda: facility.apply("--dry_run", "--output_stack", "mips"),
    }
    before = len(facility.requests())
    planned = runs[command]()
    sent = facility.requests()[before:]
    assert {request.partition(" ")[0] for request in sent} <= {"GET"}
    assert [path for path in sorted(facility.root.rglob("*")) if path.name != "input.json"] == [
        path for path in files if path.name != "input.json"
    ]
    stack = f"em/{facility.project}/"
    targets = {
        TILESPECS: f"stack {stack}raw",
        MIPMAPS: f"files {facility.root}/mips/{{1 to 2}}",
        APPLY: f"stack {stack}mips",
    }
    assert (planned["tile_count"], planned["zs"]) == (4, [1050])
    assert planned["targets"] == [targets[command]]
    assert planned["parameters"]["pool_size"] == (20 if command == APPLY else 1)


def start_on_terminal(
    facility: Facility, *flags: str, columns: int = 80, **values: Any
) -> tuple[subprocess.Popen[bytes], int]:
    given = facility.input(
        **{"input_stack": "raw", "output_dir": str(facility.root / "mips"), "pool_size": 1, "z": 1050} | values
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", MIPMAPS, "--input_json", str(given), *flags],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def read_to_end(terminal: int) -> str:
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            return shown.decode()


def test_ctrl_c_prints_how_to_continue_with_the_unfinished_tiles(facility: Facility) -> None:
    facility.ingest(facility.section())
    facility.misbehave(r"GET .*/resolvedTiles", "stall")
    before = len(facility.requests())
    process, terminal = start_on_terminal(facility)
    deadline = time.monotonic() + 60
    while not any("resolvedTiles" in request for request in facility.requests()[before:]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown = read_to_end(terminal)
    assert process.wait(timeout=60) == 130
    said = "stopped; finished tiles are kept: run it again with --force_redo false for the rest"
    assert said in " ".join(shown.split())


def test_log_lines_are_printed_above_the_progress_bar(facility: Facility) -> None:
    facility.ingest(facility.section())
    process, terminal = start_on_terminal(facility, "--log_level", "DEBUG", levels=1)
    shown = read_to_end(terminal)
    assert process.wait(timeout=60) == 0
    assert "4/4" in shown
    logged = [line for line in re.split(r"[\r\n]+", shown) if "DEBUG" in line]
    assert logged
    for line in logged:  # nothing of the bar is left before a log line
        assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).lstrip().startswith("DEBUG"), repr(line)


def test_the_log_level_debug_shows_parameters_requests_and_layers(facility: Facility) -> None:
    facility.ingest(facility.section())
    process, terminal = start_on_terminal(facility, "--log_level", "DEBUG", levels=1)
    log = read_to_end(terminal)
    assert process.wait(timeout=60) == 0
    log = " ".join(log.split())  # the terminal wraps long lines
    assert "DEBUG temwatch: parameter pool_size = 1" in log
    assert re.search(r"DEBUG temwatch: GET \S+/z/1050.0/resolvedTiles \(read tiles\): 200 in \d", log), log
    assert "DEBUG temwatch: z 1050: 4 tiles, 0 failures" in log


def test_help_names_the_flags_that_the_old_tools_lack(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (TILESPECS, MIPMAPS, APPLY):
        with pytest.raises(SystemExit):
            run_command(command, ["--help"])
        text = capsys.readouterr().out
        assert "--dry_run" in text
        assert "--failures_file" in text


def test_the_directory_of_the_failures_file_must_exist(facility: Facility, tmp_path: Path) -> None:
    facility.make(code=2, failures_file=str(tmp_path / "none" / "failures.json"))
    assert facility.errors == [f"failures_file: there is no directory {tmp_path / 'none'}"]


def test_images_outside_of_the_source_roots_are_refused_even_through_links(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    inside = section.metafile.parent
    assert facility.make("--source_roots", str(facility.root / "acquisition"))["tile_count"] == 4
    linked, target = section.images[0], facility.root / "private.tif"
    linked.rename(target)
    linked.symlink_to(target)
    other = facility.root / "other"
    other.mkdir()
    result = facility.make("--source_roots", str(inside), str(other), code=1)
    assert result["tile_count"] == 3
    (line,) = facility.errors
    assert f"its image {linked} lies outside of the source roots" in line
    assert facility.make("--source_roots", str(inside), str(facility.root))["tile_count"] == 4


def test_images_above_the_size_limit_are_refused(facility: Facility) -> None:
    facility.ingest(facility.section())
    facility.make("--largest_image_megapixels", "0.001", code=1)
    (line,) = facility.errors
    assert line.startswith("4 tiles at z 1050 (")
    assert "but workers have memory for images of up to 0.001 megapixels" in line
    assert "raise largest_image_megapixels" in line
    facility.make("--largest_image_megapixels", "0", code=2)
    assert facility.errors[0].startswith("--largest_image_megapixels: ")


def test_a_source_root_that_does_not_exist_is_named(facility: Facility) -> None:
    facility.make(source_roots=["/not/there"], code=2)
    assert facility.errors == ["source_roots.0: there is no directory /not/there"]


def test_equal_failures_name_the_first_file(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    remove_images(section, 2)
    facility.make(code=1)
    (line,) = facility.errors
    assert re.fullmatch(rf"2 tiles at z 1050 \(.*\): is missing, first {section.metafile.parent}/\S+ \(.*\)", line), (
        line
    )


@pytest.mark.parametrize("columns", [80, 160])
def test_the_screen_after_failures_shows_their_lines_and_no_progress_bar(facility: Facility, columns: int) -> None:
    section = facility.section()
    facility.ingest(section)
    remove_images(section, 2)
    process, terminal = start_on_terminal(facility, columns=columns, levels=1)
    shown = read_to_end(terminal)
    assert process.wait(timeout=60) == 1
    assert "4/4" in shown
    rest = shown.rpartition("\x1b[2K")[2]  # the bar erases its line at the end
    assert rest.startswith("2 tiles at z 1050 (")
    assert "\x1b" not in rest
    assert max(map(len, rest.splitlines())) <= columns
