"""Time-outs of requests to render-ws, and intervals of polls for a stack's state. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time-outs of requests, in seconds."""

    connect_s: float = 10.0
    """Until the connection is open."""
    silence_s: float = 120.0
    """From the end of a request to its answer, and between two pieces of the answer."""
    request_s: float = 300.0
    """Of a request and its whole answer."""
    complete_s: float = 45.0
    """Of the answer to COMPLETE, which comes only after the derivation; then the state is polled. It exceeds the 30 s
    after which render-ws answers 500 if its database is down."""
    ping_s: float = 10.0
    """Of a request that only tests the service."""


@dataclass(frozen=True, slots=True)
class Polling:
    """Delays between polls of a stack's state while render-ws completes it, in seconds."""

    first_s: float = 0.25
    """Delay after the first poll; each further delay is longer by half."""
    max_s: float = 15.0
    lost_s: float = 30.0
    """Time to poll after the connection broke: render-ws may have received COMPLETE."""

    def delay_s(self, poll: int) -> float:
        """Return the seconds to wait after a poll; polls are counted from 0.

        >>> Polling().delay_s(0), Polling().delay_s(2), Polling().delay_s(50)
        (0.25, 0.5625, 15.0)
        """
        return float(min(self.max_s, self.first_s * 1.5 ** min(poll, 100)))
