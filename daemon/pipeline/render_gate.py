"""Whether work is sent to render-ws: the circuit, its probes, and what is told of it."""

import asyncio
import random
import time
from collections.abc import Callable, Hashable

import structlog

from daemon.pipeline import circuit_breaker as circuit
from daemon.pipeline.circuit_breaker import Circuit, Phase
from handlers.errors import Fault, RenderBroken, RenderFault, RenderUnavailable
from handlers.render.client import RenderClient
from handlers.render.names import StackId

log = structlog.get_logger()

PROBE_EVERY_S = 15.0
"""While nothing speaks against the service."""
HANGS_S = 20.0
"""Work under way for so long, and none done since: the service is asked whether it can read."""
PROBE_STACK = "temwatch"
"""A stack that need not exist: to say so render-ws has to ask its database."""


class RenderGate:
    """What needs render-ws is begun only if the gate admits it, and tells the gate how it ended.

    Parameters
    ----------
    client : asked for a sign of life.
    probe : the stack that is asked for to see whether render-ws can read.
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
        self._since = clock()
        self._begun: dict[Hashable, float] = {}
        self._worked_at = clock()
        self._reading = asyncio.Lock()

    @property
    def fault(self) -> RenderFault | None:
        """Why render-ws counts as away; None if it does not."""
        return None if self._circuit.seems_well else self._last_fault

    @property
    def is_open(self) -> bool:
        """Whether work that needs render-ws may be begun."""
        return self._circuit.may_pass

    @property
    def is_closed_circuit(self) -> bool:
        """Whether no outage is under way."""
        return self._circuit.phase is Phase.CLOSED

    @property
    def outage(self) -> int:
        """Number of the last outage."""
        return self._circuit.outage

    @property
    def pause_s(self) -> float:
        """Seconds until render-ws is asked whether it is back; 0 if it is not away."""
        return max(0.0, self._circuit.due_at - self._clock()) if self._circuit.phase is Phase.OPEN else 0.0

    def admit(self, work: Hashable) -> bool:
        """Whether this piece of work may be begun now; it then has been, and has to end with one of those below."""
        if not self._circuit.may_pass:
            return False
        self._circuit = circuit.begun(self._circuit, work)
        self._begun[work] = self._clock()
        return True

    def leave(self, work: Hashable) -> None:
        """A piece of work ended; says nothing of the service unless `worked` or `failed` was told before."""
        self._begun.pop(work, None)
        self._turn(circuit.cancelled(self._circuit, work))

    def worked(self) -> None:
        """render-ws has done a piece of real work."""
        self._worked_at = self._clock()
        self._turn(circuit.worked(self._circuit))

    async def failed(self, work: Hashable, fault: Fault) -> None:
        """A piece of work failed. Any answer but that of a service that is away or broken shows one that works.

        Of one that is broken the work itself may be the cause: the service is asked whether it can read.
        """
        if not isinstance(fault, RenderFault):
            return
        if not isinstance(fault, RenderUnavailable | RenderBroken):
            self.worked()
            return
        is_away = isinstance(fault, RenderUnavailable) or not await self._can_read()
        self._last_fault = fault
        chance = random.random()  # noqa: S311  jitter
        self._turn(circuit.failed(self._circuit, work, self._clock(), chance, is_away=is_away))

    async def _can_read(self) -> bool:
        """Whether render-ws can read from its database. In an outage it is not asked: its probe does that."""
        async with self._reading:
            if self._circuit.phase is Phase.OPEN:
                return False
            try:
                await self._client.ask_database(self._stack)
            except (RenderUnavailable, RenderBroken):
                return False
            except RenderFault:
                pass  # an answer in words of render-ws
            return True

    @property
    def _is_in_doubt(self) -> bool:
        """Whether a sign of life alone says too little: in an outage, or where work takes long and none succeeds."""
        last = max(self._worked_at, min(self._begun.values(), default=self._clock()))
        return self._circuit.phase is not Phase.CLOSED or self._clock() - last > HANGS_S

    async def run(self) -> None:
        """Probes for as long as the daemon runs."""
        await self._probe()
        while True:
            self._changed.clear()
            pause_s = PROBE_EVERY_S
            if self._circuit.phase is Phase.OPEN:
                pause_s = max(0.0, self._circuit.due_at - self._clock())
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                await self._probe()

    async def _probe(self) -> None:
        try:
            await self._client.ping()
            if self._is_in_doubt:
                await self._client.ask_database(self._stack)
        except RenderFault as fault:
            self._silent(fault)
        except Exception as error:  # it would end the daemon
            log.exception("render.probe_bug")
            self._silent(RenderBroken(self._client.base_url, f"{type(error).__name__}: {error}"))
        else:
            self._turn(circuit.answered(self._circuit, self._clock()))

    def _silent(self, fault: RenderFault) -> None:
        self._last_fault = fault
        self._turn(circuit.silent(self._circuit, self._clock(), random.random()))  # noqa: S311  jitter

    def _turn(self, following: Circuit) -> None:
        """Takes over what follows, says so where it matters, and wakes whoever waits."""
        before, self._circuit = self._circuit, following
        if before.phase is Phase.CLOSED and following.phase is Phase.OPEN:
            self._since = self._clock()
            log.warning("render.unavailable", fault=str(self._last_fault))
        elif before.phase is not Phase.CLOSED and following.phase is Phase.CLOSED:
            log.info("render.available", seconds_away=round(self._clock() - self._since, 1))
        if before.phase is not following.phase:
            self._changed.set()
        if following.may_pass and not (before.may_pass and before.phase is following.phase):
            self._on_open()
