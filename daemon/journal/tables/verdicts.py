"""Verdicts on montages."""

import json
import statistics
from typing import NamedTuple

from daemon.journal.tables.outbox import announce_montage
from daemon.journal.tables.quality import numbers_of
from daemon.journal.tables.rows import BY_ID, Connection, find, insert_event, need
from daemon.montages.records import Montage
from daemon.montages.states import Event
from daemon.montages.verdicts import HOLDING, WAITS_FOR_PERSON, Decision, MontageVerdict, Override, judgement_of
from handlers.quality.rules import Judgement, Verdict

SECTIONS_OF_SCOPE = 20
"""Number of a microscope's last sections whose median focus is its usual focus."""
MIN_SECTIONS = 5
"""Fewest sections that give a usual focus."""

_FOCUS_BEFORE = (
    "SELECT focus FROM verdicts WHERE scope = ? AND acquired < ? AND focus IS NOT NULL AND montage_id <> ?"
    " ORDER BY acquired DESC LIMIT ?"
)
_JUDGE = (
    "INSERT INTO verdicts (montage_id, verdict, findings, judged_at, scope, acquired, focus)"
    " VALUES (:id, :verdict, :findings, :now, :scope, :acquired, :focus) ON CONFLICT (montage_id) DO UPDATE SET"
    " verdict = :verdict, findings = :findings, judged_at = :now, scope = :scope, acquired = :acquired, focus = :focus,"
    " decision = NULL, decided_by = NULL, decided_at = NULL, note = NULL"
)
_DECIDE = (
    "INSERT INTO verdicts (montage_id, decision, decided_by, decided_at, note)"
    " VALUES (:id, :decision, :by, :now, :note)"
    " ON CONFLICT (montage_id) DO UPDATE SET decision = :decision, decided_by = :by, decided_at = :now, note = :note"
)
# If the new verdict holds the montage, the pipeline stores the reason for waiting again.
_SHOW = (
    "UPDATE montages SET verdict = :verdict, waiting_for = iif(waiting_for = :hold, NULL, waiting_for) WHERE id = :id"
)
# Montages before or in the closing step whose verdict holds them if their watch has `hold = true`.
_HOLDING = (
    "SELECT watch, raw_stack, mipmapped_stack FROM montages WHERE state IN ('mipmapped', 'applied')"
    " AND verdict IN (SELECT value FROM json_each(?))"
)
_VERDICT = (
    "SELECT verdict, findings, judged_at, decision, decided_by, decided_at, note FROM verdicts WHERE montage_id = ?"
)


def judge(connection: Connection, montage_id: int, judgement: Judgement, focus: float | None, now: float) -> Montage:
    """Record and announce the verdict of the rules, unless it is recorded already; return the montage.

    A new verdict removes a person's decision, which was about other numbers.
    """
    montage = need(connection, montage_id)
    before = verdict_of(connection, montage_id)
    if before is not None and before.judgement == judgement:
        return montage
    findings = json.dumps([finding.to_json() for finding in judgement.findings])
    values = {
        "id": montage_id,
        "verdict": str(judgement.verdict),
        "findings": findings,
        "now": now,
        "scope": montage.scope,
        "acquired": montage.acquired,
        "focus": focus,
    }
    connection.execute(_JUDGE, values)
    broken = [str(finding.rule) for finding in judgement.findings if finding.verdict is not Verdict.PASS]
    return _record(connection, montage, Event.JUDGED, str(judgement.verdict), {"rules": broken}, now)


def decide(
    connection: Connection, montage_id: int, decision: Decision, by: str, note: str, now: float
) -> Montage | None:
    """Record and announce a person's decision; return the montage, None if there is none."""
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None:
        return None
    stored = None if decision is Decision.COMPUTED else str(decision)
    values = {"id": montage_id, "decision": stored, "by": by, "now": now, "note": note}
    connection.execute(_DECIDE, values)
    verdict = verdict_of(connection, montage_id)
    effective = None if verdict is None else verdict.effective
    return _record(connection, montage, Event.DECIDED, effective, {"decision": decision, "by": by, "note": note}, now)


def _record(
    connection: Connection, montage: Montage, event: Event, verdict: str | None, detail: dict[str, object], now: float
) -> Montage:
    """Record an event that does not change the state, and the effective verdict."""
    detail = {"verdict": verdict, **detail}
    insert_event(connection, montage.id, event, montage.state, now, detail)
    connection.execute(_SHOW, {"id": montage.id, "verdict": verdict, "hold": WAITS_FOR_PERSON})
    after = need(connection, montage.id)
    announce_montage(connection, event, after, detail, now)
    return after


def verdict_of(connection: Connection, montage_id: int) -> MontageVerdict | None:
    """Return the verdict on a montage; None if neither the rules nor a person have given one."""
    row = connection.execute(_VERDICT, (montage_id,)).fetchone()
    if row is None:
        return None
    verdict, findings, judged_at, decision, by, at, note = row
    judgement = judgement_of(verdict, json.loads(findings)) if verdict else None
    return MontageVerdict(judgement, judged_at, Override(Decision(decision), by, at, note) if decision else None)


class QualityEvidence(NamedTuple):
    """What a montage is judged by."""

    numbers: bytes | None
    """Packed quality numbers; None if it has none."""
    usual_focus: float | None
    """Median focus of the microscope's last sections before it; None if they are too few."""
    verdict: MontageVerdict | None
    """The present verdict."""


def evidence(connection: Connection, montage: Montage) -> QualityEvidence:
    """Return what a montage is judged by, and its present verdict."""
    numbers = numbers_of(connection, montage.id)
    return QualityEvidence(numbers, usual_focus(connection, montage), verdict_of(connection, montage.id))


def usual_focus(connection: Connection, montage: Montage) -> float | None:
    """Return the median focus of the microscope's last sections before a montage; None if they are too few."""
    values = (montage.scope, montage.acquired, montage.id, SECTIONS_OF_SCOPE)
    found = [focus for (focus,) in connection.execute(_FOCUS_BEFORE, values)]
    return statistics.median(found) if len(found) >= MIN_SECTIONS else None


def holding(connection: Connection) -> list[tuple[str, tuple[str, ...]]]:
    """Return watch and stacks of each montage whose verdict keeps its stacks open if its watch has `hold = true`."""
    rows = connection.execute(_HOLDING, (json.dumps(sorted(HOLDING)),)).fetchall()
    return [(watch, tuple(dict.fromkeys(each for each in stacks if each))) for watch, *stacks in rows]
