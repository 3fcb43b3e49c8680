"""Serve the stand-in over HTTP, within this process or from the command line."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from aiohttp import web

from daemon.simulator.standin.application import BASE, StandIn
from daemon.simulator.standin.faults import Fault

IDLE_S = 30.0
"""Idle connections are closed after this time, as Jetty does."""


@contextlib.asynccontextmanager
async def serve_standin(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    derive_s: float = 0.0,
    faults: Iterable[Fault] = (),
    state: Path | None = None,
) -> AsyncIterator[str]:
    """Serve a stand-in within the context.

    Parameters
    ----------
    host : address of the socket.
    port : port of the socket; 0: any free port.
    derive_s, faults, state : see `StandIn`.

    Yields
    ------
    str
        Base URL, such as http://127.0.0.1:8080/render-ws/v1.
    """
    application = StandIn(derive_s, faults, state).application()
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        literal = f"[{host}]" if ":" in host else host
        yield f"http://{literal}:{runner.addresses[0][1]}{BASE}"
    finally:
        await runner.cleanup()


async def run_standin(host: str, port: int, *, derive_s: float = 0.0, state: Path | None = None) -> None:
    """Serve a stand-in until SIGTERM or SIGINT. Print its URL when it is ready."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve_standin(host, port, derive_s=derive_s, state=state) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> None:
    """Run the command line of `python -m daemon.simulator.standin`."""
    parser = argparse.ArgumentParser(description="A stand-in for render-ws, in memory.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=8080, type=int, help="0 for any free port")
    parser.add_argument("--derive-s", default=0.0, type=float, help="duration of COMPLETE, seconds")
    parser.add_argument("--state", type=Path, help="file that keeps the stacks from one run to the next")
    given = parser.parse_args()
    asyncio.run(run_standin(given.host, given.port, derive_s=given.derive_s, state=given.state))
