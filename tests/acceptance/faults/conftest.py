"""Fixtures of the fault suite: its scale, and the row of each fault in the table."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.faults.rows import FaultRun, Scale, pass_on, scale_asked_for, text_table

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tests of this directory unless `make faults` runs."""
    if scale_asked_for() is not None:
        return
    long_ones = [item for item in items if HERE in item.path.parents and item.get_closest_marker("slow")]
    if long_ones:
        config.hook.pytest_deselected(items=long_ones)
        items[:] = [item for item in items if item not in long_ones]


@pytest.fixture(scope="session")
def scale() -> Scale:
    """The scale of the injections."""
    return scale_asked_for() or Scale.TINY


@pytest.fixture
def enter() -> Callable[[FaultRun], None]:
    """Record the fault's row, then check that nothing was lost."""
    began = time.monotonic()

    def enter_one(row: FaultRun) -> None:
        row = replace(row, seconds=time.monotonic() - began)
        pass_on(row)
        sys.stdout.write(f"{text_table([row])}\n")
        assert row.is_clean, row

    return enter_one
