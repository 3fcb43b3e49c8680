"""Deliveries: events that a hook has not accepted yet."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.journal.tables import outbox
from daemon.journal.transaction import Connection
from daemon.montages.announcements import Announced, Kind

Wants = Callable[[Kind, str], bool]
"""Whether a hook wants events of a kind, of a watch."""

FAR_S = 7200.0
"""A next attempt further in the future was scheduled before the clock was set back; it is due now."""
QUEUED_AT_ONCE = 500
"""Events that one transaction queues."""
PRUNED_AT_ONCE = 1000

_EVENT = ", ".join(f"outbox.{column}" for column in outbox.COLUMNS.split(", "))
# The first waiting event of each subject, if it is due. Later events of the subject wait for it.
_DUE = (
    f"SELECT id, queued_at, attempts, {_EVENT} FROM deliveries AS this JOIN outbox USING (number)"  # noqa: S608  constant
    " WHERE hook = :hook AND is_dead = 0 AND (next_try_at <= :now OR next_try_at > :now + :far)"
    " AND number = (SELECT min(number) FROM deliveries WHERE hook = :hook AND is_dead = 0 AND subject = this.subject)"
    " ORDER BY {order} LIMIT :limit"
)
_LIST = (
    "SELECT id, hook, number, event_id, kind, outbox.watch, outbox.subject, queued_at, attempts, next_try_at, is_dead,"
    " problem FROM deliveries JOIN outbox USING (number) ORDER BY is_dead DESC, id LIMIT ?"
)
_PRUNE = (
    "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE at < :before"
    " AND number <= coalesce((SELECT min(position) FROM hooks), :last)"
    " AND number NOT IN (SELECT number FROM deliveries) ORDER BY number LIMIT :limit)"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is queued for a hook. `queued_at` is seconds since 1970 UTC."""

    id: int
    queued_at: float
    attempts: int
    event: Announced


@dataclass(frozen=True, slots=True)
class ListedDelivery:
    """A delivery as `temwatch notify list` shows it. Times are seconds since 1970 UTC."""

    id: int
    hook: str
    number: int
    event_id: str
    kind: str
    watch: str
    subject: str
    queued_at: float
    attempts: int
    next_try_at: float
    is_dead: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt at a delivery. `next_try_at` is seconds since 1970 UTC."""

    delivery_id: int
    problem: str
    next_try_at: float
    is_dead: bool


@dataclass(frozen=True, slots=True)
class HookCounts:
    """Number and age of the events that a hook has not accepted."""

    waiting: int
    dead: int
    oldest_queued_at: float | None
    """Time of the oldest waiting event; seconds since 1970 UTC."""
    problem: str | None
    """Problem of the oldest waiting event that was attempted."""


def register(connection: Connection, hooks: Collection[str]) -> None:
    """Start new hooks at the next event; delete the positions of hooks that are no longer configured."""
    last = outbox.last_number(connection)
    known = {hook for (hook,) in connection.execute("SELECT hook FROM hooks")}
    connection.executemany("DELETE FROM hooks WHERE hook = ?", [(hook,) for hook in known.difference(hooks)])
    connection.executemany("INSERT OR IGNORE INTO hooks VALUES (?, ?)", [(hook, last) for hook in hooks])


def positions(connection: Connection) -> dict[str, int]:
    """Return the number of the last event that was considered for each hook."""
    return dict(connection.execute("SELECT hook, position FROM hooks"))


def queue(connection: Connection, wants: Mapping[str, Wants], now: float) -> bool:
    """Queue the next events for each hook that wants them; return whether more events remain."""
    has_more = False
    for hook, position in positions(connection).items():
        rows = connection.execute(
            "SELECT number, kind, watch, subject FROM outbox WHERE number > ? ORDER BY number LIMIT ?",
            (position, QUEUED_AT_ONCE),
        ).fetchall()
        if not rows or hook not in wants:
            continue
        connection.executemany(
            "INSERT INTO deliveries (hook, number, subject, queued_at, next_try_at) VALUES (?, ?, ?, ?, ?)",
            [(hook, number, subject, now, now) for number, kind, watch, subject in rows if wants[hook](kind, watch)],
        )
        connection.execute("UPDATE hooks SET position = ? WHERE hook = ?", (rows[-1][0], hook))
        has_more |= len(rows) == QUEUED_AT_ONCE
    return has_more


def due(connection: Connection, hook: str, now: float, limit: int, *, least_tried: bool = False) -> list[Delivery]:
    """Return deliveries that are due: the first waiting event of each subject, in order.

    Parameters
    ----------
    least_tried : order by the number of attempts, fewest first.
    """
    query = _DUE.format(order="attempts, number" if least_tried else "number")
    values = {"hook": hook, "now": now, "far": FAR_S, "limit": limit}
    return [
        Delivery(delivery_id, queued_at, attempts, outbox.announced_of(row))
        for delivery_id, queued_at, attempts, *row in connection.execute(query, values)
    ]


def next_try_at(connection: Connection, hook: str, now: float) -> float | None:
    """Return when the next delayed delivery of a hook is due, seconds since 1970 UTC; None if none is delayed."""
    query = "SELECT min(next_try_at) FROM deliveries WHERE hook = ? AND is_dead = 0 AND next_try_at > ?"
    found: float | None = connection.execute(query, (hook, now)).fetchone()[0]
    return found


def record(connection: Connection, delivered: Iterable[int], failures: Iterable[Failure]) -> None:
    """Record the outcomes of attempts."""
    connection.executemany("DELETE FROM deliveries WHERE id = ?", [(each,) for each in delivered])
    connection.executemany(
        "UPDATE deliveries SET attempts = attempts + 1, next_try_at = ?, problem = ?, is_dead = ? WHERE id = ?",
        [(each.next_try_at, each.problem, each.is_dead, each.delivery_id) for each in failures],
    )


def give_up_older(connection: Connection, hook: str, queued_before: float, problem: str) -> int:
    """Give up the deliveries of a hook that were queued before a time; return their number."""
    return connection.execute(
        "UPDATE deliveries SET is_dead = 1, problem = ? WHERE hook = ? AND is_dead = 0 AND queued_at < ?",
        (problem, hook, queued_before),
    ).rowcount


def retry(connection: Connection, ids: Collection[int], now: float) -> list[int]:
    """Make deliveries due at once, including those that were given up; return the ids that exist."""
    return [
        each
        for each in ids
        if connection.execute(
            "UPDATE deliveries SET is_dead = 0, attempts = 0, queued_at = ?, next_try_at = ? WHERE id = ?",
            (now, now, each),
        ).rowcount
    ]


def drop(connection: Connection, ids: Collection[int]) -> list[int]:
    """Delete deliveries; return the ids that existed."""
    return [each for each in ids if connection.execute("DELETE FROM deliveries WHERE id = ?", (each,)).rowcount]


def listing(connection: Connection, limit: int) -> list[ListedDelivery]:
    """Return deliveries; those that were given up come first."""
    return [_listed(row) for row in connection.execute(_LIST, (limit,))]


def _listed(row: Sequence[Any]) -> ListedDelivery:
    values = dict(zip(ListedDelivery.__slots__, row, strict=True))
    return ListedDelivery(**{**values, "is_dead": bool(values["is_dead"])})


def counts(connection: Connection) -> dict[str, HookCounts]:
    """Return the counts of each hook with undelivered events."""
    query = (
        "SELECT hook, sum(is_dead = 0), sum(is_dead), min(iif(is_dead, NULL, queued_at)) FROM deliveries GROUP BY hook"
    )
    return {
        hook: HookCounts(waiting, dead, oldest, _problem(connection, hook))
        for hook, waiting, dead, oldest in connection.execute(query).fetchall()
    }


def _problem(connection: Connection, hook: str) -> str | None:
    query = "SELECT problem FROM deliveries WHERE hook = ? AND is_dead = 0 AND attempts > 0 ORDER BY number LIMIT 1"
    row = connection.execute(query, (hook,)).fetchone()
    return row[0] if row else None


def prune(connection: Connection, before: float, dead_before: float) -> bool:
    """Delete old events that no hook waits for, and old deliveries; return whether more such events remain.

    Parameters
    ----------
    before, dead_before : age limit of events and of deliveries, seconds since 1970 UTC.
    """
    hooks = "SELECT hook FROM hooks"
    connection.execute(
        f"DELETE FROM deliveries WHERE queued_at < ? AND (is_dead = 1 OR hook NOT IN ({hooks}))",  # noqa: S608  constant
        (dead_before,),
    )
    values = {"before": before, "last": outbox.last_number(connection), "limit": PRUNED_AT_ONCE}
    return connection.execute(_PRUNE, values).rowcount == PRUNED_AT_ONCE
