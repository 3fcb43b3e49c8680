"""`python -m tests.simulation`; the package describes the options."""

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":  # so that sets of strings have the same order in each run
    command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})

from tests.simulation import substitutes

substitutes.install()

from tests.simulation.command import main  # noqa: E402  its imports need the substitutes

sys.exit(main())
