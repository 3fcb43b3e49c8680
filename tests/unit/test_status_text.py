"""Lines of `temwatch status` about single montages."""

from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.commands.status_text import View, _times

VIEW = View(datetime(2026, 1, 5, 12, tzinfo=UTC))


@pytest.mark.parametrize(("attempt", "end"), [(0, "in step settle"), (1, "after 1 attempt"), (5, "after 5 attempts")])
def test_a_montage_that_failed_before_an_attempt_shows_no_number_of_attempts(attempt: int, end: str) -> None:
    montage: dict[str, Any] = {
        "state": "failed",
        "failed_in": "noticed",
        "attempt": attempt,
        "changed_at": "2026-01-05T09:01:00.000+00:00",
    }
    assert _times([montage], VIEW).endswith(end)
