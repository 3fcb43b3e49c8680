"""`python -m tests.acceptance.faults`: run the fault suite, print its table, write it as JSON and Markdown."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.acceptance.faults.rows import ROWS_VARIABLE, SCALE_VARIABLE, Scale, collect, markdown_table, text_table

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Return 0 if no test failed and nothing was lost, duplicated or left over."""
    parser = argparse.ArgumentParser("python -m tests.acceptance.faults", description=__doc__)
    parser.add_argument("--scale", type=Scale, choices=list(Scale), default=Scale.FULL)
    parser.add_argument("--jobs", type=int, default=3, help="faults at the same time, each with its own daemon")
    parser.add_argument("--output", type=Path, default=Path("build/faults"), help="directory of the table")
    parser.add_argument("--basetemp", help="option of pytest")
    parser.add_argument("-k", dest="chosen", help="option of pytest: only tests whose name matches")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fault-rows-") as rows_directory:
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-n", str(arguments.jobs), "--dist", "worksteal"]
        command += ["-m", "slow or not slow", "-p", "no:cacheprovider"]
        command += ["-k", arguments.chosen] if arguments.chosen else []
        command += ["--basetemp", arguments.basetemp] if arguments.basetemp else []
        environment = {
            **os.environ,
            SCALE_VARIABLE: arguments.scale,
            ROWS_VARIABLE: rows_directory,
            "TEMWATCH_ACCEPTANCE_COLD": "1",
        }
        code = subprocess.run(command, env=environment, check=False).returncode
        rows = collect(Path(rows_directory))
    minutes = (time.monotonic() - began) / 60
    scale, output = arguments.scale, arguments.output
    sys.stdout.write(f"\n{text_table(rows)}\n\n{scale}: {len(rows)} faults in {minutes:.1f} minutes\n")
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{scale}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    (output / f"{scale}.md").write_text(markdown_table(rows))
    return code or int(not rows or not all(row.is_clean for row in rows))


if __name__ == "__main__":
    sys.exit(main())
