"""A request to render-ws and its answer, as values."""

from collections.abc import Callable
from dataclasses import dataclass

MAX_ANSWER_BYTES = 2**20
"""Limit of an answer that does not grow with tiles or layers."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Limit of an answer. A longer answer is refused while it arrives."""

    max_bytes: int = MAX_ANSWER_BYTES
    max_values: int = MAX_ANSWER_BYTES
    """Limit of the commas, and so of the objects that a parser makes: 200 MiB of `[],` would take 10 GiB."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to render-ws.

    Parameters
    ----------
    path : percent-encoded path and query, which follow the base URL.
    subject : the stack or layer concerned, for faults.
    tried : the action, for faults, as in "put tiles".
    body : JSON; empty if the path says everything; None for a request without a body.
    repeatable : whether sending it twice has the same effect as sending it once.
    """

    method: str
    path: str
    subject: str
    tried: str
    body: bytes | None = None
    repeatable: bool = True
    limit: Limit = Limit()
    """Limit of the answer."""
    limit_s: float | None = None
    """Time-out of this request, instead of `TimeLimits.request_s`."""
    abandonable: bool = False
    """Whether a cancelled caller may abandon a write before it is answered. A read may always be abandoned."""

    @property
    def must_be_answered(self) -> bool:
        """Whether a caller waits for the answer even after it was cancelled."""
        return self.method != "GET" and not self.abandonable


OnAnswer = Callable[[Request, str, float], None]
"""Called after each request with the status of its answer, or "no answer", and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or a 404 by which render-ws reports that a stack or tile does not exist."""

    absent: bool
    """Whether it is such a 404."""
    body: bytes
    text: str
    """Text of the 404."""
