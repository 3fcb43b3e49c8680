"""Running a suspect, a job whose workers died, in a separate process beside the worker.

The worker sees how this process ends. So the job is blamed only if it kills its own process, and kills no other worker.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_COMMAND = "from handlers.workers.cluster.separate_process import serve; serve()"
_PARENT_CHECK_S = 0.5


class ProcessKilled(Exception):  # noqa: N818  the pool reports it as the fault of the job
    """The process of a job died."""


def in_own_process(make: Callable[[Any], Any], job: Any) -> Any:
    """Return `make(job)`, called in a separate process.

    Raises
    ------
    ProcessKilled
        If the process died; the text gives the signal or exit code.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", _COMMAND],
        input=pickle.dumps((make, job)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        check=False,
    )
    if done.returncode < 0:
        raise ProcessKilled(f"signal {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise ProcessKilled(f"exit code {done.returncode}")
    return pickle.loads(done.stdout)  # noqa: S301  bytes of our own process


def serve() -> None:
    """Read a job from standard input, run it, and write its result to standard output."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    make, job = pickle.load(sys.stdin.buffer)  # noqa: S301  bytes of our own worker
    result = pickle.dumps(make(job))
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()


def _end_with(parent: int) -> None:
    """End this process when the worker has ended: a hanging job would never end by itself."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)
