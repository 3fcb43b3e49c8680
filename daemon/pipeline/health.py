"""Health: the facts of the daemon's parts, and by them the reasons why it is not ready, and warnings. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from daemon.montages.waits import Waits
from daemon.watching.roots import RootHealth, RootStatus
from handlers.workers.crew import NOBODY, Crew

HOOK_LATE_S = 300.0
"""Age of the oldest waiting event from which on a hook is a warning."""
INACCESSIBLE = frozenset({RootStatus.OPENING, RootStatus.UNREACHABLE, RootStatus.PAUSED})
"""States of a root in which its directory cannot be accessed."""


@dataclass(frozen=True, slots=True)
class Disk:
    """State of one mipmap directory and its disk."""

    directory: str
    free_bytes: int | None
    """None if the directory cannot be accessed, or is in an object store."""
    needed_bytes: int
    problem: str = ""
    """Why mipmaps cannot be written there now; empty if they can."""
    full_in_s: float | None = None
    """Seconds until only `needed_bytes` are free at the rate of the last hours; None if it does not fill or is
    unknown."""
    watches: tuple[str, ...] = ()
    """Watches that write there."""


@dataclass(frozen=True, slots=True)
class HookFacts:
    """State of the delivery of events to one hook."""

    name: str
    waiting: int
    dead: int
    """Number of events that were given up."""
    oldest_s: float | None
    """Age of the oldest waiting event, seconds; None if none waits."""
    problem: str
    """Why it was not delivered; empty before the first attempt."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that determine readiness, at one moment."""

    roots: tuple[RootHealth, ...]
    disks: tuple[Disk, ...]
    render_fault: str | None
    journal_fault: str | None
    oldest_unfinished_s: float | None
    backlog_limit_s: float
    crew: Crew = NOBODY
    """The workers."""
    worker_deaths: int = 0
    """Number of worker processes that died since the start."""
    last_worker_death: str = ""
    """Time, signal and tile of the last death."""
    render_needs_person: bool = False
    """Whether only an operator can repair render-ws's fault: the login is refused, or a certificate is not trusted."""
    upload_limit: str = ""
    """Largest upload that a proxy accepts, as text; empty if it has refused none."""
    put_by_others: int = 0
    """Number of montages whose tiles were in their stack before this daemon put them."""
    hooks: tuple[HookFacts, ...] = ()
    alert_problem: str = ""
    """Why the last message to people was not delivered; empty if it was."""


def reasons_not_ready(facts: Facts) -> tuple[str, ...]:
    """Return one sentence for each reason why the daemon is not ready; empty if it is ready."""
    return tuple(_reasons(facts))


def _reasons(facts: Facts) -> Iterable[str]:
    if facts.render_fault and facts.render_needs_person:
        again = "temwatch tries again within minutes, and at once after `temwatch reload`"
        yield f"render-ws cannot be used until an operator acts: {facts.render_fault}; {again}"
    elif facts.render_fault:
        yield f"render-ws is unavailable: {facts.render_fault}"
    if facts.journal_fault:
        yield f"the journal cannot be written: {facts.journal_fault}"
    for root in facts.roots:
        if root.status in INACCESSIBLE:
            why = "; ".join(root.reasons) or "not checked yet"
            yield f"watch {root.name}: {root.directory} is {root.status}: {why}"
    for disk in facts.disks:
        if disk.problem:
            yield f"{disk.directory} {disk.problem}"
    yield from facts.crew.reasons()
    if facts.oldest_unfinished_s is not None and facts.oldest_unfinished_s > facts.backlog_limit_s:
        yield f"the oldest montage has waited {facts.oldest_unfinished_s / 3600:.1f} h"


def waits_of(facts: Facts) -> Waits:
    """Return the directories and stores that montages wait for at present."""
    directories = {
        root.name: f"the directory of watch {root.name} cannot be accessed: "
        + ("; ".join(root.reasons) or "it was not checked yet")
        for root in facts.roots
        if root.status in INACCESSIBLE
    }
    outputs = {
        name: f"{disk.directory} {disk.problem}" for disk in facts.disks if disk.problem for name in disk.watches
    }
    return Waits(directories, outputs)


def warnings(facts: Facts) -> tuple[str, ...]:
    """Return one sentence for each problem that does not stop the work, such as unreliable events or other writers."""
    return tuple(_warnings(facts))


def _warnings(facts: Facts) -> Iterable[str]:
    for root in facts.roots:
        if root.status not in INACCESSIBLE:
            yield from (f"watch {root.name}: {reason}" for reason in root.reasons)
    yield from facts.crew.warnings()
    if facts.worker_deaths:
        number = "a worker process" if facts.worker_deaths == 1 else f"{facts.worker_deaths} worker processes"
        yield (
            f"{number} died since the start, the last {facts.last_worker_death}: "
            "check the kernel's log for lack of memory"
        )
    if facts.upload_limit:
        yield (
            f"a proxy in front of render-ws refused an upload, so tiles are uploaded in parts of {facts.upload_limit}: "
            "raise its limits, client_max_body_size and proxy_read_timeout of nginx"
        )
    if facts.put_by_others:
        yield (
            f"another program wrote the tiles of a montage before this daemon did (montages: {facts.put_by_others}), "
            "perhaps a second temwatch on another host that watches the same directory"
        )
    if facts.alert_problem:
        yield f"alerts: {facts.alert_problem}"
    for hook in facts.hooks:
        if hook.dead:
            yield f"hook {hook.name}: events that were given up: {hook.dead}: see `temwatch notify list`"
        if hook.problem and hook.oldest_s is not None and hook.oldest_s > HOOK_LATE_S:
            late = f"has not accepted an event for {hook.oldest_s / 60:.0f} min"
            yield f"hook {hook.name}: {late} (events waiting: {hook.waiting}): {hook.problem}"
