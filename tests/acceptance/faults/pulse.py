"""Requests to /healthz while a fault is injected."""

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pulse:
    """Answers of /healthz."""

    answers: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """Texts of the answers other than 200, and of the missing answers."""


@contextlib.contextmanager
def pulse_of(url: str, *, every_s: float = 0.2, timeout_s: float = 10.0) -> Iterator[Pulse]:
    """Request /healthz of a daemon repeatedly within the context."""
    pulse, done = Pulse(), threading.Event()

    def request() -> None:
        while not done.wait(every_s):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(f"{url}/healthz", timeout=timeout_s) as response:
                    if response.status != 200:
                        pulse.wrong.append(str(response.status))
            except urllib.error.HTTPError as error:
                with error:
                    pulse.wrong.append(repr(error))
            except OSError as error:
                pulse.wrong.append(repr(error))
            pulse.answers += 1
            pulse.slowest_s = max(pulse.slowest_s, time.monotonic() - began)

    thread = threading.Thread(target=request, name="pulse")
    thread.start()
    try:
        yield pulse
    finally:
        done.set()
        thread.join()
