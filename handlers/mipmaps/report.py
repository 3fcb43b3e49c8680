"""The report of a worker about a job, in a form that is sent between processes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from handlers import errors
from handlers.errors import Fault
from handlers.images.digest import Digest, FileContent
from handlers.parcel import Parcel
from handlers.place import Place

if TYPE_CHECKING:  # most modules that import this one only read reports
    from handlers.mipmaps.measure import Measured


@dataclass(frozen=True, slots=True)
class FaultReport:
    """A fault as values."""

    kind: str
    """Name of the fault's class in `errors`."""
    subject: str
    problem: str
    hint: str

    @classmethod
    def of(cls, fault: Fault) -> "FaultReport":
        """Return the report of a fault. A class that is not in `errors` is replaced by its nearest base class there."""
        kind = next(base for base in type(fault).__mro__ if getattr(errors, base.__name__, None) is base)
        return cls(kind.__name__, fault.subject, fault.problem, fault.hint)

    def to_fault(self) -> Fault:
        """Return the fault."""
        kind: type[Fault] = getattr(errors, self.kind)
        return kind(self.subject, self.problem, self.hint)


@dataclass(frozen=True, slots=True)
class MadeLevel(Parcel):
    """A level that is in place and verified."""

    level: int
    path: Place
    width: int
    height: int
    mode: str
    """L for 8 bits, I;16 for 16."""
    bytes: int
    replaced: bool = False
    """Whether an older file was replaced."""
    digest: Digest | None = None
    """XXH3-128 of the file's bytes when they were read back; None unless the job measures."""


@dataclass(frozen=True, slots=True)
class MipmapReport(Parcel):
    """Outcome of a job."""

    tile_id: str
    made: tuple[MadeLevel, ...] = ()
    """Levels that were written; if there is a fault, those that were written before it."""
    seconds: float = 0.0
    fault: FaultReport | None = None
    notes: tuple[str, ...] = ()
    """Warnings about the image, which did not prevent its levels."""
    kept: tuple[MadeLevel, ...] = ()
    """Valid existing levels, which the job kept."""
    level0_bits: int | None = None
    """Bits per pixel of level 0; None if its header was not read."""
    level0: FileContent | None = None
    """Identity and digest of level 0; None if there is a fault, level 0 is an object, or only render-ws can read it."""
    measured: "Measured | None" = None
    """Numbers of the image; None if there is a fault or the job does not measure."""
