"""Failures of single tiles or layers, while the rest of the work continues."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from handlers.errors import Fault
from handlers.render.names import format_z
from handlers.text import abbreviate, without_values, z_text

MAX_LINES = 20
"""Groups of failures that are shown to a person."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The fault of one tile, or of one z as a whole."""

    z: float
    tile_id: str | None
    """None if the fault concerns all tiles of the z."""
    fault: Fault

    def to_json(self) -> dict[str, object]:
        """Return the failure in the form of an import command's output file."""
        tile = {} if self.tile_id is None else {"tileId": self.tile_id}
        fault = {"subject": self.fault.subject, "problem": self.fault.problem, "hint": self.fault.hint}
        return {"z": plain_z(self.z), **tile, "kind": type(self.fault).__name__, **fault}

    def __str__(self) -> str:
        where = f"z {format_z(self.z)}" + (f" tile {self.tile_id}" if self.tile_id else "")
        return f"{where}: {self.fault}"


def plain_z(z: float) -> int | float:
    """Return z as workflow engines write it: an integer if it has no fraction.

    >>> plain_z(1050.0), plain_z(5.5)
    (1050, 5.5)
    """
    return int(z) if float(z).is_integer() else z


def group_failures(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Group failures of the same kind, problem and hint, in order of their first appearance."""
    return _grouped(failures, lambda problem: problem)


def group_causes(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Group failures as `group_failures`, but ignore numbers, paths and names of files in the problems."""
    return _grouped(failures, without_values)


def _grouped(failures: Iterable[Failure], key: Callable[[str], str]) -> list[list[Failure]]:
    groups: dict[tuple[type[Fault], str, str], list[Failure]] = {}
    for failure in failures:
        fault = failure.fault
        groups.setdefault((type(fault), key(fault.problem), fault.hint), []).append(failure)
    return list(groups.values())


def failure_lines(failures: Iterable[Failure], rest_is_in: str = "") -> list[str]:
    """Return one line for each of the first MAX_LINES groups of failures, and a last line that counts the others.

    Parameters
    ----------
    rest_is_in : text that ends the last line and says where the other failures are.
    """
    groups = group_causes(failures)
    lines = [_group_line(group) for group in groups[:MAX_LINES]]
    if rest := sum(len(group) for group in groups[MAX_LINES:]):
        lines.append(f"and {rest} more{rest_is_in}")
    return lines


def _group_line(group: Sequence[Failure]) -> str:
    first, fault = group[0], group[0].fault
    hint = f" ({fault.hint})" if fault.hint else ""
    if len(group) == 1:
        subject = f"tile '{first.tile_id}'" if first.tile_id else fault.subject
        where = "" if subject == fault.subject else f"{fault.subject}: "
        return f"z {z_text(first.z)} {subject}: {where}{fault.problem}{hint}"
    zs = abbreviate([z_text(z) for z in sorted({failure.z for failure in group})])
    tile_ids = [failure.tile_id for failure in group if failure.tile_id]
    if len(tile_ids) < len(group):
        return f"{len(group)} failures at z {zs}: {fault.subject}: {fault.problem}{hint}"
    return f"{len(group)} tiles at z {zs} ({abbreviate(tile_ids)}): {fault.problem}, first {fault.subject}{hint}"
