"""The daily digest: its time and its text. Pure: the time is an argument."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from daemon.journal.tables.results import Day
from daemon.journal.tables.silences import SilenceRow
from daemon.montages.announcements import utc_text
from daemon.notify.alerts.rules import Alerts
from daemon.notify.alerts.silences import silence_json, silence_line
from daemon.pipeline.health import Disk, Facts, reasons_not_ready
from handlers.text import byte_size, printable

MAX_ONGOING = 20
"""Number of alerts that the digest lists; the others are counted."""


def last_due(now: float, at: str) -> float:
    """Return when the last digest was due, seconds since 1970 UTC.

    Parameters
    ----------
    at : local time of day, as in "07:00".
    """
    hour, minute = map(int, at.split(":"))
    due = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)  # noqa: DTZ006  local
    if due.timestamp() > now:
        due -= timedelta(days=1)
    return due.timestamp()


def digest_text(since: float, days: Sequence[Day], facts: Facts, alerts: Alerts, silences: Iterable[SilenceRow]) -> str:
    """Return the text of a digest: results since a time, and the present problems.

    Parameters
    ----------
    since : seconds since 1970 UTC.
    """
    lines = [f"Since {utc_text(since)[:16].replace('T', ' ')} UTC:"]
    lines += [_of_day(day) for day in days] or ["no montages"]
    lines += [f"not ready: {reason}" for reason in reasons_not_ready(facts)] or ["ready"]
    lines += _ongoing(alerts)
    lines += [_of_disk(disk) for disk in facts.disks]
    lines += [silence_line(silence_json(row)) for row in silences]
    return "\n".join(lines)


def _of_day(day: Day) -> str:
    where = ", ".join(filter(None, (day.watch, day.scope)))
    numbers = [f"{day.complete} montages COMPLETE ({day.tiles} tiles)"]
    named = {"failed": day.failed, "unfinished": day.unfinished}
    numbers += [f"{count} {name} now" for name, count in named.items() if count]
    numbers += [f"quality {verdict}: {count}" for verdict, count in sorted(day.verdicts.items())]
    return f"{where}: {', '.join(numbers)}"


def _ongoing(alerts: Alerts) -> list[str]:
    ongoing = [alert for alert in alerts.values() if alert.ended_at is None and alert.sent_at is not None]
    ongoing.sort(key=lambda alert: (alert.since, alert.condition.key))
    lines = [
        f"since {utc_text(each.since)[:16].replace('T', ' ')} UTC: {each.condition.kind}: {each.condition.text}"
        for each in ongoing[:MAX_ONGOING]
    ]
    return lines + ([f"and {len(ongoing) - MAX_ONGOING} more"] if len(ongoing) > MAX_ONGOING else [])


def _of_disk(disk: Disk) -> str:
    free = "cannot be accessed" if disk.free_bytes is None else f"{byte_size(disk.free_bytes)} free"
    full = "" if disk.full_in_s is None else f", full in {disk.full_in_s / 3600:.0f} h at the present rate"
    return f"{printable(disk.directory)}: {free}{full}"
