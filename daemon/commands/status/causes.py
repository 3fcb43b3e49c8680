"""Group montages that are not COMPLETE by cause. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from daemon.montages.presentation import present_fault
from handlers.text import abbreviate, without_values, z_text

Montage = dict[str, Any]
"""JSON of a montage, as `/api/montages` returns it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Montages with the same cause, in order of acquisition."""

    text: str
    """The cause of the first montage."""
    montages: tuple[Montage, ...]

    @property
    def tiles(self) -> int:
        """Number of tiles of the montages whose metafile was read."""
        return sum(montage["tiles"] or 0 for montage in self.montages)


def by_cause(montages: Iterable[Montage]) -> list[Cause]:
    """Group montages by cause, the largest group first. Causes that differ only in numbers and names are the same."""
    groups: dict[str, list[Montage]] = {}
    for montage in sorted(montages, key=lambda montage: (montage["z"] is None, montage["z"] or 0, montage["id"])):
        groups.setdefault(without_values(_plain_cause(montage)), []).append(montage)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [Cause(cause_of(group[0]), tuple(group)) for group in ordered]


def cause_of(montage: Montage) -> str:
    """Return what a montage waits for, or its fault, in one sentence."""
    fault = present_fault(montage)
    if not fault:
        return str(montage["waiting_for"] or "in progress or queued")
    is_metafile = fault["subject"] in (montage["metafile"], PurePath(montage["metafile"]).name)
    subject = "" if is_metafile else f"{fault['subject']}: "
    hint = f" ({fault['hint']})" if fault["hint"] else ""
    return f"{subject}{fault['problem']}{hint}"


def _plain_cause(montage: Montage) -> str:
    fault = present_fault(montage)
    return f"{fault['kind']} {fault['problem']} {fault['hint']}" if fault else cause_of(montage)


def z_ranges(montages: Sequence[Montage], most: int = 6) -> str:
    """Return the z values as ranges of consecutive whole numbers, at most `most` of them.

    >>> z_ranges([{"z": z} for z in (1050.0, 1051.0, 1052.0, 1054.0, 7.5, None)])
    'z 7.5, 1050-1052, 1054, unknown'
    """
    values = sorted({montage["z"] for montage in montages if montage["z"] is not None})
    ranges: list[tuple[float, float]] = []
    for z in values:
        if ranges and z == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], z)
        else:
            ranges.append((z, z))
    texts = [z_text(first) if first == last else f"{z_text(first)}-{z_text(last)}" for first, last in ranges]
    unknown = ["unknown"] if any(montage["z"] is None for montage in montages) else []
    return f"z {abbreviate([*texts, *unknown], most)}"
