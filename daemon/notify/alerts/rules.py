"""Decide which conditions are reported to people, when, and how often. Pure: the time is an argument."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

SHOWN = 5
"""Number of conditions that one message lists; the others are counted."""


class AlertKind(StrEnum):
    """Kind of an alert."""

    MONTAGE_FAILED = "montage failed"
    IMAGES_LATE = "images late"
    BACKLOG = "backlog"
    RENDER_UNREACHABLE = "render-ws unreachable"
    LOGIN_REFUSED = "login refused"
    WATCH_UNREACHABLE = "watch unreachable"
    DISK_LOW = "disk low"
    DISK_FILLS = "disk fills"
    JOURNAL_UNWRITABLE = "journal not writable"
    WORKERS_LOST = "workers lost"
    HOOK_GIVEN_UP = "hook given up"
    QC_BROKEN = "QC rule broken"
    SCOPE_QUIET = "scope quiet"
    DIFFERENCES = "verify differences"
    EXPIRES = "certificate or token expires"
    DIGEST = "daily digest"


class Severity(StrEnum):
    """Severity of a message. The values are apprise's notification types."""

    INFO = "info"
    OVER = "success"
    WARNING = "warning"
    ERROR = "failure"


HOLD_S: Mapping[AlertKind, float] = {
    AlertKind.MONTAGE_FAILED: 60.0,
    AlertKind.RENDER_UNREACHABLE: 300.0,
    AlertKind.WATCH_UNREACHABLE: 120.0,
}
"""Time that a condition must last before it is reported. Conditions that begin meanwhile are in the same message."""
REPEAT_S: Mapping[AlertKind, float] = {AlertKind.EXPIRES: 86_400.0}
"""Shortest time between two messages about a lasting condition, if it is longer than `repeat_s`."""
OCCURRENCES: Mapping[AlertKind, float] = {AlertKind.QC_BROKEN: 600.0}
"""Kinds that are events, each reported once: shortest time from one message of a group to the next, seconds."""
ENDED_KEPT_S = 7 * 86_400.0
"""Ends are reported when the whole group has ended. An end that waits longer than this is not reported."""
ERRORS = frozenset({AlertKind.LOGIN_REFUSED, AlertKind.DISK_LOW, AlertKind.JOURNAL_UNWRITABLE})
"""Kinds that stop all work until an operator acts."""


Key = tuple[AlertKind, str, str]
"""Kind, watch, subject."""
Group = tuple[AlertKind, str, str]
"""Kind, watch, scope of the conditions that share a message."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A problem that exists now."""

    kind: AlertKind
    watch: str
    """Empty if it does not concern a single watch."""
    subject: str
    """Montage, directory, hook or microscope concerned."""
    text: str
    """One sentence."""
    scope: str = ""
    """The microscope, for kinds that are reported by microscope."""
    is_error: bool = False

    @property
    def key(self) -> Key:
        """Identity of the condition."""
        return self.kind, self.watch, self.subject

    @property
    def group(self) -> Group:
        """Group of the condition. Conditions of one group share a message."""
        return self.kind, self.watch, self.scope


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition, and when it was reported. Times are seconds since 1970 UTC."""

    condition: Condition
    since: float
    sent_at: float | None = None
    """When the last message about it was written."""
    ended_at: float | None = None
    """When it ended, until its end is reported; otherwise None."""


Alerts = Mapping[Key, Alert]


@dataclass(frozen=True, slots=True)
class Draft:
    """Message about conditions of one group, before it has an id and a footer."""

    group: Group
    severity: Severity
    keys: tuple[Key, ...]
    texts: tuple[str, ...]

    @property
    def title(self) -> str:
        """The subject line."""
        kind, *places = self.group
        where = ", ".join(filter(None, places))
        count = f": {len(self.keys)}" if len(self.keys) > 1 else ""
        return f"{'over: ' if self.is_over else ''}{kind}{f' ({where})' if where else ''}{count}"

    @property
    def is_over(self) -> bool:
        """Whether it reports that the conditions have ended."""
        return self.severity is Severity.OVER

    @property
    def body(self) -> str:
        """One line for each of the first conditions, and the number of the others."""
        rest = len(self.texts) - SHOWN
        return "\n".join([*self.texts[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])])


def observe(
    alerts: Alerts, conditions: Iterable[Condition], now: float, unknown: Collection[tuple[AlertKind, str]] = ()
) -> dict[Key, Alert]:
    """Return the alerts after an observation of the present conditions.

    A condition that ends before it is reported is dropped.

    Parameters
    ----------
    now : seconds since 1970 UTC.
    unknown : kinds and watches that could not be checked. Their alerts do not change.
    """
    present = {condition.key: condition for condition in conditions}
    after: dict[Key, Alert] = {}
    for key, alert in alerts.items():
        if key in present:
            after[key] = replace(alert, condition=present[key], ended_at=None)
        elif key[:2] in unknown:
            after[key] = alert
        elif key[0] in OCCURRENCES:
            if alert.sent_at is None or now - alert.sent_at < OCCURRENCES[key[0]]:
                after[key] = alert
        elif alert.sent_at is not None:
            ended_at = now if alert.ended_at is None else alert.ended_at
            if now - ended_at < ENDED_KEPT_S:
                after[key] = replace(alert, ended_at=ended_at)
    for key, condition in present.items():
        after.setdefault(key, Alert(condition, now))
    return after


def due(alerts: Alerts, now: float, repeat_s: float, waiting: Collection[Group] = ()) -> list[Draft]:
    """Return the messages that are due, in order of their groups.

    Parameters
    ----------
    now : seconds since 1970 UTC.
    repeat_s : time between two messages about a lasting condition.
    waiting : groups with undelivered messages. Their messages are not repeated meanwhile.
    """
    groups: dict[Group, list[Alert]] = {}
    for key in sorted(alerts, key=lambda key: (alerts[key].since, key)):
        groups.setdefault(alerts[key].condition.group, []).append(alerts[key])
    return [
        draft
        for group in sorted(groups)
        for draft in _due(group, groups[group], now, None if group in waiting else repeat_s)
    ]


def _due(group: Group, alerts: list[Alert], now: float, repeat_s: float | None) -> Iterable[Draft]:
    ongoing = [alert for alert in alerts if alert.ended_at is None]
    ended = [alert for alert in alerts if alert.ended_at is not None]
    reported = [alert for alert in ongoing if alert.sent_at is not None]
    if ended and not reported:
        yield _draft(group, ended, Severity.OVER)
    new = [alert for alert in ongoing if alert.sent_at is None]
    is_new = bool(new) and now - min(alert.since for alert in new) >= HOLD_S.get(group[0], 0.0)
    last = max((alert.sent_at or 0.0 for alert in reported), default=now)
    if group[0] in OCCURRENCES:
        is_new, repeat_s = bool(new) and not reported, None
    if repeat_s is not None:
        repeat_s = max(repeat_s, REPEAT_S.get(group[0], 0.0))
    if repeat_s is not None and reported and now - last >= repeat_s:
        yield _draft(group, ongoing, _severity(ongoing))
    elif is_new:
        yield _draft(group, new, _severity(new))


def _severity(alerts: Iterable[Alert]) -> Severity:
    is_error = any(alert.condition.is_error or alert.condition.kind in ERRORS for alert in alerts)
    return Severity.ERROR if is_error else Severity.WARNING


def _draft(group: Group, alerts: list[Alert], severity: Severity) -> Draft:
    keys = tuple(alert.condition.key for alert in alerts)
    return Draft(group, severity, keys, tuple(alert.condition.text for alert in alerts))


def mark_reported(alerts: Alerts, draft: Draft, now: float) -> dict[Key, Alert]:
    """Return the alerts after their conditions were reported by a message; alerts whose end it reports are removed."""
    after = dict(alerts)
    for key in draft.keys:
        if draft.is_over:
            after.pop(key, None)
        elif key in after:
            after[key] = replace(after[key], sent_at=now)
    return after
