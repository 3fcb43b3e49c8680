"""`temwatch check-config`: show the effect of a configuration, and find what prevents the daemon's start or work."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path

from daemon.commands.daemon_client import is_alive
from daemon.config.render_settings import RenderSettings
from daemon.config.settings import Settings, http_url
from daemon.config.watch_settings import WatchSettings
from daemon.config.writable import read_only_in_unit, user_name, write_problem
from daemon.system.locks import journal_owner
from daemon.system.threads import DaemonThreads
from handlers.mipmaps.plan import Level0, level_uris
from handlers.place import ObjectPlace

ANSWER_S = 10.0
"""Time-out of all directories together."""
USUAL_PATH = "/render-ws/v1"
_READABLE = "let that user read it and enter each directory above it; the daemon waits for that"


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of the preflight."""

    key: str
    """Key of the configuration, dotted."""
    text: str
    prevents_start: bool = False
    """Whether `temwatch run` would exit because of it. Otherwise the daemon starts, and waits or warns."""

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


def effect(settings: Settings) -> Iterator[str]:
    """Yield lines that show what the daemon would read, where it would write, and with which rules."""
    render = settings.render
    yield f"render-ws  {render.public_url}  owner {render.owner}, project {render.project}"
    yield f"journal    {settings.journal.path}"
    yield f"http       {settings.http.host}:{settings.http.port}"
    yield f"workers    {settings.workers.executor}, {settings.workers.at_once} at once"
    for watch in settings.watch:
        stacks, mipmaps = watch.stacks, watch.mipmaps
        yield f"watch {watch.name}"
        yield f"  reads    {watch.directory}, {watch.pattern}, mode {watch.mode}"
        yield f"  z        {watch.z.description}"
        closed = f"closed after {stacks.close_after_s:g} s of quiet" if stacks.close else "never closed"
        raw, mipmapped = ("/".join(name) for name in stacks.full_names(render.owner, render.project))
        yield f"  stacks   {raw} -> {mipmapped if mipmapped != raw else 'the same stack, in place'}; {closed}"
        applied = "in the tile specs" if mipmaps.apply == "tiles" else "by a path builder of the stack"
        yield f"  mipmaps  {mipmaps.levels} levels, {mipmaps.format}, in {mipmaps.output_dir}; named {applied}"
        yield from (f"  URL      {what:<10} {url}" for what, url in _example_urls(watch))


def _example_urls(watch: WatchSettings) -> Iterator[tuple[str, str]]:
    """Yield (purpose, URL) with one example of each URL and path that a watch sends to render-ws."""
    plan, options = watch.mipmap_plan(), watch.tilespec_options()
    image = watch.directory / "IMAGE.tif"
    tile = Level0("IMAGE", image, options.mask, 1, 1)
    level, level_mask = level_uris(tile, plan)[1]
    yield "image", options.path_map.to_url(image)
    if options.mask:
        yield "mask", options.path_map.to_url(options.mask)
    yield "level 1", level
    if level_mask:
        yield "level mask", level_mask
    if plan.is_derived:
        yield "builder", str(plan.path_builder()["rootPath"])


def preflight(settings: Settings) -> list[Finding]:
    """Return what may prevent the daemon's start or work. If a file server hangs, later checks are missing."""
    findings: list[Finding] = []
    threads = DaemonThreads("preflight")
    checks = threads.submit(lambda: findings.extend(_findings(settings)))
    threads.shutdown(wait=False)
    if wait([checks], timeout=ANSWER_S).not_done:
        text = f"a directory has not answered for {ANSWER_S:g} s: check that its file server is up"
        return [*findings, Finding("watch", text)]
    checks.result()
    return findings


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _render_findings(settings.render)
    yield from _journal_findings(settings.journal.path)
    yield from _http_findings(settings)
    for index, watch in enumerate(settings.watch):
        yield from _watch_findings(f"watch[{index}]", watch)
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


def _journal_findings(path: Path) -> Iterator[Finding]:
    try:
        if not _is_directory(path.parent):
            yield Finding("journal.path", f"there is no directory {path.parent}: create it", prevents_start=True)
        elif problem := write_problem(path.parent):
            yield Finding("journal.path", f"{path.parent} {problem}", prevents_start=True)
        elif path.exists() and not os.access(path, os.R_OK | os.W_OK):
            yield Finding(
                "journal.path",
                f"{path} cannot be read and written by user {user_name()}: give it to that user",
                prevents_start=True,
            )
    except OSError as error:
        yield Finding("journal.path", _inaccessible(path.parent, error), prevents_start=True)


def _http_findings(settings: Settings) -> Iterator[Finding]:
    http = settings.http
    if not http.loopback:
        yield Finding("http.host", f"{http.host} allows other machines to read the list of montages")
    if journal_owner(settings.journal.path) is not None or is_alive(http_url(http.host, http.port)):
        return  # the daemon itself is on the port
    try:
        kind, _, _, _, address = socket.getaddrinfo(http.host.strip("[]"), http.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except socket.gaierror as error:
        yield Finding("http.host", f"{http.host} has no address: {error.strerror}", prevents_start=True)
    except OSError as error:
        yield Finding(*_port_problem(http.host, http.port, error), prevents_start=True)


def _port_problem(host: str, port: int, error: OSError) -> tuple[str, str]:
    match error.errno:
        case errno.EADDRINUSE:
            return "http.port", f"{port} is used by another program: choose another port"
        case errno.EACCES:
            return "http.port", f"user {user_name()} may not listen on {port}: choose a port above 1023"
        case errno.EADDRNOTAVAIL:
            return "http.host", f"{host} is not an address of this machine"
        case _:
            return "http.port", f"cannot listen on {host}:{port}: {error.strerror}"


def _watch_findings(key: str, watch: WatchSettings) -> Iterator[Finding]:
    yield from _directory_findings(key, watch)
    output_dir = watch.mipmaps.output_dir
    if isinstance(output_dir, ObjectPlace):
        return  # only the probe sends requests
    try:
        problem = write_problem(output_dir)
    except OSError as error:
        yield Finding(f"{key}.mipmaps.output_dir", _inaccessible(output_dir, error))
    else:
        if problem:
            yield Finding(f"{key}.mipmaps.output_dir", f"{output_dir} {problem}")


def _output_directories(settings: Settings) -> dict[str, Path]:
    """Return key -> directory of the mipmaps, without object stores."""
    return {
        f"watch[{index}].mipmaps.output_dir": watch.mipmaps.output_dir
        for index, watch in enumerate(settings.watch)
        if isinstance(watch.mipmaps.output_dir, Path)
    }


def _directory_findings(key: str, watch: WatchSettings) -> Iterator[Finding]:
    directory, mask = watch.directory, watch.tilespecs.mask
    try:
        if not _is_directory(directory):
            yield Finding(f"{key}.directory", f"there is no directory {directory} now: the daemon waits for it")
        elif not os.access(directory, os.R_OK | os.X_OK):
            yield Finding(f"{key}.directory", f"{directory} cannot be read by user {user_name()}: {_READABLE}")
    except OSError as error:
        yield Finding(f"{key}.directory", f"{_inaccessible(directory, error)}: the daemon waits for it")
    try:
        if mask and not stat.S_ISREG(mask.stat().st_mode):
            yield Finding(f"{key}.tilespecs.mask", f"{mask} is not a file")
    except OSError as error:
        yield Finding(f"{key}.tilespecs.mask", _inaccessible(Path(str(mask)), error))


def _open_to_all_findings(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each directory in which every user can replace files and directories."""
    directories = {"journal.path": settings.journal.path.parent}
    for index, watch in enumerate(settings.watch):
        directories[f"watch[{index}].directory"] = watch.directory
        if isinstance(watch.mipmaps.output_dir, Path):
            directories[f"watch[{index}].mipmaps.output_dir"] = watch.mipmaps.output_dir
    for key, directory in directories.items():
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
