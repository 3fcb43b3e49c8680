"""A fuzzer, and its run in a new process, in which crashes, hangs and lack of memory are also findings."""

import faulthandler
import itertools
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from handlers.workers.memory import limit_memory, worker_bytes

MEMORY_BYTES = worker_bytes(0)
"""Limit of the address space of a run. A worker's limit is this and some bytes for each pixel."""

Check = Callable[[bytes], None]
"""Tries an input. Raises an exception if the input is a finding."""


@dataclass(frozen=True, slots=True)
class Fuzzer:
    """Draws inputs and tries them. Its functions must be picklable, because they are sent to another process."""

    name: str
    draw: Callable[[random.Random], bytes]
    """Returns the same input for the same seed."""
    open_check: Callable[[Path], AbstractContextManager[Check]]
    """Context manager that yields the check, for an empty directory."""


@dataclass(frozen=True, slots=True)
class Run:
    """The inputs of a run: those of files, then those of consecutive seeds until a number or a time is reached."""

    first_seed: int
    count: int | None
    seconds: float | None
    kept: Sequence[Path] = ()
    timeout_s: float = 30.0
    """An input that takes longer is a finding."""

    def inputs(self, fuzzer: Fuzzer) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of each input."""
        for path in self.kept:
            yield path.stem, path.read_bytes()
        end = time.monotonic() + (self.seconds or 0)
        for tried in itertools.count():
            if tried == self.count or (self.seconds is not None and time.monotonic() > end):
                return
            seed = self.first_seed + tried
            yield f"{fuzzer.name}-{seed}", fuzzer.draw(random.Random(seed))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run."""

    tried: int
    exit_code: int
    last: tuple[str, bytes] | None
    """The last input. It is the finding if the exit code is not 0."""


def run(fuzzer: Fuzzer, inputs: Run) -> Outcome:
    """Try inputs in a new process until the first finding. The process prints the traceback of a finding."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_try_inputs, args=(fuzzer, inputs, sending), name=f"fuzz {fuzzer.name}")
    process.start()
    sending.close()
    tried, last = 0, None
    try:
        while True:
            last = receiving.recv()
            tried += 1
    except EOFError:
        process.join()
    finally:
        receiving.close()
    assert process.exitcode is not None
    return Outcome(tried, process.exitcode, last)


def _try_inputs(fuzzer: Fuzzer, inputs: Run, started: Connection) -> None:
    faulthandler.enable()
    limit_memory(MEMORY_BYTES)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place, fuzzer.open_check(Path(place)) as check:
        for name, content in inputs.inputs(fuzzer):
            started.send((name, content))
            faulthandler.dump_traceback_later(inputs.timeout_s, exit=True)
            check(content)
            faulthandler.cancel_dump_traceback_later()
