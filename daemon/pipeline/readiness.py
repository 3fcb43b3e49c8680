"""Readiness of a daemon: collect the facts of its parts at one moment, and update systemd's status line."""

import asyncio
from collections.abc import Awaitable, Callable

from daemon.pipeline.assembly import Assembly
from daemon.pipeline.health import Facts, HookFacts, reasons_not_ready
from daemon.system.sd_notify import SystemdNotifier
from daemon.watching.roots import RootHealth
from handlers.errors import StorageFault

STATUS_EVERY_S = 5.0
ANSWER_S = 5.0
"""Time-out of queries of the journal."""


class Readiness:
    """The facts that readiness depends on.

    Parameters
    ----------
    roots : returns the state of each watched directory.
    hooks : returns the state of the delivery to each hook, from the journal.
    alert_problem : returns why the last message to people was not delivered; empty if it was.
    """

    def __init__(
        self,
        work: Assembly,
        *,
        roots: Callable[[], tuple[RootHealth, ...]],
        hooks: Callable[[], Awaitable[tuple[HookFacts, ...]]],
        alert_problem: Callable[[], str],
    ) -> None:
        self._work = work
        self._roots = roots
        self._hooks = hooks
        self._alert_problem = alert_problem
        self._hook_facts: tuple[HookFacts, ...] = ()

    async def facts(self) -> Facts:
        """Return the present facts. If the journal does not respond, the facts of hooks are the last known ones."""
        work = self._work
        journal_fault, oldest_s, hooks = work.journal.fault, None, self._hook_facts
        try:
            async with asyncio.timeout(ANSWER_S):
                oldest_s = await work.journal.oldest_unfinished_s()
                self._hook_facts = hooks = await self._hooks()
        except TimeoutError:
            problem = f"the journal has not answered for {ANSWER_S:g} s"
            journal_fault = journal_fault or StorageFault(
                str(work.journal.path), problem, "check that its disk answers and that no other program has locked it"
            )
        return Facts(
            roots=self._roots(),
            disks=work.disks.facts(),
            render_fault=str(work.gate.fault) if work.gate.fault else None,
            render_needs_person=work.gate.needs_person,
            journal_fault=str(journal_fault) if journal_fault else None,
            oldest_unfinished_s=oldest_s,
            backlog_limit_s=work.settings().http.backlog_limit_s,
            crew=work.workers.crew,
            worker_deaths=work.worker_deaths,
            last_worker_death=work.last_worker_death,
            upload_limit=work.client.upload_limit.learned,
            put_by_others=work.steps.put_by_others,
            hooks=hooks,
            alert_problem=self._alert_problem(),
        )

    async def reasons(self) -> tuple[str, ...]:
        """Return one sentence for each reason why the daemon is not ready; empty if it is ready."""
        return reasons_not_ready(await self.facts())

    async def report(self, systemd: SystemdNotifier) -> None:
        """Update the status line of `systemctl status` regularly, until cancelled."""
        pipeline = self._work.pipeline
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            state = "; ".join(await self.reasons()) or "ready"
            systemd.status(f"{pipeline.under_way} in progress, {pipeline.waiting} waiting; {state}")
