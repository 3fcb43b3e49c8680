"""Undelivered messages to people, and when they are given up. Pure: the time is an argument."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.montages.announcements import utc_text
from daemon.notify.alerts.rules import AlertKind, Draft, Group, Severity

GIVE_UP_S = 86_400.0
"""Age at which a message is given up."""
MAX_MESSAGES = 500
"""Limit of undelivered messages. Beyond it the oldest ones are given up."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that not every address has accepted yet."""

    id: str
    """The same in each attempt, also after a restart. The text contains it."""
    made_at: float
    """Seconds since 1970 UTC."""
    group: Group
    severity: Severity
    title: str
    body: str
    taken: frozenset[int] = frozenset()
    """Numbers of the addresses that accepted it. After an edit of the address file the numbers may mean other
    addresses, so one address may receive the message twice and another one never."""


Messages = tuple[Message, ...]


def message_of(draft: Draft, message_id: str, now: float, host: str) -> Message:
    """Return the message of a draft. Its last line states the host, the time and the message id."""
    foot = f"temwatch on {host}, {utc_text(now)[:16].replace('T', ' ')} UTC, message {message_id}"
    return Message(message_id, now, draft.group, draft.severity, draft.title, f"{draft.body}\n\n{foot}")


def undelivered(messages: Sequence[Message], taken: Mapping[str, Collection[int]], addresses: int) -> Messages:
    """Return the messages that at least one address has not accepted.

    Parameters
    ----------
    taken : message id -> numbers of the addresses that accepted it now.
    addresses : number of addresses. They are numbered from 1.
    """
    after = (replace(each, taken=each.taken.union(taken.get(each.id, ()))) for each in messages)
    return tuple(each for each in after if not each.taken.issuperset(range(1, addresses + 1)))


def given_up(messages: Sequence[Message], now: float) -> Messages:
    """Return the messages that are given up: too old, or the oldest of too many."""
    surplus = max(0, len(messages) - MAX_MESSAGES)
    return tuple(each for n, each in enumerate(messages) if n < surplus or now - each.made_at >= GIVE_UP_S)


def waiting_groups(messages: Sequence[Message]) -> frozenset[Group]:
    """Return the groups of undelivered messages."""
    return frozenset(message.group for message in messages)


def group_of(kind: str, watch: str, scope: str) -> Group:
    """Return the group of the texts that the journal stores."""
    return AlertKind(kind), watch, scope
