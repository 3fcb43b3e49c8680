"""Check what the settings name: token, password and certificate files, z tables, groups, the journal's file system."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from daemon.config.hook_files import hook_problems
from daemon.config.settings import HttpSettings, Settings
from daemon.watching.mounts import Mount, read_mounts, remote_mount
from handlers.errors import Fault, SettingsFault
from handlers.render.http.access import read_login
from handlers.secret_file import read_secret
from handlers.sharing import group_number
from handlers.text import printable

_MIN_TOKEN, _MAX_TOKEN = 16, 4096
"""Length of a token, characters."""


def file_problems(settings: Settings) -> Iterator[str]:
    """Yield one line for each setting whose file, group or file system cannot be used."""
    mount = None if settings.journal.allow_network else _network_mount(settings.journal.path)
    if mount is not None:
        where = f"{settings.journal.path} is on {mount.file_system}, mounted at {printable(mount.directory)}"
        hint = "choose a local disk, or read docs/operations.md and set journal.allow_network = true"
        yield f"journal.path: {where}: a database is not safe there, and hangs with the file server ({hint})"
    try:
        read_token(settings.http)
    except SettingsFault as fault:
        yield str(fault)
    try:
        read_login(settings.render.access)
    except SettingsFault as fault:
        yield str(fault)
    yield from hook_problems(settings.hook)
    if settings.alerts.urls_file is not None:
        try:
            read_secret(settings.alerts.urls_file, "alerts.urls_file")
        except SettingsFault as fault:
            yield str(fault)
    for index, watch in enumerate(settings.watch):
        group = watch.mipmaps.group
        if group is not None and group_number(group) is None:
            yield f"watch[{index}].mipmaps.group: {group!r} is not a group of this machine"
        try:
            watch.to_z_rule()
        except Fault as fault:
            yield f"watch[{index}].z.table: {fault.problem}" + (f" ({fault.hint})" if fault.hint else "")


def _network_mount(path: Path) -> Mount | None:
    mount = remote_mount(os.fspath(path), read_mounts())
    if mount is not None and mount.file_system == "autofs":
        with contextlib.suppress(OSError):
            path.parent.stat()  # triggers the automatic mount
        mount = remote_mount(os.fspath(path), read_mounts())
    return mount


def read_token(http: HttpSettings) -> str | None:
    """Return the token that a POST must carry; None if no file is configured.

    Raises
    ------
    SettingsFault
        If the file cannot be read, is readable by other users, or does not contain 16 to 4096 printable ASCII
        characters without spaces.
    """
    path = http.token_file
    if path is None:
        return None
    token = read_secret(path, "http.token_file").strip()
    if not _MIN_TOKEN <= len(token) <= _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        expected = f"{_MIN_TOKEN} to {_MAX_TOKEN} ASCII characters without spaces"
        hint = "write one line there, for example by: openssl rand -hex 32"
        raise SettingsFault("http.token_file", f"{path} does not contain a token of {expected}", hint)
    return token
