"""Time-outs of requests to render-ws, and the interval of polls for a stack's state. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits of requests; seconds."""

    connect_s: float = 10.0
    silence_s: float = 120.0
    """From the end of a request to its answer, and between two pieces of the answer."""
    request_s: float = 300.0
    """Time-out of a request and its whole answer."""
    complete_s: float = 45.0
    """Time-out of the answer to COMPLETE, which comes only after the derivation. Then the stack's state is polled.
    Without its database render-ws answers 500 after 30 s."""
    ping_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Polling:
    """Delays between readings of a stack's state while render-ws completes it; seconds."""

    first_s: float = 0.25
    """Before the second reading; each further delay is half as long again."""
    longest_s: float = 15.0
    lost_s: float = 30.0
    """Time for polls after the connection broke: render-ws may have received COMPLETE."""

    def delay_s(self, poll: int) -> float:
        """Return the seconds to wait after a reading; 0 is the first.

        >>> Polling().delay_s(0), Polling().delay_s(2), Polling().delay_s(50)
        (0.25, 0.5625, 15.0)
        """
        return float(min(self.longest_s, self.first_s * 1.5 ** min(poll, 100)))
