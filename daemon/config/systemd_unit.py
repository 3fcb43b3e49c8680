"""Query properties of the service's unit from systemd."""

import subprocess
from typing import Final

UNIT: Final = "temwatch.service"
SYSTEMCTL_TIMEOUT_S: Final = 5.0
"""Time-out of systemctl."""


def unit_properties(*names: str) -> dict[str, str]:
    """Return properties of the unit; empty if systemd does not run or does not know the unit. Blocking."""
    try:
        output = subprocess.run(  # noqa: S603  constant words
            ["systemctl", "show", UNIT, "--property", ",".join(("LoadState", *names))],  # noqa: S607  found on the PATH
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SYSTEMCTL_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    return found if found.get("LoadState") == "loaded" else {}
