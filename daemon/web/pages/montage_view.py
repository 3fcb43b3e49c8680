"""View of a montage for the pages. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from daemon.montages.records import Montage
from daemon.montages.states import STEP_OF_STATE, MontageState
from handlers.text import printable, shorten, z_text

STEPS = ("settled", "tile specs", "mipmaps", "applied", "closed")
"""Results of the five steps, in order."""
_ORDER = tuple(STEP_OF_STATE)
_NONE: Mapping[int, int] = MappingProxyType({})
_ENDED_OTHERWISE = (MontageState.DISMISSED, MontageState.SUPERSEDED, MontageState.IGNORED)


@dataclass(frozen=True, slots=True)
class Cell:
    """One step of one montage."""

    step: str
    kind: str
    """done, now, waits, failed, open or off. The style gives each a colour and a mark."""


@dataclass(frozen=True, slots=True)
class MontageView:
    """A montage as a row of a list or a column of the grid."""

    montage: Montage
    cells: tuple[Cell, ...]
    made: int | None
    """Number of finished tiles while mipmaps are being made; otherwise None."""
    label: str
    """Text for screen readers, in place of the cells."""
    waiting_for: str | None = None
    """Reason for waiting."""

    @property
    def reason(self) -> str:
        """Why it waits or failed; empty if it does neither."""
        montage = self.montage
        if montage.state is MontageState.FAILED and montage.fault:
            return montage.fault.problem
        return self.waiting_for or (montage.fault.problem if montage.fault else "")


def view_of(montage: Montage, waiting_for: str | None = None, made: Mapping[int, int] = _NONE) -> MontageView:
    """Return the view of a montage.

    Parameters
    ----------
    waiting_for : directory or store that it waits for at present; None: none of them.
    made : montage id -> number of finished tiles, for montages whose mipmaps are being made.
    """
    cells = tuple(_cell(montage, index, waiting_for) for index in range(len(STEPS)))
    return MontageView(montage, cells, made.get(montage.id), _label(montage), waiting_for or montage.waiting_for)


def _cell(montage: Montage, index: int, waiting_for: str | None) -> Cell:
    step = STEPS[index]
    if montage.state is MontageState.COMPLETE:
        return Cell(step, "done")
    if montage.state in _ENDED_OTHERWISE:
        return Cell(step, "off")
    reached = _ORDER.index(montage.failed_in or MontageState.NOTICED if _has_failed(montage) else montage.state)
    if index != reached:
        return Cell(step, "done" if index < reached else "open")
    if _has_failed(montage):
        return Cell(step, "failed")
    waits = waiting_for or montage.waiting_for or montage.fault
    return Cell(step, "waits" if waits else "now")


def _has_failed(montage: Montage) -> bool:
    return montage.state is MontageState.FAILED


def _label(montage: Montage) -> str:
    where = "not read yet" if montage.z is None else f"z {z_text(montage.z)}"
    scope = f", scope {montage.scope}" if montage.scope else ""
    return printable(f"{where}{scope}, {montage.state}, {shorten(montage.metafile.name, 60)}")
