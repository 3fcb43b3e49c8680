"""Measure every target, one script after the other, and write the table: `python -m benchmarks [--quick]`.

Scripts that depend on the disk run twice: on tmpfs, and on the disk of the results.
"""

import argparse
import subprocess
import sys
import time

from benchmarks import report
from benchmarks.common import DISK_RESULTS, RESULTS, file_system

SCRIPTS = (
    *("mipmap_kernel", "worker_pool", "sustained", "ingest", "watching", "restart", "startup", "cliff"),
    *("pictures", "quality", "pages", "object_store", "filters", "end_to_end", "syncing", "cold", "cluster"),
    "cluster_soak",
)
ON_DISK = ("mipmap_kernel", "worker_pool", "sustained", "ingest", "syncing", "end_to_end")
TIMEOUT_S = 300.0
"""Time-out of one script: a script that hangs does not stop the others."""


def main() -> int:
    """Return 0 if every script has succeeded; the table shows which targets are missed."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, only to test the scripts")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"some of {', '.join(SCRIPTS)}; default: all")
    arguments = parser.parse_args()
    unknown = set(arguments.scripts) - set(SCRIPTS)
    if unknown:
        parser.error(f"no script {', '.join(sorted(unknown))}")
    names = arguments.scripts or SCRIPTS
    quick = ["--quick"] if arguments.quick else []
    failed = [name for name in names if not _run(name, quick)]
    failed += [f"{name} on disk" for name in names if name in ON_DISK and not _run_on_disk(name, quick)]
    report.main(["--results", str(RESULTS)])
    print(f"failed: {', '.join(failed)}" if failed else "all scripts succeeded")
    return 1 if failed else 0


def _run_on_disk(name: str, options: list[str]) -> bool:
    """Run a script with its data on the disk of the results; True also if they are not on a disk."""
    DISK_RESULTS.mkdir(parents=True, exist_ok=True)
    if file_system(DISK_RESULTS) == "tmpfs":
        print(f"--- {name}: not run on a disk, {DISK_RESULTS} is in memory")
        return True
    return _run(name, [*options, "--on", str(DISK_RESULTS), "--output", str(DISK_RESULTS)])


def _run(name: str, options: list[str]) -> bool:
    """Run a script; return whether it succeeded."""
    print(f"--- {name} {' '.join(options)}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}", *options])
    try:
        code = process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
