"""Commands import only the modules that their work uses: they answer sooner, and take less memory."""

import subprocess
import sys

import pytest

from benchmarks.startup import HEAVY, WORK


@pytest.mark.parametrize("module", WORK)
def test_the_work_of_a_command_imports_nothing_that_it_does_not_use(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(WORK[module]) & set(done.stdout.split())


def test_the_help_imports_nothing_heavy() -> None:
    code = "import sys, daemon.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(HEAVY) & set(done.stdout.split())
