"""Directories that the sandbox of the systemd unit makes read-only."""

import os
import shlex
from pathlib import Path

import pytest

from daemon.config.writable import read_only_in_unit


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File with the output of a stand-in for `systemctl`, which is first on the PATH."""
    output, program = tmp_path / "output", tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "show temwatch.service" ] && exec cat {shlex.quote(str(output))}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    output.write_text(
        "LoadState=loaded\nProtectSystem=strict\nStateDirectory=temwatch\nReadWritePaths=-/data/out +/srv/m\n"
    )
    return output


WRITTEN = {
    "journal.path": Path("/var/lib/temwatch"),
    "watch[0].mipmaps.output_dir": Path("/data/out/mipmaps"),
    "watch[1].mipmaps.output_dir": Path("/data/output"),
    "watch[2].mipmaps.output_dir": Path("/srv/m"),
}


def test_a_directory_outside_of_the_unit_is_reported_with_the_line_to_add(unit: Path) -> None:
    (line,) = read_only_in_unit(WRITTEN)
    assert line.startswith("watch[1].mipmaps.output_dir: /data/output is read-only for temwatch.service: ")
    assert "ReadWritePaths=-/data/output" in line


@pytest.mark.parametrize(
    "output", ["LoadState=not-found\nProtectSystem=no\n", "LoadState=loaded\nProtectSystem=no\n", "", "nonsense"]
)
def test_without_a_sandbox_nothing_is_reported(unit: Path, output: str) -> None:
    unit.write_text(output)
    assert list(read_only_in_unit(WRITTEN)) == []


def test_without_systemd_nothing_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(read_only_in_unit(WRITTEN)) == []
