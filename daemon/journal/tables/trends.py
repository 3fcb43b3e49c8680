"""Medians of sections' quality numbers, for trends of a microscope."""

from typing import NamedTuple

from daemon.journal.tables.rows import Connection
from handlers.quality.trend import Trend

_STORE = (
    "INSERT OR REPLACE INTO trends (montage_id, focus, std_dev, interval_s, stage_error_px, pixel_size_nm)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_OF_SCOPE = (
    "SELECT id, noticed_at, z, focus, std_dev, interval_s, stage_error_px, pixel_size_nm FROM montages"
    " JOIN trends ON montage_id = id WHERE scope = ? AND watch = ? AND noticed_at >= ? ORDER BY id DESC LIMIT ?"
)


class TrendPoint(NamedTuple):
    """The medians of one section."""

    montage_id: int
    at: float
    """When the montage was noticed, seconds since 1970 UTC."""
    z: float | None
    trend: Trend


def store(connection: Connection, montage_id: int, trend: Trend) -> None:
    """Store or replace the medians of a montage."""
    values = (trend.focus, trend.std_dev, trend.interval_s, trend.stage_error_px, trend.pixel_size_nm)
    connection.execute(_STORE, (montage_id, *values))


def of_scope(connection: Connection, watch: str, scope: str, since: float, limit: int) -> list[TrendPoint]:
    """Return the medians of a microscope's newest sections since a time, the oldest first."""
    rows = connection.execute(_OF_SCOPE, (scope, watch, since, limit)).fetchall()
    return [TrendPoint(montage_id, at, z, Trend(*medians)) for montage_id, at, z, *medians in reversed(rows)]
