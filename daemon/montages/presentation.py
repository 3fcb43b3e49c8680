"""JSON form of montages for the web, `temwatch status` and `temwatch replay`. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.montages.waits import NOTHING, Waits


def montage_json(montage: Montage, waits: Waits = NOTHING, next_try_at: float | None = None) -> dict[str, Any]:
    """Return a montage as the web and `temwatch status --json` show it; times in ISO 8601, UTC.

    Parameters
    ----------
    waits : directories and stores that cannot be used now. They replace the reason for waiting of montages that need
        them.
    next_try_at : UNIX time of the next attempt, if the montage is delayed.
    """
    fault = montage.fault
    return {
        "id": montage.id,
        "watch": montage.watch,
        "metafile": str(montage.metafile),
        "digest": montage.digest,
        "state": str(montage.state),
        "failed_in": montage.failed_in,
        "z": montage.z,
        "scope": montage.scope,
        "tape": montage.tape,
        "raw_stack": montage.raw_stack,
        "mipmapped_stack": montage.mipmapped_stack,
        "tiles": montage.tile_count,
        "verdict": montage.verdict,
        "findings": list(montage.findings),
        "fault": None
        if fault is None
        else {"kind": fault.kind, "subject": fault.subject, "problem": fault.problem, "hint": fault.hint},
        "waiting_for": waits.reason_of(montage) or montage.waiting_for,
        "attempt": montage.attempt,
        "next_try_at": iso_time(next_try_at),
        "noticed_at": iso_time(montage.noticed_at),
        "changed_at": iso_time(montage.changed_at),
        "complete_at": iso_time(montage.complete_at),
    }


def present_fault(montage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fault because of which a montage failed or is retried; None if it waits for something else now.

    Parameters
    ----------
    montage : result of `montage_json`.
    """
    is_former = montage["waiting_for"] and montage["state"] != MontageState.FAILED
    return None if is_former else montage["fault"]


def counts_json(counts: Mapping[tuple[str, MontageState], int]) -> dict[str, dict[str, int]]:
    """Return counts of montages as watch -> state -> number."""
    by_watch: dict[str, dict[str, int]] = {}
    for (watch, state), count in counts.items():
        by_watch.setdefault(watch, {})[str(state)] = count
    return by_watch


def iso_time(seconds: float | None) -> str | None:
    """Return a UNIX time as ISO 8601, UTC, with milliseconds; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
