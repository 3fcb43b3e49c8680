"""The connection to a dask scheduler. Every failure is a SchedulerAway with one line of text."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from handlers.errors import WorkersUnavailable
from handlers.text import shorten
from handlers.workers.cluster.access import ClusterAccess
from handlers.workers.cluster.importing import import_distributed

T = TypeVar("T")

ANSWER_S = 10.0
"""Longest wait for an answer of the scheduler."""
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 30.0
_CONNECT = "connect"
_HINT = "start it there, or correct workers.dask_scheduler"
_MAX_TEXT = 300
_DEFAULT_PORT = 8786
_OF_NO_WORKER = "temwatch: tiles wait for workers"
"""Name of a resource that no worker has."""


class SchedulerAway(Exception):  # noqa: N818  not an error: the executor waits for the scheduler
    """The scheduler cannot be used now. The text gives the reason."""


def opening_delay_s(attempt: int) -> float:
    """Return the seconds until the next attempt to connect: doubling from 1 s to 30 s, with 25 % jitter."""
    plain = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempt - 1, 30))
    return plain * random.uniform(0.75, 1.25)  # noqa: S311  jitter


class Connection:
    """An open connection. All methods run in the event loop that opened it."""

    def __init__(self, client: Any, scheduler: str) -> None:
        self._client = client
        self._scheduler = scheduler
        self.scheduler_versions: dict[str, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, access: ClusterAccess) -> AsyncIterator["Connection"]:
        """Connect, and yield the connection.

        Raises
        ------
        SchedulerAway
            If the scheduler does not answer, or a file that the settings name cannot be used.
        """
        await asyncio.to_thread(import_distributed)
        from distributed.versions import VersionMismatchWarning

        from handlers.workers.cluster.lean_client import LeanClient, report_end

        # `versions` reports different versions in one line.
        warnings.filterwarnings("ignore", category=VersionMismatchWarning)
        try:
            security = await asyncio.to_thread(access.security)
        except WorkersUnavailable as fault:
            raise SchedulerAway(str(fault)) from None
        await _require_listener(access)  # dask's client would take longer to fail, and report less
        asyncio.get_running_loop().set_exception_handler(report_end)
        client: Any = LeanClient(  # type: ignore[no-untyped-call]
            access.scheduler,
            asynchronous=True,
            timeout=ANSWER_S,
            security=security,
            set_as_default=False,
            name="temwatch",
        )
        connection = cls(client, access.scheduler)
        try:
            await connection._ask(client, _CONNECT)
            await connection._read_versions()
            yield connection
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ANSWER_S):
                    await client.close()

    async def _read_versions(self) -> None:
        found = await self._ask(self._client.scheduler.versions(), "report its versions")
        host, packages = found.get("host", {}), found.get("packages", {})
        python = host.get("python") or packages.get("python") or ""
        self.scheduler_versions = {
            "python": ".".join(python.split(".")[:3]),
            "distributed": packages.get("distributed") or "",
        }

    async def _ask(self, question: Awaitable[T], what: str) -> T:
        """Return the answer of the scheduler. Raises SchedulerAway.

        Parameters
        ----------
        what : the action of the scheduler, for the text of SchedulerAway, as in "list its workers".
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                return await question
        except TimeoutError:
            raise SchedulerAway(f"{self._scheduler} has not answered for {ANSWER_S:g} s ({_HINT})") from None
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever dask raises when a scheduler goes away
            if what == _CONNECT and isinstance(error, MemoryError):  # it read a text of another program as a length
                raise SchedulerAway(f"{self._scheduler} is not a dask scheduler ({_HINT})") from None
            raise SchedulerAway(f"{self._scheduler} did not {what}: {_text(error)}") from error

    def require(self) -> None:
        """Raise SchedulerAway if the connection is lost."""
        if self._client.status != "running":
            raise SchedulerAway(f"{self._scheduler} closed the connection")

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Return the scheduler's record of each worker by address. Raises SchedulerAway."""
        identity: dict[str, Any] = await self._ask(self._client.scheduler.identity(), "list its workers")
        found: dict[str, dict[str, Any]] = identity["workers"]
        return found

    def submit(self, function: Callable[[bytes], object], payload: bytes, key: str, workers: frozenset[str]) -> Any:
        """Submit a task to the given workers, and return dask's future; None if the connection is lost."""
        try:
            return self._client.submit(
                function, payload, key=key, workers=sorted(workers), allow_other_workers=False, pure=False
            )
        except Exception:  # noqa: BLE001  the connection was lost: `require` reports it
            return None

    def submit_for_nobody(self, key: str) -> Any:
        """Submit a task that no worker can run, and return dask's future; None if the connection is lost."""
        try:
            return self._client.submit(len, (), key=key, resources={_OF_NO_WORKER: 1}, pure=False)
        except Exception:  # noqa: BLE001  as in `submit`
            return None

    async def result(self, remote: Any) -> Any:
        """Return the result of a task, or its exception.

        Raises
        ------
        CancelledError
            If the scheduler lost the task.
        """
        try:
            return await remote
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  the caller decides
            return error

    def release(self, remote: Any) -> None:
        """Have the scheduler forget a task, whether it has ended or not."""
        with contextlib.suppress(Exception):
            remote.release()

    @staticmethod
    def is_killed_worker(error: object) -> bool:
        """Whether the scheduler gave up a task because its workers died."""
        from distributed import KilledWorker

        return isinstance(error, KilledWorker)

    async def run(self, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a coroutine function in a worker, beside the worker's tasks. Return its result or its exception."""
        try:
            found = await self._client.run(function, *arguments, workers=[address], on_error="return")
        except Exception as error:  # noqa: BLE001  the worker or the scheduler went away meanwhile
            return error
        return found.get(address)

    async def restart(self, address: str, timeout_s: float) -> None:
        """Have the nanny of a worker restart the worker. Raises ValueError if it has no nanny."""
        await self._client.restart_workers([address], timeout=timeout_s, raise_for_error=False)


async def _require_listener(access: ClusterAccess) -> None:
    """Raise SchedulerAway unless the address accepts connections and, with TLS, its certificate verifies."""
    protocol, _, _ = access.scheduler.rpartition("://")
    if protocol not in ("", "tcp", "tls"):
        return
    host, port = _host_and_port(access.scheduler)
    context = await asyncio.to_thread(_tls_context, access) if access.is_tls else None
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            is_accepted = not context or await _is_greeted(reader)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except TimeoutError:
        raise SchedulerAway(f"{access.scheduler} has not answered for {ANSWER_S:g} s ({_HINT})") from None
    except ssl.SSLError as error:
        problem = "its certificate does not verify" if isinstance(error, ssl.SSLCertVerificationError) else "TLS fails"
        raise SchedulerAway(f"{access.scheduler}: {problem}: {error.reason or _text(error)}") from None
    except socket.gaierror as error:
        raise SchedulerAway(f"{access.scheduler}: the host is not known: {error.strerror} ({_HINT})") from None
    except OSError as error:
        raise SchedulerAway(f"{access.scheduler} does not answer: {_os_text(error)} ({_HINT})") from None
    if not is_accepted:
        raise SchedulerAway(f"{access.scheduler} refuses the certificate in {access.certificate_file}")


async def _is_greeted(reader: asyncio.StreamReader) -> bool:
    """Whether the scheduler speaks first, as it does once the certificate of its client verifies.

    In TLS 1.3 it verifies this certificate after the client's side of the handshake is done.
    """
    try:
        return bool(await reader.read(1))
    except OSError:  # ssl.SSLError is one
        return False


def _host_and_port(scheduler: str) -> tuple[str, int]:
    from distributed.comm.addressing import parse_host_port

    rest = scheduler.partition("://")[2] or scheduler
    host, port = parse_host_port(rest, _DEFAULT_PORT)
    return host, int(port)


def _tls_context(access: ClusterAccess) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=access.ca_file)
    context.check_hostname = False  # as in dask: the certificates come from the cluster's own authority
    assert access.certificate_file is not None
    context.load_cert_chain(access.certificate_file, access.key_file or access.certificate_file, password=b"")
    return context


def _os_text(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else _text(error)  # asyncio's own text repeats the address


def _text(error: BaseException) -> str:
    return shorten(" ".join(str(error).split()) or type(error).__name__, _MAX_TEXT)
