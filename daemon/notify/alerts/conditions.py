"""Derive the present conditions from the daemon's facts and the journal. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from daemon.journal.tables.differences import Differing
from daemon.journal.tables.rule_breaks import Broken
from daemon.notify.alerts.rules import AlertKind, Condition
from daemon.pipeline.health import Facts
from daemon.watching.roots import RootHealth, RootStatus
from handlers.text import counted, z_text

FILLS_S = 6 * 3600.0
"""A disk that fills within this time is reported."""
WORKERS_LOST = 3
"""Number of dead workers within `WORKERS_LOST_S` that is reported."""
IN_A_ROW = 3
"""Number of consecutive sections of a microscope that break a rule, from which on it is an error."""
WORKERS_LOST_S = 600.0
_AWAY = (RootStatus.UNREACHABLE, RootStatus.PAUSED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A montage that is FAILED, or whose images are late."""

    id: int
    watch: str
    z: float | None
    text: str
    """Its fault, or what it waits for."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All facts from which conditions follow, at one moment."""

    facts: Facts
    failed: Sequence[Waiting] = ()
    late: Sequence[Waiting] = ()
    broken: Sequence[Broken] = ()
    """Montages that broke rules of quality control since the last observation."""
    differing: Sequence[Differing] = ()
    """Montages in which a verification found differences."""
    workers_lost: int = 0
    """Workers that died in the last `WORKERS_LOST_S`."""


def conditions(seen: Observed) -> list[Condition]:
    """Return the present conditions."""
    of_montages = [*_of_montages(seen), *map(_of_broken, seen.broken), *map(_of_differing, seen.differing)]
    return [*of_montages, *_of_facts(seen.facts), *_of_workers(seen)]


def accessible(roots: Iterable[RootHealth]) -> frozenset[str]:
    """Return the watches whose directories can be accessed and were scanned, so that all their metafiles are known."""
    scanned = (RootStatus.WATCHING, RootStatus.POLLING)
    return frozenset(root.name for root in roots if root.status in scanned and root.last_scan_at is not None)


def _of_differing(differing: Differing) -> Condition:
    advice = f"; replay it from {differing.start}" if differing.start else ""
    count = counted(differing.differences, "difference")
    text = f"{_name(differing.montage_id, differing.z)}: `temwatch verify` found {count}{advice}"
    return Condition(AlertKind.DIFFERENCES, differing.watch, f"montages/{differing.montage_id}", text)


def _of_broken(broken: Broken) -> Condition:
    rules = ", ".join(broken.rules)
    is_error = broken.in_a_row >= IN_A_ROW
    row = f"; {broken.in_a_row} sections in a row" if is_error else ""
    text = f"{_name(broken.montage_id, broken.z)}: {rules}{row}"
    subject = f"montages/{broken.montage_id}"
    return Condition(AlertKind.QC_BROKEN, broken.watch, subject, text, broken.scope or "", is_error)


def _of_montages(seen: Observed) -> Iterator[Condition]:
    for kind, montages in ((AlertKind.MONTAGE_FAILED, seen.failed), (AlertKind.IMAGES_LATE, seen.late)):
        for each in montages:
            yield Condition(kind, each.watch, f"montages/{each.id}", f"{_name(each.id, each.z)}: {each.text}")


def _name(montage_id: int, z: float | None) -> str:
    return f"montage {montage_id}" + ("" if z is None else f" z {z_text(z)}")


def _of_facts(facts: Facts) -> Iterable[Condition]:
    if facts.render_fault:
        kind = AlertKind.LOGIN_REFUSED if facts.render_needs_person else AlertKind.RENDER_UNREACHABLE
        yield Condition(kind, "", "render-ws", facts.render_fault)
    if facts.journal_fault:
        yield Condition(AlertKind.JOURNAL_UNWRITABLE, "", "journal", facts.journal_fault)
    for root in facts.roots:
        if root.status in _AWAY:
            why = "; ".join(root.reasons) or "no reason is known"
            yield Condition(AlertKind.WATCH_UNREACHABLE, root.name, str(root.directory), f"{root.directory}: {why}")
    for disk in facts.disks:
        if disk.problem:
            yield Condition(AlertKind.DISK_LOW, "", disk.directory, f"{disk.directory} {disk.problem}")
        elif disk.full_in_s is not None and disk.full_in_s < FILLS_S:
            text = f"{disk.directory} is full in less than {FILLS_S / 3600:.0f} h at the present rate"
            yield Condition(AlertKind.DISK_FILLS, "", disk.directory, text)
    if facts.oldest_unfinished_s is not None and facts.oldest_unfinished_s > facts.backlog_limit_s:
        text = f"the oldest montage has waited for more than {facts.backlog_limit_s / 3600:.1f} h"
        yield Condition(AlertKind.BACKLOG, "", "backlog", text)
    for hook in facts.hooks:
        if hook.dead:
            text = f"hook {hook.name} has not accepted events for a day: `temwatch notify list` gives the reason"
            yield Condition(AlertKind.HOOK_GIVEN_UP, "", hook.name, text)


def _of_workers(seen: Observed) -> Iterator[Condition]:
    if seen.workers_lost >= WORKERS_LOST:
        text = f"{WORKERS_LOST} workers or more died within {WORKERS_LOST_S / 60:.0f} min, the last "
        yield Condition(AlertKind.WORKERS_LOST, "", "workers", text + seen.facts.last_worker_death)
