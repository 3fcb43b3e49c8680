"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator

import pytest
from standin_control import Standin, standin


@pytest.fixture
async def service() -> AsyncIterator[Standin]:
    """A stand-in without stacks."""
    async with standin() as service:
        yield service
