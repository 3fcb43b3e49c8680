"""Builds the compiled kernel of the area mean, where a C compiler is at hand; without one, numpy does its work.

Hatch calls this for wheels and editable installations; `python hatch_build.py` builds it in place.
"""

import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).resolve().parent / "handlers" / "mipmaps"
SOURCE, LIBRARY = PACKAGE / "area_mean.c", PACKAGE / "libarea_mean.so"
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror=incompatible-pointer-types")


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own way of writing it
    """Puts the library into the wheel, which then belongs to a machine, though to no version of Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        problem = build()
        if problem:
            self.app.display_warning(f"the mipmap kernel is left to numpy, which is slower: {problem}")
            return
        build_data["artifacts"].append("handlers/mipmaps/libarea_mean.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def build() -> str:
    """Compiles the library into its place, whole or not at all; what went wrong, if anything did."""
    compiler = os.environ.get("CC", "cc").split()
    descriptor, made = tempfile.mkstemp(suffix=".so", dir=LIBRARY.parent)
    os.close(descriptor)
    try:
        command = [*compiler, *FLAGS, "-o", made, str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  nothing of it is input
        if done.returncode:
            return done.stderr.strip() or f"{compiler[0]} failed"
        Path(made).chmod(0o755)
        Path(made).replace(LIBRARY)  # a process that has the former one open keeps it
    except OSError as error:
        return f"no C compiler: {error}"
    finally:
        Path(made).unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    raise SystemExit(build() or 0)
