"""State of the alerts: what people were told and will be told, and what of it the journal has to store. Pure."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from daemon.journal.alerts import AlertRow, Change, Kept, LetterRow
from daemon.notify.alerting import (
    OCCURRENCES,
    Alert,
    AlertKind,
    Alerts,
    Condition,
    Message,
    Severity,
    due,
    observe,
    written,
)
from daemon.notify.letters import Letter, Letters, group_of, waiting_groups


@dataclass(frozen=True, slots=True)
class AlertState:
    """What people were told, and what they will be told."""

    alerts: Alerts = field(default_factory=dict)
    letters: Letters = ()
    """In the order in which they were written."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """What else is remembered, by name."""

    @classmethod
    def of(cls, kept: Kept) -> Self:
        """Return what the journal keeps."""
        alerts = [_alert(row) for row in kept.alerts]
        return cls({alert.condition.key: alert for alert in alerts}, tuple(map(_letter, kept.letters)), kept.notes)

    def with_letter(self, letter: Letter) -> "AlertState":
        """Return the state with one more letter."""
        return replace(self, letters=(*self.letters, letter))

    def noting(self, notes: Mapping[str, float]) -> "AlertState":
        """Return the state with notes in place of those of the same name."""
        return replace(self, notes={**self.notes, **notes})

    def look(
        self,
        conditions: Iterable[Condition],
        now: float,
        repeat_s: float,
        write: Callable[[Message], Letter],
        is_silent: Callable[[Condition], bool] = lambda _: False,
        unknown: Collection[tuple[AlertKind, str]] = (),
    ) -> "AlertState":
        """Return the state after a look at the present conditions.

        Parameters
        ----------
        write : makes the letter of a message.
        is_silent : whether people do not want to be told of a condition now. Its end is not told then, either.
        unknown : as for `observe`.
        """
        alerts, letters = observe(self.alerts, conditions, now, unknown), self.letters
        silent = {key: alert for key, alert in alerts.items() if is_silent(alert.condition)}
        alerts = {key: alert for key, alert in alerts.items() if key not in silent}
        for message in due(alerts, now, repeat_s, waiting_groups(letters)):
            letters = (*letters, write(message))
            alerts = written(alerts, message, now)
        lasting = {k: each for k, each in silent.items() if each.ended_at is None and k[0] not in OCCURRENCES}
        alerts |= lasting
        return replace(self, alerts=alerts, letters=letters)

    def change_from(self, before: "AlertState") -> Change:
        """Return what differs from a former state."""
        alerts = [_alert_row(alert) for key, alert in self.alerts.items() if before.alerts.get(key) != alert]
        gone = [(str(kind), watch, subject) for kind, watch, subject in before.alerts.keys() - self.alerts.keys()]
        known = {letter.id: letter for letter in before.letters}
        letters = [_letter_row(letter) for letter in self.letters if known.get(letter.id) != letter]
        letters_gone = [*(known.keys() - {letter.id for letter in self.letters})]
        notes = [(name, value) for name, value in self.notes.items() if before.notes.get(name) != value]
        return Change(alerts, gone, letters, letters_gone, notes)


def _alert(row: AlertRow) -> Alert:
    condition = Condition(AlertKind(row.kind), row.watch, row.subject, row.text, row.scope, bool(row.is_error))
    return Alert(condition, row.since, row.sent_at, row.ended_at)


def _alert_row(alert: Alert) -> AlertRow:
    told = alert.condition
    return AlertRow(
        str(told.kind), told.watch, told.subject, told.text,
        alert.since, alert.sent_at, alert.ended_at, told.scope, int(told.is_error),
    )  # fmt: skip


def _letter(row: LetterRow) -> Letter:
    group = group_of(row.kind, row.watch, row.scope)
    taken = frozenset(json.loads(row.taken))
    return Letter(row.id, row.made_at, group, Severity(row.severity), row.title, row.body, taken)


def _letter_row(letter: Letter) -> LetterRow:
    kind, watch, scope = letter.group
    taken = json.dumps(sorted(letter.taken))
    return LetterRow(
        letter.id, letter.made_at, str(kind), watch, scope, str(letter.severity), letter.title, letter.body, taken
    )
