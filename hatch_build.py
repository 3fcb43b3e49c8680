"""Build the compiled mipmap kernel if there is a C compiler; without it, numpy and Pillow do the same.

Hatch calls this for wheels and editable installations; `python hatch_build.py` builds the kernel in place.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).resolve().parent / "handlers" / "mipmaps"
SOURCES, LIBRARY = (PACKAGE / "area_mean.c", PACKAGE / "resize.c"), PACKAGE / "libarea_mean.so"
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror=incompatible-pointer-types")
HARDENING = ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3", "-fstack-protector-strong")
"""Checks of buffers and of the stack; compilers that know only a lower level of _FORTIFY_SOURCE use that."""
LINKING = ("-Wl,-z,relro,-z,now,-z,noexecstack",) if sys.platform == "linux" else ()
"""Makes the tables of addresses read-only once the library is loaded."""


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]  # as hatchling documents it
    """Put the library into the wheel, which then is for one kind of machine and every version of Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        problem = build()
        if problem:
            self.app.display_warning(f"the mipmap kernel was not compiled; levels are made more slowly: {problem}")
            return
        build_data["artifacts"].append("handlers/mipmaps/libarea_mean.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def build() -> str:
    """Compile the library into its place, whole or not at all. Return the problem, empty if there is none."""
    compiler = os.environ.get("CC", "cc").split()
    descriptor, made = tempfile.mkstemp(suffix=".so", dir=LIBRARY.parent)
    os.close(descriptor)
    try:
        command = [*compiler, *FLAGS, *HARDENING, *LINKING, "-o", made, *map(str, SOURCES)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  nothing of it is input
        if done.returncode:
            return done.stderr.strip() or f"{compiler[0]} failed"
        Path(made).chmod(0o755)
        Path(made).replace(LIBRARY)  # a process that uses the former library keeps it
    except OSError as error:
        return f"no C compiler: {error}"
    finally:
        Path(made).unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    raise SystemExit(build() or 0)
