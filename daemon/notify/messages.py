"""Messages to people that are not delivered yet, and when they are given up. Pure: the time is an argument."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.montages.announcements import utc_text
from daemon.notify.alerting import AlertKind, Draft, Group, Severity

GIVE_UP_S = 86_400.0
"""A message is given up after a day."""
MOST_MESSAGES = 500
"""Limit of undelivered messages: beyond it the oldest are given up."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that not every address has taken yet."""

    id: str
    """The same at each attempt, also after a restart; the text contains it."""
    made_at: float
    """Seconds since 1970 UTC."""
    group: Group
    severity: Severity
    title: str
    body: str
    taken: frozenset[int] = frozenset()
    """Numbers of the addresses that took it. After an edit of the address file these may be other addresses: then a
    message may reach one of them twice, and another never."""


Messages = tuple[Message, ...]


def message_of(draft: Draft, message_id: str, now: float, host: str) -> Message:
    """Return the message of a draft; its last line says where and when it was written."""
    foot = f"temwatch on {host}, {utc_text(now)[:16].replace('T', ' ')} UTC, message {message_id}"
    return Message(message_id, now, draft.group, draft.severity, draft.title, f"{draft.body}\n\n{foot}")


def on_their_way(messages: Sequence[Message], taken: Mapping[str, Collection[int]], addresses: int) -> Messages:
    """Return the messages that some address has not taken.

    Parameters
    ----------
    taken : numbers of the addresses that took a message now, by its id.
    addresses : their number; addresses are numbered from 1.
    """
    after = (replace(each, taken=each.taken.union(taken.get(each.id, ()))) for each in messages)
    return tuple(each for each in after if not each.taken.issuperset(range(1, addresses + 1)))


def given_up(messages: Sequence[Message], now: float) -> Messages:
    """Return the messages that are too old, or too many."""
    surplus = max(0, len(messages) - MOST_MESSAGES)
    return tuple(each for n, each in enumerate(messages) if n < surplus or now - each.made_at >= GIVE_UP_S)


def waiting_groups(messages: Sequence[Message]) -> frozenset[Group]:
    """Return the groups of undelivered messages."""
    return frozenset(message.group for message in messages)


def group_of(kind: str, watch: str, scope: str) -> Group:
    """Return the group that the journal stores."""
    return AlertKind(kind), watch, scope
