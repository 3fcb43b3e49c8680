"""Whether the daemon answers for its health all the time that something is done to it."""

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pulse:
    """What /healthz said while it was asked, again and again."""

    answers: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """Answers other than 200, and silences."""


@contextlib.contextmanager
def felt(url: str, *, every_s: float = 0.2, patience_s: float = 10.0) -> Iterator[Pulse]:
    """Asks /healthz of a daemon for as long as the context lasts."""
    pulse, done = Pulse(), threading.Event()

    def ask() -> None:
        while not done.wait(every_s):
            asked = time.monotonic()
            try:
                with urllib.request.urlopen(f"{url}/healthz", timeout=patience_s) as response:
                    if response.status != 200:
                        pulse.wrong.append(str(response.status))
            except urllib.error.HTTPError as error:
                with error:
                    pulse.wrong.append(repr(error))
            except OSError as error:
                pulse.wrong.append(repr(error))
            pulse.answers += 1
            pulse.slowest_s = max(pulse.slowest_s, time.monotonic() - asked)

    thread = threading.Thread(target=ask, name="pulse")
    thread.start()
    try:
        yield pulse
    finally:
        done.set()
        thread.join()
