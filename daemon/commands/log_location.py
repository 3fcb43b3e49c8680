"""Find the log of a running daemon, and the command that shows the lines of one montage."""

import os
import shlex
import stat
from pathlib import Path

PROC = Path("/proc")
_UNIT = "temwatch"


def reading_hint(process: int | None, montage: int, proc: Path = PROC) -> str:
    """Return a sentence with the command that shows the lines of a montage in the daemon's log.

    Parameters
    ----------
    process : id of the daemon's process; None if it does not run.
    """
    grep = f"grep -E '\"montage\": {montage}[,}}]|montage={montage}( |$)'"
    journal = f"journalctl -u {_UNIT} -o cat | {grep}"
    if process is None:
        return f"the daemon does not run; as a service it logs to the system journal: {journal}"
    unit = _unit_of(process, proc)
    if unit is not None and not _is_file(process, proc):
        return f"the daemon's log: journalctl -u {shlex.quote(unit)} -o cat | {grep}"
    try:
        target = (proc / str(process) / "fd" / "1").readlink()
    except OSError:
        return f"the log of process {process}, which belongs to another user; in the system journal: {journal}"
    if _is_file(process, proc):
        return f"the daemon's log: {grep} {shlex.quote(str(target))}"
    return f"the daemon's log goes to {target}; find the lines with {grep}"


def _unit_of(process: int, proc: Path) -> str | None:
    """Return the systemd service of a process; None if it has none."""
    try:
        groups = (proc / str(process) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    names = [part for line in groups for part in line.rpartition(":")[2].split("/")]
    return next((name for name in reversed(names) if name.endswith(".service")), None)


def _is_file(process: int, proc: Path) -> bool:
    """Whether the standard output of a process is a regular file."""
    try:
        return stat.S_ISREG(os.stat(proc / str(process) / "fd" / "1").st_mode)  # noqa: PTH116  follows the magic link
    except OSError:
        return False
