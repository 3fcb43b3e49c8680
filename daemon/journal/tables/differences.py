"""Differences that `temwatch verify` found."""

from collections.abc import Iterable
from typing import NamedTuple

from daemon.journal.transaction import Connection

MAX_READ = 1000
_PUT = (
    "INSERT OR REPLACE INTO differences (montage_id, found_at, differences, start)"
    " SELECT id, ?, ?, ? FROM montages WHERE id = ?"
)
_LASTING = (
    "SELECT montage_id, watch, z, differences, start FROM differences JOIN montages ON id = montage_id"
    " WHERE state = 'complete' AND complete_at <= found_at ORDER BY montage_id DESC LIMIT ?"
)


class Found(NamedTuple):
    """Result of the verification of one montage."""

    montage_id: int
    differences: int
    start: str | None
    """First step of the replay that repairs the differences; None if no replay can."""


class Differing(NamedTuple):
    """A COMPLETE montage that was not replayed since differences were found."""

    montage_id: int
    watch: str
    z: float | None
    differences: int
    start: str | None


def record(connection: Connection, found: Iterable[Found], clean: Iterable[int], now: float) -> None:
    """Store the differences of a verification; delete those of montages that it found clean."""
    connection.executemany(_PUT, [(now, each.differences, each.start, each.montage_id) for each in found])
    connection.executemany("DELETE FROM differences WHERE montage_id = ?", [(each,) for each in clean])


def recorded(connection: Connection) -> frozenset[int]:
    """Return the montages with recorded differences."""
    return frozenset(each for (each,) in connection.execute("SELECT montage_id FROM differences"))


def differing(connection: Connection) -> list[Differing]:
    """Return the newest montages that still differ."""
    return [Differing(*row) for row in connection.execute(_LASTING, (MAX_READ,))]
