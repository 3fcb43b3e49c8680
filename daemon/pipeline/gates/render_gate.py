"""Render gate: admit work to render-ws according to the circuit breaker, and probe render-ws."""

import asyncio
import random
import time
from collections.abc import Callable, Hashable

import structlog

from daemon.pipeline.gates import circuit_breaker as breaker
from daemon.pipeline.gates.circuit_breaker import Circuit, Phase
from handlers.errors import (
    AccessRefused,
    Fault,
    LoginRefused,
    RenderBroken,
    RenderFault,
    RenderUnavailable,
    RequestForbidden,
    StackNotCreated,
)
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.write_probe import fails_to_write

log = structlog.get_logger()

PROBE_EVERY_S = 15.0
"""Pause between probes while render-ws is available."""
LOGIN_CHECK_S = 5.0
"""Interval of checks of the login's files while it is refused or a certificate is not trusted."""
HANGS_S = 20.0
"""If work has run for this time and none has succeeded since, the probe also queries the database."""
PROBE_STACK = "temwatch"
"""Stack of the probe. It need not exist: render-ws queries its database to report that it is missing."""


class RenderGate:
    """Admits work that needs render-ws. Admitted work calls `worked` or `failed`, then `leave`.

    Parameters
    ----------
    client : sends the probes.
    probe : stack that is queried to check that render-ws can read.
    on_open : called when work may be sent again.
    """

    def __init__(
        self,
        client: RenderClient,
        probe: StackId,
        on_open: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._stack = probe
        self._on_open = on_open
        self._clock = clock
        self._circuit = Circuit()
        self._changed = asyncio.Event()
        self._last_fault: RenderFault | None = None
        self._forbidden: RequestForbidden | None = None
        """Set while a proxy forbids work although render-ws can be read."""
        self._since = clock()
        self._begun: dict[Hashable, float] = {}
        self._worked_at = clock()
        self._asking = asyncio.Lock()
        self.probed = asyncio.Event()
        """Set after the first probe."""

    @property
    def fault(self) -> RenderFault | None:
        """Why render-ws is unavailable; None if it is available."""
        return self._forbidden if self._circuit.is_available else self._last_fault

    @property
    def needs_person(self) -> bool:
        """Whether only an operator can repair the fault: the login is refused, or a certificate is not trusted."""
        return isinstance(self.fault, AccessRefused)

    @property
    def is_open(self) -> bool:
        """Whether work that needs render-ws may begin."""
        return self._circuit.may_send

    @property
    def is_closed_circuit(self) -> bool:
        """Whether there is no outage now."""
        return self._circuit.phase is Phase.CLOSED

    @property
    def outage(self) -> int:
        """Number of the last outage."""
        return self._circuit.outage

    @property
    def pause_s(self) -> float:
        """Seconds until the next probe of an outage; 0 if there is none."""
        return max(0.0, self._circuit.due_at - self._clock()) if self._circuit.phase is Phase.OPEN else 0.0

    def admit(self, work: Hashable) -> bool:
        """Return whether a piece of work may begin now. If so, it counts as begun and must end with `leave`."""
        if not self._circuit.may_send:
            return False
        self._circuit = breaker.after_begin(self._circuit, work)
        self._begun[work] = self._clock()
        return True

    def leave(self, work: Hashable) -> None:
        """End a piece of work. Without `worked` or `failed` before, it is no evidence about render-ws."""
        self._begun.pop(work, None)
        self._adopt(breaker.after_cancel(self._circuit, work))

    def worked(self) -> None:
        """Report that a piece of work succeeded."""
        self._worked_at = self._clock()
        self._forbidden = None
        self._adopt(breaker.after_success(self._circuit))

    async def failed(self, work: Hashable, fault: Fault, written: StackId | None = None) -> None:
        """Report that a piece of work failed.

        Every response of a working render-ws, even a refusal, counts as a success, unless it has failed a trial in this
        outage. If render-ws is broken or a proxy forbids the work, the work itself may be the cause. Then the gate
        checks whether render-ws can read and write.

        Parameters
        ----------
        written : the stack to which the work writes, if any.
        """
        if not isinstance(fault, RenderFault):
            return
        if not isinstance(fault, RenderUnavailable | RenderBroken):
            if not self._circuit.failed_trial:
                self.worked()
            return
        may_be_at_fault = isinstance(fault, RenderBroken | RequestForbidden) and await self._can_read()
        fails_writes = may_be_at_fault and isinstance(fault, RenderBroken) and await self._fails_to_write(written)
        is_unavailable = not may_be_at_fault or fails_writes
        can_read = fails_writes or isinstance(fault, StackNotCreated)
        self._last_fault = fault
        if isinstance(fault, RequestForbidden) and not is_unavailable:
            self._forbidden = fault
        chance, is_refused = random.random(), isinstance(fault, LoginRefused)  # noqa: S311  jitter
        now = self._clock()
        self._adopt(
            breaker.after_failure(
                self._circuit,
                work,
                now,
                chance,
                is_unavailable=is_unavailable,
                can_read=can_read,
                is_refused=is_refused,
            )
        )

    async def _can_read(self) -> bool:
        """Return whether render-ws can read from its database. In an outage there is no request; the probe makes it."""
        async with self._asking:
            if self._circuit.phase is Phase.OPEN:
                return False
            try:
                await self._client.ask_database(self._stack)
            except (RenderUnavailable, RenderBroken):
                return False
            except RenderFault:
                pass  # render-ws itself responded
            return True

    async def _fails_to_write(self, stack: StackId | None) -> bool:
        """Return whether render-ws fails a write that changes nothing. In an outage there is no request."""
        async with self._asking:
            return (
                stack is not None
                and self._circuit.phase is not Phase.OPEN
                and await fails_to_write(self._client, stack)
            )

    @property
    def _is_in_doubt(self) -> bool:
        """Whether a ping is insufficient: in an outage, or if work takes long and none succeeds."""
        last = max(self._worked_at, min(self._begun.values(), default=self._clock()))
        return self._circuit.phase is not Phase.CLOSED or self._clock() - last > HANGS_S

    async def run(self) -> None:
        """Probe render-ws, until cancelled."""
        await self._probe()
        self.probed.set()
        while True:
            self._changed.clear()
            pause_s = PROBE_EVERY_S
            if self._circuit.phase is Phase.OPEN:
                pause_s = max(0.0, self._circuit.due_at - self._clock())
                pause_s = min(pause_s, LOGIN_CHECK_S) if self.needs_person else pause_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                if await self._is_probe_due():
                    await self._probe()

    async def _is_probe_due(self) -> bool:
        """Whether a probe is due. After a refused login, one is also due when a file of the login has changed."""
        if self._circuit.phase is Phase.OPEN and self.needs_person and await self._client.has_new_login():
            self.probe_soon()
        return self._circuit.phase is not Phase.OPEN or self._clock() >= self._circuit.due_at

    def probe_soon(self) -> None:
        """In an outage, make the next probe due at once, since an operator may have ended the outage."""
        self._circuit = breaker.make_probe_due(self._circuit, self._clock())
        self._changed.set()

    async def _probe(self) -> None:
        try:
            await self._client.ping()
            if self._is_in_doubt:
                await self._client.ask_database(self._stack)
        except RenderFault as fault:
            self._probe_failed(fault)
        except Exception as error:  # it would end the daemon
            log.exception("render.probe_bug")
            self._probe_failed(RenderBroken(self._client.base_url, f"{type(error).__name__}: {error}"))
        else:
            self._adopt(breaker.after_good_probe(self._circuit, self._clock()))

    def _probe_failed(self, fault: RenderFault) -> None:
        self._last_fault = fault
        chance = random.random()  # noqa: S311  jitter
        is_refused = isinstance(fault, LoginRefused)
        self._adopt(breaker.after_failed_probe(self._circuit, self._clock(), chance, is_refused=is_refused))

    def _adopt(self, following: Circuit) -> None:
        """Set the next state of the circuit, log the begin and end of an outage, and wake waiting work."""
        before, self._circuit = self._circuit, following
        if before.phase is Phase.CLOSED and following.phase is Phase.OPEN:
            self._since = self._clock()
            log.warning("render.unavailable", fault=str(self._last_fault))
        elif before.phase is not Phase.CLOSED and following.phase is Phase.CLOSED:
            log.info("render.available", outage_s=round(self._clock() - self._since, 1))
        if before.phase is not following.phase:
            self._changed.set()
        if following.may_send and not (before.may_send and before.phase is following.phase):
            self._on_open()
