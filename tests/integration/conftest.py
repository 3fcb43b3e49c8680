"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator

import pytest
from standin_control import Standin, standin

from tests.integration.inprocess import retry_fast


@pytest.fixture
async def service() -> AsyncIterator[Standin]:
    """A stand-in without stacks."""
    async with standin() as service:
        yield service


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds between attempts."""
    retry_fast(monkeypatch)
