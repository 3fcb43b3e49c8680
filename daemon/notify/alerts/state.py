"""State of the alerts: conditions, messages, and the changes that the journal must store. Pure."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from daemon.journal.tables.alerts import AlertRow, Change, Kept, MessageRow
from daemon.notify.alerts.messages import Message, Messages, group_of, waiting_groups
from daemon.notify.alerts.rules import (
    OCCURRENCES,
    Alert,
    AlertKind,
    Alerts,
    Condition,
    Draft,
    Severity,
    due,
    mark_reported,
    observe,
)


@dataclass(frozen=True, slots=True)
class AlertState:
    """Alerts, undelivered messages and notes."""

    alerts: Alerts = field(default_factory=dict)
    messages: Messages = ()
    """Undelivered messages, oldest first."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """Further values that are kept over a restart, by name."""

    @classmethod
    def of(cls, kept: Kept) -> Self:
        """Return the state of the journal's rows."""
        alerts = [_alert(row) for row in kept.alerts]
        return cls({alert.condition.key: alert for alert in alerts}, tuple(map(_message, kept.messages)), kept.notes)

    def with_message(self, message: Message) -> "AlertState":
        """Return the state with one more message."""
        return replace(self, messages=(*self.messages, message))

    def with_notes(self, notes: Mapping[str, float]) -> "AlertState":
        """Return the state with added or replaced notes."""
        return replace(self, notes={**self.notes, **notes})

    def update(
        self,
        conditions: Iterable[Condition],
        now: float,
        repeat_s: float,
        write: Callable[[Draft], Message],
        is_silent: Callable[[Condition], bool] = lambda _: False,
        unknown: Collection[tuple[AlertKind, str]] = (),
    ) -> "AlertState":
        """Return the state after an observation of the present conditions.

        Parameters
        ----------
        now : seconds since 1970 UTC.
        write : makes the message of a draft.
        is_silent : whether a condition is silenced now; then its end is not reported, either.
        unknown : as for `observe`.
        """
        alerts, messages = observe(self.alerts, conditions, now, unknown), self.messages
        silent = {key: alert for key, alert in alerts.items() if is_silent(alert.condition)}
        alerts = {key: alert for key, alert in alerts.items() if key not in silent}
        for draft in due(alerts, now, repeat_s, waiting_groups(messages)):
            messages = (*messages, write(draft))
            alerts = mark_reported(alerts, draft, now)
        ongoing = {k: each for k, each in silent.items() if each.ended_at is None and k[0] not in OCCURRENCES}
        alerts |= ongoing
        return replace(self, alerts=alerts, messages=messages)

    def change_from(self, before: "AlertState") -> Change:
        """Return the changes since a former state."""
        alerts = [_alert_row(alert) for key, alert in self.alerts.items() if before.alerts.get(key) != alert]
        gone = [(str(kind), watch, subject) for kind, watch, subject in before.alerts.keys() - self.alerts.keys()]
        known = {message.id: message for message in before.messages}
        messages = [_message_row(message) for message in self.messages if known.get(message.id) != message]
        messages_gone = [*(known.keys() - {message.id for message in self.messages})]
        notes = [(name, value) for name, value in self.notes.items() if before.notes.get(name) != value]
        return Change(alerts, gone, messages, messages_gone, notes)


def _alert(row: AlertRow) -> Alert:
    condition = Condition(AlertKind(row.kind), row.watch, row.subject, row.text, row.scope, bool(row.is_error))
    return Alert(condition, row.since, row.sent_at, row.ended_at)


def _alert_row(alert: Alert) -> AlertRow:
    condition = alert.condition
    return AlertRow(
        str(condition.kind), condition.watch, condition.subject, condition.text,
        alert.since, alert.sent_at, alert.ended_at, condition.scope, int(condition.is_error),
    )  # fmt: skip


def _message(row: MessageRow) -> Message:
    group = group_of(row.kind, row.watch, row.scope)
    taken = frozenset(json.loads(row.taken))
    return Message(row.id, row.made_at, group, Severity(row.severity), row.title, row.body, taken)


def _message_row(message: Message) -> MessageRow:
    kind, watch, scope = message.group
    taken = json.dumps(sorted(message.taken))
    return MessageRow(
        message.id, message.made_at, str(kind), watch, scope, str(message.severity), message.title, message.body, taken
    )
