"""The preflight of `temwatch check-config`: find what prevents the daemon's start or work, and change nothing."""

import errno
import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from daemon.commands.check_config import Finding
from daemon.commands.daemon_client import is_alive
from daemon.config.listening import listen, port_fault
from daemon.config.render_settings import RenderSettings
from daemon.config.settings import Settings, http_url
from daemon.config.watch_settings import WatchSettings
from daemon.config.writable import read_only_in_unit, user_name
from daemon.journal.faults import journal_fault
from daemon.journal.file import connect_unchanged, examine
from daemon.journal.queries import known_metafiles, mipmap_directories
from daemon.pipeline.gates.output_disks import check_directory
from daemon.system.locks import journal_owner, owner_note, require_lockable, require_unwatched, watched_twice_fault
from daemon.system.threads import DaemonThreads
from daemon.watching.root import emptied, has_no_entries
from daemon.watching.scan import Content
from handlers.errors import Fault, SettingsFault, StorageFault
from handlers.place import ObjectPlace
from handlers.text import byte_size
from handlers.uris import place_uri

ANSWER_S = 10.0
"""Time-out of all directories together."""
ACCESS_S = 1.0
"""Time-out of a single access, which tells whose file server does not answer."""
JOURNAL_FREE_BYTES = 50_000_000
"""Free space below which the disk of the journal counts as nearly full."""
USUAL_PATH = "/render-ws/v1"
_READABLE = "let that user read it and enter each directory above it; the daemon waits for that"


def preflight(settings: Settings) -> list[Finding]:
    """Return what may prevent the daemon's start or work. If a file server hangs, later checks are missing."""
    findings: list[Finding] = []
    threads = DaemonThreads("preflight")
    checks = threads.submit(lambda: findings.extend(_findings(settings)))
    threads.shutdown(wait=False)
    if wait([checks], timeout=ANSWER_S).not_done:
        return [*findings, *_unresponsive_findings(_used_directories(settings))]
    checks.result()
    return findings


def _unresponsive_findings(directories: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield a finding for each directory whose file server does not answer."""
    threads = DaemonThreads("preflight access")
    accesses = {threads.submit(directory.exists): (key, directory) for key, directory in directories.items()}
    threads.shutdown(wait=False)
    stuck = wait(accesses, timeout=ACCESS_S).not_done
    for key, directory in (place for access, place in accesses.items() if access in stuck):
        yield Finding(key, f"{directory} does not answer: check that its file server is up")
    if not stuck:
        text = f"the checks of all directories took longer than {ANSWER_S:g} s, and some are missing: try again"
        yield Finding("watch", text)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _render_findings(settings.render)
    yield from _journal_findings(settings.journal.path)
    yield from _http_findings(settings)
    recorded = _recorded(settings.journal.path)
    for index, watch in enumerate(settings.watch):
        yield from _watch_findings(f"watch[{index}]", watch, recorded)
    yield from _twice_watched_findings(settings)
    written = _output_directories(settings)
    yield from _open_to_all_findings(settings)
    for line in read_only_in_unit({**written, "journal.path": settings.journal.path.parent}):
        key, _, text = line.partition(": ")
        yield Finding(key, text)


def _render_findings(render: RenderSettings) -> Iterator[Finding]:
    if not render.embedded and not render.public_url.endswith(USUAL_PATH):
        yield Finding("render.url", f"{render.public_url} does not end with {USUAL_PATH}, the usual path of render-ws")
    if not render.embedded and render.sends_login_in_clear:
        yield Finding("render.url", "sends the login unencrypted over the network: use https")


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the journal records about directories; nothing if it cannot be read."""

    daemon: int | None = None
    """The process that uses the journal."""
    metafiles: Mapping[str, int] = field(default_factory=dict)
    """Watch -> number of its metafiles."""
    mipmap_directories: frozenset[str] = frozenset()
    """URIs of the directories to which mipmaps were written."""


def _recorded(path: Path) -> _Recorded:
    daemon = journal_owner(path)
    try:
        with closing(connect_unchanged(path)) as connection:
            return _Recorded(daemon, known_metafiles(connection), mipmap_directories(connection))
    except (OSError, sqlite3.Error, Fault):  # another finding reports it; an older journal lacks a table
        return _Recorded(daemon)


def _journal_findings(path: Path) -> Iterator[Finding]:
    """Yield what prevents the use of the journal. A daemon that uses it is normal."""
    if (owner := journal_owner(path)) is not None:
        where = f" at {note}" if (note := owner_note(path)) else ""
        yield Finding("journal.path", f"{path} is used by the running temwatch, process {owner}{where}")
    try:
        require_lockable(path)
        yield from _journal_disk_findings(path.parent)
        examine(path)
    except Fault as fault:
        yield _of_fault("journal.path", fault)
    except sqlite3.DatabaseError as error:
        yield _of_fault("journal.path", journal_fault(path, error))
    except OSError as error:
        yield Finding("journal.path", _inaccessible(path, error), prevents_start=True)


def _journal_disk_findings(directory: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(directory).free
    if free < JOURNAL_FREE_BYTES:
        text = f"the disk of {directory} has {byte_size(free)} free: free some space; the daemon waits while it is full"
        yield Finding("journal.path", text)


def _of_fault(key: str, fault: Fault) -> Finding:
    """Return the finding for a fault that ends the start."""
    text = str(fault)
    subject = f"{fault.subject}: "
    return Finding(key, text.removeprefix(subject) if fault.subject == key else text, prevents_start=True)


def _http_findings(settings: Settings) -> Iterator[Finding]:
    http = settings.http
    if not http.loopback:
        yield Finding("http.host", f"{http.host} allows other machines to read the list of montages")
    url = http_url(http.host, http.port)
    is_running = journal_owner(settings.journal.path) is not None
    if is_running and owner_note(settings.journal.path) in ("", url):
        return  # the daemon itself is on the port
    try:
        for listener in listen(
            socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            listener.close()
    except OSError as error:
        fault = port_fault(http, error)
        if error.errno == errno.EADDRINUSE and is_alive(url):
            problem = fault.problem.replace("another program uses the port", "another temwatch answers there")
            fault = SettingsFault(fault.subject, problem, fault.hint.replace("program", "temwatch"))
        yield _of_fault(fault.subject, fault)


def _watch_findings(key: str, watch: WatchSettings, recorded: _Recorded) -> Iterator[Finding]:
    yield from _directory_findings(key, watch, recorded)
    output_dir = watch.mipmaps.output_dir
    if isinstance(output_dir, ObjectPlace):
        return  # only the probe sends requests
    is_used = place_uri(output_dir) in recorded.mipmap_directories
    disk = check_directory(output_dir, watch.mipmaps.min_free_bytes, used=is_used)
    if disk.problem:
        yield Finding(f"{key}.mipmaps.output_dir", f"{output_dir} {disk.problem}")


def _output_directories(settings: Settings) -> dict[str, Path]:
    """Return key -> directory of the mipmaps, without object stores."""
    return {
        f"watch[{index}].mipmaps.output_dir": watch.mipmaps.output_dir
        for index, watch in enumerate(settings.watch)
        if isinstance(watch.mipmaps.output_dir, Path)
    }


def _used_directories(settings: Settings) -> dict[str, Path]:
    """Return key -> directory of the journal, of all images and of all mipmaps, without object stores."""
    watched = {f"watch[{index}].directory": watch.directory for index, watch in enumerate(settings.watch)}
    return {"journal.path": settings.journal.path.parent, **watched, **_output_directories(settings)}


def _directory_findings(key: str, watch: WatchSettings, recorded: _Recorded) -> Iterator[Finding]:
    directory, mask = watch.directory, watch.tilespecs.mask
    try:
        if not _is_directory(directory):
            yield Finding(f"{key}.directory", f"there is no directory {directory} now: the daemon waits for it")
        elif not os.access(directory, os.R_OK | os.X_OK):
            yield Finding(f"{key}.directory", f"{directory} cannot be read by user {user_name()}: {_READABLE}")
        else:
            yield from _content_findings(f"{key}.directory", watch, recorded)
    except OSError as error:
        yield Finding(f"{key}.directory", f"{_inaccessible(directory, error)}: the daemon waits for it")
    try:
        if mask and not stat.S_ISREG(mask.stat().st_mode):
            yield Finding(f"{key}.tilespecs.mask", f"{mask} is not a file")
    except OSError as error:
        yield Finding(f"{key}.tilespecs.mask", _inaccessible(Path(str(mask)), error))


def _content_findings(key: str, watch: WatchSettings, recorded: _Recorded) -> Iterator[Finding]:
    """Yield findings about the lock on a watched directory, and about its content. Raises OSError."""
    directory = watch.directory
    try:
        if remark := require_unwatched(directory, recorded.daemon):
            yield Finding(key, f"{directory}: {remark}")
    except StorageFault as fault:  # the daemon retries
        yield Finding(key, str(fault))
    except Fault as fault:
        yield _of_fault(key, fault)
    if (known := recorded.metafiles.get(watch.name, 0)) and has_no_entries(str(directory)):
        yield Finding(key, f"{directory} is {emptied(Content(known, 0))}")


def _twice_watched_findings(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each directory that an earlier watch names by another path."""
    seen: set[tuple[int, int]] = set()
    for index, watch in enumerate(settings.watch):
        with suppress(OSError):
            status = watch.directory.stat()
            if (status.st_dev, status.st_ino) in seen:
                yield _of_fault(f"watch[{index}].directory", watched_twice_fault(watch.directory))
            seen.add((status.st_dev, status.st_ino))


def _open_to_all_findings(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each directory in which every user can replace files and directories."""
    for key, directory in _used_directories(settings).items():
        try:
            mode = directory.stat().st_mode
        except OSError:  # another finding reports it
            continue
        if mode & stat.S_IWOTH:
            text = (
                f"every user can write in {directory} (mode {stat.S_IMODE(mode):04o}): chmod o-w, if its writers allow"
            )
            yield Finding(key, text)


def _is_directory(path: Path) -> bool:
    """Whether the path is a directory; False if it does not exist. Raises OSError if it cannot be accessed."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _inaccessible(path: Path, error: OSError) -> str:
    user = f" by user {user_name()}" if isinstance(error, PermissionError) else ""
    return f"{path} cannot be accessed{user}: {error.strerror or error}"
