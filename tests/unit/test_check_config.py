"""The preflight of `temwatch check-config`: one sentence about each problem that the daemon would have."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.commands.check_config import Finding, effect, preflight
from daemon.config.settings import Settings
from daemon.system.locks import lock_journal
from tests.settings_text import UNREACHABLE, settings_text

NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Return settings of a daemon that can start. Some sections and keys of the watch can be replaced."""
    for name in ("acquisition", "mipmaps", "journal"):
        (tmp_path / name).mkdir()

    def make(watch: dict[str, Any] | None = None, **sections: Any) -> Settings:
        of_watch = {
            "name": "temca2",
            "directory": str(tmp_path / "acquisition"),
            "z": {"rule": "grid", "offset": 7},
            "mipmaps": {"output_dir": str(tmp_path / "mipmaps")},
            **(watch or {}),
        }
        values: dict[str, Any] = {
            "render": {"url": UNREACHABLE, "owner": "em", "project": "v1"},
            "journal": {"path": str(tmp_path / "journal" / "journal.sqlite")},
            "http": {"port": 0},
            "watch": [of_watch],
        }
        return Settings(**{**values, **sections})

    return make


def test_preflight_finds_nothing_wrong_with_valid_settings(settings: Callable[..., Settings]) -> None:
    assert preflight(settings()) == []


def test_the_effect_shows_the_whole_z_rule(settings: Callable[..., Settings]) -> None:
    assert "  z        grid of the header; offset +7" in list(effect(settings()))


def test_the_effect_shows_how_many_tiles_are_made_at_once(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    dask = {"executor": "dask", "dask_scheduler": "tcp://scheduler:8786"}
    assert "workers    processes, 12 at once" in list(
        effect(settings())
    )  # more than cores, since workers also wait for disks
    assert "workers    processes, 3 at once" in list(effect(settings(workers={"count": 3})))
    assert "workers    dask, 64 at once" in list(effect(settings(workers=dask)))


def test_directories_that_every_user_can_write_are_noted(settings: Callable[..., Settings], tmp_path: Path) -> None:
    for name, mode in (("acquisition", 0o777), ("mipmaps", 0o1777), ("journal", 0o775)):
        (tmp_path / name).chmod(mode)
    found = preflight(settings())
    assert [(finding.key, finding.prevents_start) for finding in found] == [
        ("watch[0].directory", False),
        ("watch[0].mipmaps.output_dir", False),
    ]
    assert f"every user can write in {tmp_path}/mipmaps (mode 1777)" in found[1].text


def test_a_journal_directory_that_does_not_exist_prevents_the_start(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    found = preflight(settings(journal={"path": str(tmp_path / "no" / "journal.sqlite")}))
    assert found == [Finding("journal.path", f"there is no directory {tmp_path}/no: create it", prevents_start=True)]


def test_a_port_in_use_prevents_the_start(settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = preflight(settings(http={"port": port}))
    text = f"{port} is used by another program: choose another port"
    assert found == [Finding("http.port", text, prevents_start=True)]


def test_the_port_of_the_running_daemon_is_no_problem(settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as daemon:
        running = settings(http={"port": daemon.getsockname()[1]})
        with lock_journal(running.journal.path):
            assert preflight(running) == []


def test_an_address_of_another_machine_prevents_the_start(settings: Callable[..., Settings]) -> None:
    found = preflight(settings(http={"host": "192.0.2.1", "port": 0}))
    assert Finding("http.host", "192.0.2.1 is not an address of this machine", prevents_start=True) in found


def test_a_url_without_the_usual_path_is_noted(settings: Callable[..., Settings]) -> None:
    found = preflight(settings(render={"url": "http://em:secret@127.0.0.1:1/", "owner": "em", "project": "v1"}))
    text = "http://127.0.0.1:1 does not end with /render-ws/v1, the usual path of render-ws"
    assert found == [Finding("render.url", text)]


@pytest.mark.parametrize(
    ("url", "is_noted"),
    [
        ("http://em:secret@render/render-ws/v1", True),
        ("https://em:secret@render/render-ws/v1", False),
        ("http://em:secret@[::1]:8080/render-ws/v1", False),
        ("http://render/render-ws/v1", False),
    ],
)
def test_a_login_over_an_unencrypted_network_connection_is_noted(
    settings: Callable[..., Settings], url: str, is_noted: bool
) -> None:
    found = preflight(settings(render={"url": url, "owner": "em", "project": "v1"}))
    text = "sends the login unencrypted over the network: use https"
    assert found == ([Finding("render.url", text)] if is_noted else [])


def test_directories_and_files_that_do_not_exist_are_noted(settings: Callable[..., Settings], tmp_path: Path) -> None:
    found = preflight(settings({"directory": "/nowhere/temca2", "tilespecs": {"mask": f"{tmp_path}/mask.png"}}))
    assert found == [
        Finding("watch[0].directory", "there is no directory /nowhere/temca2 now: the daemon waits for it"),
        Finding("watch[0].tilespecs.mask", f"{tmp_path}/mask.png cannot be accessed: No such file or directory"),
    ]


def test_a_name_that_is_too_long_is_noted(settings: Callable[..., Settings], tmp_path: Path) -> None:
    name = str(tmp_path / ("x" * 300))
    found = preflight(settings({"directory": name, "mipmaps": {"output_dir": f"{name}m"}}))
    assert [finding.key for finding in found] == ["watch[0].directory", "watch[0].mipmaps.output_dir"]
    assert all(finding.text.count("File name too long") == 1 for finding in found)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that other users can enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_directories_that_another_user_cannot_access_are_reported_in_one_line_each(public_path: Path) -> None:
    private = public_path / "private"
    for name in ("acquisition", "mipmaps", "journal"):
        (private / name).mkdir(parents=True)
    private.chmod(0o700)
    config = public_path / "config.toml"
    config.write_text(f"""{settings_text(private / "acquisition", private / "mipmaps", url=UNREACHABLE)}
[watch.tilespecs]
mask = "{private}/mask.png"
[journal]
path = "{private}/journal/journal.sqlite"
[http]
port = 0
""")
    # The other user may not have access to the files of the interpreter, so all modules are imported before.
    code = f"""
import encodings.idna, os
import daemon.commands.check_config, daemon.config.load
from daemon.temwatch import temwatch
os.chdir("/")
os.setgid({NOBODY}), os.setuid({NOBODY})
temwatch(["check-config", "--config", "{config}"])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    notes = [line.removeprefix("note ") for line in done.stdout.splitlines() if line.startswith("note ")]
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert [line.split(": ")[0] for line in notes] == [
        "watch[0].directory",
        "watch[0].tilespecs.mask",
        "watch[0].mipmaps.output_dir",
    ]
    refusals = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in refusals] == ["journal.path"]
    assert all("cannot be accessed by user" in line and "Permission denied" in line for line in notes + refusals)
