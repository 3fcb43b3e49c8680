"""`python -m tests.simulation`: see the package."""

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":  # sets of texts have the same order in each run
    command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})

from tests.simulation import substitutes

substitutes.install()

from tests.simulation.command import main  # noqa: E402  what it imports has to find the substitutes

sys.exit(main())
