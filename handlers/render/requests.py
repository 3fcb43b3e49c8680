"""A request to render-ws and its answer, as values."""

from collections.abc import Callable
from dataclasses import dataclass

MOST_ANSWER_BYTES = 2**20
"""Bytes of an answer that does not grow with tiles or layers."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The longest answer that is read. A longer one is refused while it arrives."""

    most_bytes: int = MOST_ANSWER_BYTES
    most_values: int = MOST_ANSWER_BYTES
    """Commas, which bound the objects that a parser makes: 200 MiB of `[],` would take 10 GiB."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to render-ws.

    Parameters
    ----------
    path : after the base URL, percent-encoded, with its query.
    subject : the stack or layer concerned, for faults.
    tried : the action, for faults, as in "put tiles".
    body : JSON; empty if the path holds everything; None for a request without a body.
    repeatable : whether sending it twice has the same effect as once.
    """

    method: str
    path: str
    subject: str
    tried: str
    body: bytes | None = None
    repeatable: bool = True
    limit: Limit = Limit()
    """Limit of its answer."""
    limit_s: float | None = None
    """Time limit of this request, instead of `Patience.request_s`."""
    abandonable: bool = False
    """Whether a cancelled caller may drop a write before it is answered. A read may always be dropped."""

    @property
    def must_be_answered(self) -> bool:
        """Whether a cancelled caller still waits for the answer."""
        return self.method != "GET" and not self.abandonable


OnAnswer = Callable[[Request, str, float], None]
"""Called after each request with the status of its answer, or "no answer", and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or a 404 by which render-ws reports that a thing does not exist."""

    absent: bool
    body: bytes
    text: str
    """Text of that 404."""
