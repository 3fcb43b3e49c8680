"""Letters: messages to people on their way, and when they are given up. Pure: the time is an argument."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.montages.announcements import utc_text
from daemon.notify.alerting import AlertKind, Group, Message, Severity

GIVE_UP_S = 86_400.0
"""A letter is given up after a day."""
MOST_LETTERS = 500
"""With more letters on their way the oldest are given up."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that not every address has taken yet."""

    id: str
    """The same at each attempt, also after a restart; it stands in the text."""
    made_at: float
    """Seconds since 1970 UTC."""
    group: Group
    severity: Severity
    title: str
    body: str
    taken: frozenset[int] = frozenset()
    """Numbers of the addresses that took it. After the file of addresses was edited, these may be others: then one
    letter may come twice to one of them, and never to another."""


Letters = tuple[Letter, ...]


def letter_of(message: Message, letter_id: str, now: float, host: str) -> Letter:
    """Return the letter of a message; its last line says where and when it was written."""
    return written_letter(letter_id, now, host, message.group, message.severity, message.title, message.body)


def written_letter(
    letter_id: str, now: float, host: str, group: Group, severity: Severity, title: str, body: str
) -> Letter:
    """Return a letter whose last line says where and when it was written."""
    foot = f"temwatch on {host}, {utc_text(now)[:16].replace('T', ' ')} UTC, message {letter_id}"
    return Letter(letter_id, now, group, severity, title, f"{body}\n\n{foot}")


def on_their_way(letters: Sequence[Letter], taken: Mapping[str, Collection[int]], addresses: int) -> Letters:
    """Return the letters that some address has not taken.

    Parameters
    ----------
    taken : numbers of the addresses that took a letter now, by its id.
    addresses : their number; addresses are numbered from 1.
    """
    after = (replace(each, taken=each.taken.union(taken.get(each.id, ()))) for each in letters)
    return tuple(each for each in after if not each.taken.issuperset(range(1, addresses + 1)))


def given_up(letters: Sequence[Letter], now: float) -> Letters:
    """Return the letters that are too old, or too many."""
    surplus = max(0, len(letters) - MOST_LETTERS)
    return tuple(each for n, each in enumerate(letters) if n < surplus or now - each.made_at >= GIVE_UP_S)


def waiting_groups(letters: Sequence[Letter]) -> frozenset[Group]:
    """Return the groups of letters that are on their way."""
    return frozenset(letter.group for letter in letters)


def group_of(kind: str, watch: str, scope: str) -> Group:
    """Return the group that the journal stores."""
    return AlertKind(kind), watch, scope
