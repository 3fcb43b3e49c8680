"""Commands import only the modules that their work uses: they answer sooner, and take less memory."""

import subprocess
import sys
from graphlib import TopologicalSorter

import grimp
import pytest

from benchmarks.startup import HEAVY, WORK


@pytest.mark.parametrize("module", WORK)
def test_the_work_of_a_command_imports_nothing_that_it_does_not_use(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(WORK[module]) & set(done.stdout.split())


@pytest.mark.parametrize("module", ["status_screen", "check_config", "reload"])
def test_commands_about_the_daemon_import_neither_client_nor_journal_before_they_need_them(module: str) -> None:
    code = f"import sys, daemon.commands.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"aiohttp", "numpy", "sqlite3", "structlog", "watchdog"} & set(done.stdout.split())


def test_no_command_imports_an_http_server() -> None:
    code = """
import pkgutil, sys, daemon.commands
for module in pkgutil.walk_packages(daemon.commands.__path__, "daemon.commands."):
    __import__(module.name)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"aiohttp.web", "daemon.web"} & set(done.stdout.split())


def test_the_help_imports_nothing_heavy() -> None:
    code = "import sys, daemon.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count: a circle that is put off is one all the same."""
    graph = grimp.build_graph("daemon", "handlers", exclude_type_checking_imports=True)
    order = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    order.prepare()  # raises CycleError, which names a circle
