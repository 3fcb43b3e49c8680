"""Change to the user of the service's unit, so that the probe accesses files as that user."""

import encodings.idna  # noqa: F401  loaded when a host name is looked up; root's own Python may be closed to others
import grp
import os
import pwd
import shlex
import sys
from contextlib import suppress

from daemon.config.systemd_unit import UNIT, unit_properties
from daemon.config.writable import user_name
from handlers.text import printable


def become_service_user() -> str:
    """Change this process to the service's user if possible; return a sentence that names the user. Blocking.

    Only root can change its user, and only systemd knows the user of the service. Group, supplementary groups and umask
    become those of the unit, too.
    """
    unit = unit_properties("User", "Group", "SupplementaryGroups", "UMask")
    wanted = printable(unit.get("User", ""))
    if os.geteuid() == 0 and wanted not in ("", "root"):
        try:
            _become(unit)
        except (KeyError, ValueError, OSError) as error:
            why = f"{UNIT} runs as {wanted}, and this process cannot change to that user: {error}"
            return f"files are accessed as root: {why}"
    me = user_name()
    if unit.get("User") and _is_me(unit["User"]):
        return f"files are accessed as user {me}, the user of {UNIT}"
    if wanted:
        return f"files are accessed as user {me}, but {UNIT} runs as {wanted}: run `{_command_as(wanted)}`"
    more = ", which has more rights than other users" if os.geteuid() == 0 else ""
    return f"files are accessed as user {me}{more}: if the service runs as another user, run `{_command_as('USER')}`"


def _command_as(user: str) -> str:
    """Return the command of this process as one that another user runs, for a shell."""
    words = [sys.executable, *sys.orig_argv[1:]] if sys.argv[0].endswith("__main__.py") else sys.argv
    become = f"runuser -u {user} --" if os.geteuid() == 0 else f"sudo -u {user}"
    return printable(f"{become} {shlex.join(words)}")


def _become(unit: dict[str, str]) -> None:
    """Change user, groups and umask to those of the unit. Raises KeyError for an unknown user or group."""
    user = _account(unit["User"])
    group = _group(unit["Group"]) if unit.get("Group") else user.pw_gid
    further = [_group(name) for name in unit.get("SupplementaryGroups", "").split()]
    os.setgroups(sorted({*os.getgrouplist(user.pw_name, group), *further}))
    os.setgid(group)
    os.setuid(user.pw_uid)
    with suppress(ValueError):
        os.umask(int(unit.get("UMask", ""), 8))


def _is_me(name: str) -> bool:
    try:
        return _account(name).pw_uid == os.geteuid()
    except KeyError:
        return False


def _account(name: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)


def _group(name: str) -> int:
    return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
