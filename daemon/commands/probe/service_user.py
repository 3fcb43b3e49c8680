"""Change to the user of the service's unit, so that the probe accesses files as that user."""

import encodings.idna  # noqa: F401  loaded when a host name is looked up; root's own Python may be closed to others
import grp
import os
import pwd
from contextlib import suppress

from daemon.config.systemd_unit import UNIT, unit_properties
from daemon.config.writable import user_name
from handlers.text import printable

_COMMAND = "temwatch check-config --probe"


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
        return f"files are accessed as user {me}, but {UNIT} runs as {wanted}: run `sudo -u {wanted} {_COMMAND}`"
    more = ", which has more rights than other users" if os.geteuid() == 0 else ""
    return f"files are accessed as user {me}{more}: if the service runs as another user, run `sudo -u USER {_COMMAND}`"


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
