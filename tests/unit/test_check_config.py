"""The preflight of `temwatch check-config`: one sentence about each problem that the daemon would have."""

import http.server
import os
import pydoc
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.commands.check_config import Finding, effect
from daemon.commands.preflight import preflight
from daemon.config.settings import Settings
from daemon.journal.file import connect
from daemon.journal.tables.sightings import notice
from daemon.montages.sighting import FoundBy, Sighting
from daemon.system.locks import lock_journal
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri
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
    text = (
        f"no file can be created in {tmp_path}/no: No such file or directory "
        "(create the directory and let the service's user write there)"
    )
    assert found == [Finding("journal.path", text, prevents_start=True)]


@pytest.fixture
def journal(settings: Callable[..., Settings]) -> Path:
    """The path of a journal that the daemon has created and closed."""
    path = settings().journal.path
    connect(path).close()
    return path


def files_of(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return name -> inode, time and content of each file, and the directory's own time."""
    found = {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()
    }
    return found | {".": (0, directory.stat().st_mtime_ns, b"")}


def note_metafile(journal: Path, tmp_path: Path, mipmaps: Path) -> None:
    """Record a metafile of the watch, and that mipmaps were written to a directory."""
    with closing(connect(journal)) as connection:
        metafile = tmp_path / "acquisition" / "_metadata_1.json"
        sighting = Sighting("temca2", metafile, FileIdentity(1, 2, 3, 4), FoundBy.SCAN)
        notice(connection, sighting, 5.0)
        connection.execute("INSERT INTO mipmap_directories VALUES (?, 1.0)", (path_to_uri(mipmaps),))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is a damaged journal: it is empty"),
        (b"no database" * 100, "is a damaged journal: file is not a database"),
    ],
)
def test_a_damaged_journal_prevents_the_start(
    settings: Callable[..., Settings], journal: Path, content: bytes, problem: str
) -> None:
    journal.write_bytes(content)
    before = files_of(journal.parent)
    (found,) = preflight(settings())
    assert (found.key, found.prevents_start) == ("journal.path", True)
    assert found.text.startswith(f"{journal} {problem} (restore a back-up, or run")
    assert files_of(journal.parent) == before


def test_a_journal_with_a_damaged_page_prevents_the_start(settings: Callable[..., Settings], journal: Path) -> None:
    with journal.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\x55" * 4096)
    (found,) = preflight(settings())
    assert f"{journal} is a damaged journal" in found.text
    assert found.prevents_start


def test_a_journal_of_a_newer_version_prevents_the_start(settings: Callable[..., Settings], journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA user_version = 9999")
    (found,) = preflight(settings())
    assert "was written by a newer temwatch (journal version 9999" in found.text
    assert found.prevents_start


def test_a_journal_whose_file_is_lost_prevents_the_start(settings: Callable[..., Settings], journal: Path) -> None:
    journal.rename(f"{journal}-wal")
    (found,) = preflight(settings())
    assert "it is missing, but its -wal file exists" in found.text
    assert found.prevents_start


def test_the_check_changes_no_file_beside_a_journal(settings: Callable[..., Settings], journal: Path) -> None:
    before = files_of(journal.parent)
    assert preflight(settings()) == []
    assert files_of(journal.parent) == before


def test_the_check_changes_no_file_after_a_kill(
    settings: Callable[..., Settings], journal: Path, tmp_path: Path
) -> None:
    """A killed daemon leaves its last transactions in the -wal file, where the check reads them."""
    code = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(journal)!r}, isolation_level=None)
connection.execute("INSERT INTO mipmap_directories VALUES ({path_to_uri(tmp_path / "mipmaps")!r}, 1.0)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], timeout=60)
    before = files_of(journal.parent)
    assert before[f"{journal.name}-wal"][2]
    (found,) = preflight(settings())
    assert "lacks the marker file" in found.text
    assert files_of(journal.parent) == before
    Path(f"{journal}-shm").unlink()
    before = files_of(journal.parent)
    assert preflight(settings()) == []  # the -wal file cannot be read without a -shm file
    assert files_of(journal.parent) == before


def test_a_running_daemon_of_this_journal_is_a_note(settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as daemon:
        running = settings(http={"port": daemon.getsockname()[1]})
        with lock_journal(running.journal.path) as lock:
            url = f"http://127.0.0.1:{running.http.port}"
            lock.note(url)
            before = files_of(running.journal.path.parent)
            text = f"{running.journal.path} is used by the running temwatch, process {os.getpid()} at {url}"
            assert preflight(running) == [Finding("journal.path", text)]
            assert files_of(running.journal.path.parent) == before


def test_a_port_in_use_prevents_the_start(settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (found,) = preflight(settings(http={"port": port}))
    who = f"process {os.getpid()}, {Path('/proc/self/comm').read_text().strip()}"
    tried = f"cannot listen on 127.0.0.1:{port}: another program uses the port ({who})"
    text = f"{tried} (stop the other program, or choose another port)"
    assert found == Finding("http.port", text, prevents_start=True)


def test_a_port_of_another_temwatch_prevents_the_start(settings: Callable[..., Settings]) -> None:
    class Alive(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"alive": true}')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Alive) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            (found,) = preflight(settings(http={"port": other.server_port}))
        finally:
            other.shutdown()
            thread.join()
    assert (found.key, found.prevents_start) == ("http.port", True)
    assert "another temwatch answers there" in found.text
    assert "stop the other temwatch, or choose another port" in found.text


def test_a_changed_port_that_another_program_uses_is_found_while_the_daemon_runs(
    settings: Callable[..., Settings],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        changed = settings(http={"port": other.getsockname()[1]})
        with lock_journal(changed.journal.path) as lock:
            lock.note("http://127.0.0.1:1")
            found = preflight(changed)
    assert [(finding.key, finding.prevents_start) for finding in found] == [
        ("journal.path", False),
        ("http.port", True),
    ]


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_prevents_the_start(settings: Callable[..., Settings], host: str) -> None:
    found = preflight(settings(http={"host": host, "port": 0}))
    assert [finding.key for finding in found if finding.prevents_start] == ["http.host"]
    assert f"cannot listen on {host}:0: " in found[-1].text


def test_an_output_directory_that_was_unmounted_is_noted(
    settings: Callable[..., Settings], journal: Path, tmp_path: Path
) -> None:
    note_metafile(journal, tmp_path, tmp_path / "mipmaps")
    (tmp_path / "acquisition" / "_metadata_1.json").touch()
    (found,) = preflight(settings())
    assert (found.key, found.prevents_start) == ("watch[0].mipmaps.output_dir", False)
    assert found.text.startswith(f"{tmp_path}/mipmaps lacks the marker file")


def test_a_watched_directory_that_is_suddenly_empty_is_noted(
    settings: Callable[..., Settings], journal: Path, tmp_path: Path
) -> None:
    note_metafile(journal, tmp_path, tmp_path / "others")
    (found,) = preflight(settings())
    assert (found.key, found.prevents_start) == ("watch[0].directory", False)
    assert found.text.startswith(f"{tmp_path}/acquisition is suddenly empty, it contained 1 metafile")


def test_a_full_disk_of_mipmaps_is_noted(settings: Callable[..., Settings], tmp_path: Path) -> None:
    needed = 2**60
    (found,) = preflight(settings({"mipmaps": {"output_dir": f"{tmp_path}/mipmaps", "min_free_bytes": needed}}))
    assert (found.key, found.prevents_start) == ("watch[0].mipmaps.output_dir", False)
    assert "free, but min_free_bytes is" in found.text


def test_a_nearly_full_disk_of_the_journal_is_noted(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    found = [each for each in preflight(settings()) if each.key == "journal.path"]
    text = f"the disk of {tmp_path}/journal has 1.00 MB free: free some space; the daemon waits while it is full"
    assert found == [Finding("journal.path", text)]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("journal.path", "journal"),
        ("watch[0].directory", "acquisition"),
        ("watch[0].mipmaps.output_dir", "mipmaps"),
    ],
)
def test_a_directory_whose_file_server_does_not_answer_is_named(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    checked, ends = settings(), threading.Event()

    def stuck(access: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *arguments: object, **options: object) -> object:
            if str(path) == f"{tmp_path}/{name}":
                ends.wait()
            return access(path, *arguments, **options)

        return call

    monkeypatch.setattr("daemon.commands.preflight.ANSWER_S", 0.5)
    with monkeypatch.context() as patched:
        for target in ("os.stat", "os.statvfs", "os.access", "os.open", "pathlib.Path.stat"):
            module, _, function = target.rpartition(".")
            patched.setattr(target, stuck(getattr(pydoc.locate(module), function)))
        found = preflight(checked)
        ends.set()
    text = f"{tmp_path}/{name} does not answer: check that its file server is up"
    assert [each for each in found if "answer" in each.text] == [Finding(key, text)]


def test_slow_checks_of_directories_that_answer_are_noted(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()
    monkeypatch.setattr("daemon.commands.preflight.ANSWER_S", 0.1)
    monkeypatch.setattr("daemon.commands.preflight.journal_owner", lambda _: ends.wait())
    (found,) = preflight(settings())
    ends.set()
    assert found == Finding(
        "watch", "the checks of all directories took longer than 0.1 s, and some are missing: try again"
    )


def test_a_directory_that_another_temwatch_watches_prevents_the_start(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    code = """
import pathlib, sys
from daemon.system.locks import lock_root
lock = lock_root(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
input()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "acquisition")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout
        other.stdout.readline()
        (found,) = preflight(settings())
    assert (found.key, found.prevents_start) == ("watch[0].directory", True)
    assert f"is watched by another temwatch (process {other.pid})" in found.text


def test_two_watches_of_one_directory_prevent_the_start(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "acquisition")
    first = settings().watch[0]
    second = first.model_copy(update={"name": "second", "directory": tmp_path / "link"})
    (found,) = preflight(settings().model_copy(update={"watch": (first, second)}))
    assert (found.key, found.prevents_start) == ("watch[1].directory", True)
    assert "another watch of this one under a second name" in found.text


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
import daemon.commands.check_config, daemon.commands.preflight, daemon.config.load
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
    assert all("Permission denied" in line for line in notes + refusals)
