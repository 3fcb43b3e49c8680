"""One attempt at a delivery by a program that reads the event from standard input."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

from daemon.config.hook_settings import HookSettings
from daemon.notify.hooks.send_request import MAX_PROBLEM, Sent
from handlers.text import printable, shorten

_KEPT_BYTES = 2000
"""Number of last bytes of the program's standard error that are kept."""
_PIPE_BYTES = 65_536


async def run_program(hook: HookSettings, body: bytes) -> Sent:
    """Run the program of a hook in its own process group, which is killed at the time-out; return the outcome.

    Standard output is discarded. Processes that the program started and left running (a cluster job, a server)
    continue.
    """
    with _standard_input(body) as standard_input, _ErrorOutput() as errors:
        try:
            process = await _start(hook.command, standard_input, errors.write_end)
        except OSError as error:
            return Sent(f"{printable(hook.command[0])} cannot be run: {error.strerror}")
        errors.close_write_end()
        try:
            async with asyncio.timeout(hook.timeout_s):
                code = await process.wait()
        except TimeoutError:
            return Sent(f"was still running after {hook.timeout_s:g} s, and was killed{errors.text()}")
        finally:
            await _kill(process)
        if code < 0:
            return Sent(f"was killed by signal {-code}{errors.text()}")
        return Sent(f"ended with exit code {code}{errors.text()}" if code else "")


async def _start(command: Sequence[str], standard_input: int, standard_error: int) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=standard_input,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=standard_error,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:  # asyncio would kill the program but not its child processes
        with contextlib.suppress(OSError):
            await _kill(await starting)
        raise


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process group unless the program has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@contextlib.contextmanager
def _standard_input(body: bytes) -> Iterator[int]:
    """Yield a descriptor from which the program reads the event: a file in memory, which it may leave unread."""
    descriptor = os.memfd_create("temwatch event")
    try:
        os.write(descriptor, body)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class _ErrorOutput:
    """End of a program's standard error. A child process that keeps the pipe open causes no delay."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._kept = b""

    def __enter__(self) -> "_ErrorOutput":
        asyncio.get_running_loop().add_reader(self._read_end, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        self.close_write_end()

    def close_write_end(self) -> None:
        """Close this process's copy of the write end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def _read(self) -> bytes:
        try:
            piece = os.read(self._read_end, _PIPE_BYTES)
        except BlockingIOError:
            return b""
        self._kept = (self._kept + piece)[-_KEPT_BYTES:]
        if not piece:  # every writer is gone
            asyncio.get_running_loop().remove_reader(self._read_end)
        return piece

    def text(self) -> str:
        """Return the last line that was written, after a colon; empty if there is none."""
        self._read()
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        return f": {shorten(printable(lines[-1].strip()), MAX_PROBLEM)}" if lines else ""
