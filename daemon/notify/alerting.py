"""Alerts: which conditions people are told of, when, and how often. Pure: the time is an argument."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

SHOWN = 5
"""Subjects of one message that are listed; the others are counted."""


class AlertKind(StrEnum):
    """What people are told of."""

    MONTAGE_FAILED = "montage failed"
    IMAGES_LATE = "images late"
    BACKLOG = "backlog"
    RENDER_AWAY = "render-ws away"
    LOGIN_REFUSED = "login refused"
    WATCH_UNREACHABLE = "watch unreachable"
    DISK_LOW = "disk low"
    DISK_FILLS = "disk fills"
    JOURNAL_UNWRITABLE = "journal not writable"
    WORKERS_LOST = "workers lost"
    HOOK_GIVEN_UP = "hook given up"


HOLD_S: Mapping[AlertKind, float] = {
    AlertKind.MONTAGE_FAILED: 60.0,
    AlertKind.RENDER_AWAY: 300.0,
    AlertKind.WATCH_UNREACHABLE: 120.0,
}
"""Time that a condition lasts before people are told. Others that begin meanwhile are in the same message."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now."""

    kind: AlertKind
    watch: str
    """Empty if it concerns no single watch."""
    subject: str
    text: str
    """One sentence."""

    @property
    def key(self) -> "Key":
        """What makes two conditions the same."""
        return self.kind, self.watch, self.subject


Key = tuple[AlertKind, str, str]


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition, and what people were told of it. Times are seconds since 1970 UTC."""

    condition: Condition
    since: float
    sent_at: float | None = None
    ended_at: float | None = None
    """Set from its end until people were told that it is over."""


Alerts = Mapping[Key, Alert]


@dataclass(frozen=True, slots=True)
class Message:
    """A message to people about conditions of one kind and watch."""

    kind: AlertKind
    watch: str
    is_over: bool
    keys: tuple[Key, ...]
    texts: tuple[str, ...]

    @property
    def title(self) -> str:
        """The subject line."""
        where = f" ({self.watch})" if self.watch else ""
        count = f": {len(self.keys)}" if len(self.keys) > 1 else ""
        return f"{'over: ' if self.is_over else ''}{self.kind}{where}{count}"

    @property
    def body(self) -> str:
        """One line for each of the first conditions."""
        rest = len(self.texts) - SHOWN
        return "\n".join([*self.texts[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])])


def observe(alerts: Alerts, conditions: Iterable[Condition], now: float) -> dict[Key, Alert]:
    """Return the alerts after a look at the present conditions.

    A condition that ends before people were told of it is forgotten.
    """
    present = {condition.key: condition for condition in conditions}
    after: dict[Key, Alert] = {}
    for key, alert in alerts.items():
        if key in present:
            after[key] = replace(alert, condition=present[key], ended_at=None)
        elif alert.sent_at is not None:
            after[key] = replace(alert, ended_at=now if alert.ended_at is None else alert.ended_at)
    for key, condition in present.items():
        after.setdefault(key, Alert(condition, now))
    return after


def due(alerts: Alerts, now: float, repeat_s: float) -> list[Message]:
    """Return the messages that are due, in order of kind and watch."""
    groups: dict[tuple[AlertKind, str], list[Alert]] = {}
    for key in sorted(alerts):
        groups.setdefault(key[:2], []).append(alerts[key])
    return [message for (kind, watch), group in groups.items() for message in _due(kind, watch, group, now, repeat_s)]


def _due(kind: AlertKind, watch: str, group: list[Alert], now: float, repeat_s: float) -> Iterable[Message]:
    ongoing = [alert for alert in group if alert.ended_at is None]
    ended = [alert for alert in group if alert.ended_at is not None]
    told = [alert for alert in ongoing if alert.sent_at is not None]
    if ended and not told:
        yield _message(kind, watch, ended, is_over=True)
    new = [alert for alert in ongoing if alert.sent_at is None]
    is_new = bool(new) and now - min(alert.since for alert in new) >= HOLD_S.get(kind, 0.0)
    is_again = bool(told) and now - max(alert.sent_at or 0.0 for alert in told) >= repeat_s
    if is_again:
        yield _message(kind, watch, ongoing)
    elif is_new:
        yield _message(kind, watch, new)


def _message(kind: AlertKind, watch: str, alerts: list[Alert], *, is_over: bool = False) -> Message:
    keys = tuple(alert.condition.key for alert in alerts)
    return Message(kind, watch, is_over, keys, tuple(alert.condition.text for alert in alerts))


def delivered(alerts: Alerts, message: Message, now: float) -> dict[Key, Alert]:
    """Return the alerts after a message was delivered."""
    after = dict(alerts)
    for key in message.keys:
        if message.is_over:
            after.pop(key, None)
        elif key in after:
            after[key] = replace(after[key], sent_at=now)
    # Conditions that ended while others of the group went on need no message of their own.
    group = (message.kind, message.watch)
    if message.is_over:
        after = {key: alert for key, alert in after.items() if key[:2] != group or alert.ended_at is None}
    return after
