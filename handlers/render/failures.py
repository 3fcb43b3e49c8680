"""Failures of single tiles or layers, while the rest of the work continues."""

from dataclasses import dataclass

from handlers.errors import Fault
from handlers.render.names import format_z


@dataclass(frozen=True, slots=True)
class Failure:
    """The fault of one tile, or of one z as a whole."""

    z: float
    tile_id: str | None
    """None where the fault concerns all tiles of the z."""
    fault: Fault

    def to_json(self) -> dict[str, object]:
        """Return the failure as it is written into an output file."""
        tile = {} if self.tile_id is None else {"tileId": self.tile_id}
        fault = {"subject": self.fault.subject, "problem": self.fault.problem, "hint": self.fault.hint}
        return {"z": plain_z(self.z), **tile, "kind": type(self.fault).__name__, **fault}

    def __str__(self) -> str:
        where = f"z {format_z(self.z)}" + (f" tile {self.tile_id}" if self.tile_id else "")
        return f"{where}: {self.fault}"


def plain_z(z: float) -> int | float:
    """Return z as workflow engines write it: an integer where it has no fraction.

    >>> plain_z(1050.0), plain_z(5.5)
    (1050, 5.5)
    """
    return int(z) if float(z).is_integer() else z
