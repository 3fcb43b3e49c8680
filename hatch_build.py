"""Build the compiled code if there is a C compiler; without it, numpy and Pillow do the same.

Hatch calls this for wheels and editable installations; `python hatch_build.py` builds the code in place.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
LIBRARIES = {
    "handlers/mipmaps/reductions/libarea_mean.so": (
        "handlers/mipmaps/reductions/area_mean.c",
        "handlers/mipmaps/reductions/resize.c",
    ),
    "handlers/images/formats/libpng_rows.so": ("handlers/images/formats/png_rows.c",),
}
"""Library -> its sources."""
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror=incompatible-pointer-types")
HARDENING = ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3", "-fstack-protector-strong")
"""Checks of buffers and of the stack; compilers that know only a lower level of _FORTIFY_SOURCE use that."""
LINKING = ("-Wl,-z,relro,-z,now,-z,noexecstack",) if sys.platform == "linux" else ()
"""Makes the tables of addresses read-only once a library is loaded."""


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]  # as hatchling documents it
    """Put the libraries into the wheel, which then is for one kind of machine and every version of Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for library, sources in LIBRARIES.items():
            if problem := build(ROOT / library, sources):
                self.app.display_warning(f"{library} was not compiled; levels are made more slowly: {problem}")
                return
        build_data["artifacts"] += LIBRARIES
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def build(library: Path, sources: Iterable[str]) -> str:
    """Compile a library into its place, whole or not at all. Return the problem, empty if there is none."""
    compiler = os.environ.get("CC", "cc").split()
    descriptor, made = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(descriptor)
    try:
        command = [*compiler, *FLAGS, *HARDENING, *LINKING, "-o", made, *(str(ROOT / source) for source in sources)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  nothing of it is input
        if done.returncode:
            return done.stderr.strip() or f"{compiler[0]} failed"
        Path(made).chmod(0o755)
        Path(made).replace(library)  # a process that uses the former library keeps it
    except OSError as error:
        return f"no C compiler: {error}"
    finally:
        Path(made).unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    raise SystemExit("\n".join(filter(None, (build(ROOT / name, LIBRARIES[name]) for name in LIBRARIES))) or 0)
