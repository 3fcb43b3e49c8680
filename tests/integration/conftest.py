"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from standin_control import Standin, standin

from tests.integration.inprocess import retry_fast
from tests.integration.paged import Paged, paged


@pytest.fixture
async def service() -> AsyncIterator[Standin]:
    """A stand-in without stacks."""
    async with standin() as service:
        yield service


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds between attempts."""
    retry_fast(monkeypatch)


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Paged]:
    """The daemon's pages over an empty journal."""
    async with paged(tmp_path) as pages:
        yield pages
