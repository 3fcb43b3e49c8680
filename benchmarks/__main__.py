"""Measures every target, one script after the other, and gathers the table: `python -m benchmarks [--quick]`."""

import argparse
import subprocess
import sys
import time

from benchmarks import report
from benchmarks.common import RESULTS

SCRIPTS = ("mipmap_kernel", "worker_pool", "sustained", "ingest", "watching", "restart", "startup", "cliff")
LONGEST_S = 300.0
"""Of one script: one that hangs must not take the others with it."""


def main() -> int:
    """0 when every script has measured; targets may be missed nevertheless, the table says which."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, to see that all works")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"some of {', '.join(SCRIPTS)}; default: all")
    arguments = parser.parse_args()
    unknown = set(arguments.scripts) - set(SCRIPTS)
    if unknown:
        parser.error(f"no script {', '.join(sorted(unknown))}")
    failed = []
    for name in arguments.scripts or SCRIPTS:
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if arguments.quick else [])]
        process = subprocess.Popen(command)
        try:
            code = process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        if code != 0:
            failed.append(name)
        print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
    report.main(["--results", str(RESULTS)])
    print(f"not measured: {', '.join(failed)}" if failed else "all measured")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
