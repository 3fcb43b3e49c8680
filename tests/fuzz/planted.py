"""Parts of a fuzzer of numbers with planted findings. Tests send them to another process, so they import little."""

import ctypes
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.fuzzer import Check


def draw_number(rng: random.Random) -> bytes:
    return str(rng.randrange(1000)).encode()


def crash(_: bytes) -> None:
    ctypes.string_at(0)


def fail(_: bytes) -> None:
    raise ValueError("planted")


def take_memory(_: bytes) -> None:
    bytearray(2**30)


def hang(_: bytes) -> None:
    threading.Event().wait()


def end(_: bytes) -> None:
    os._exit(3)


def fail_at_large_numbers(content: bytes) -> None:
    assert int(content) < 900


@contextmanager
def failing(check: Check) -> Iterator[Check]:
    yield check


class OpenCheck:
    """A check that can be sent to another process."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self, _: Path) -> Any:
        return failing(self.check)
