"""Comparing requested z with the z values of a stack."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from handlers.errors import Fault, ReadBackDiffers
from handlers.render.client import RenderClient
from handlers.render.failures import Failure
from handlers.render.names import StackId, ZRange
from handlers.text import z_text


@dataclass(frozen=True, slots=True)
class FoundZ:
    """Requested z that a stack has, and those that it lacks, ascending."""

    present: tuple[float, ...]
    absent: tuple[float, ...]
    """Empty for a range: reels have gaps, so a z that is missing in a range is not a fault."""


def match_z(z_values: Iterable[float], wanted: Collection[float] | ZRange) -> FoundZ:
    """Return the wanted z that are among a stack's z values, and those that are not.

    >>> match_z([1.0, 2.0, 5.5], [2, 3])
    FoundZ(present=(2.0,), absent=(3.0,))
    >>> match_z([1.0, 2.0, 5.5], ZRange(2, 9))
    FoundZ(present=(2.0, 5.5), absent=())
    """
    of_stack = {float(z) for z in z_values}
    if isinstance(wanted, ZRange):
        return FoundZ(tuple(sorted(z for z in of_stack if wanted.first <= z <= wanted.last)), ())
    listed = {float(z) for z in wanted}
    return FoundZ(tuple(sorted(listed & of_stack)), tuple(sorted(listed - of_stack)))


async def find_z(client: RenderClient, stack: StackId, wanted: Collection[float] | ZRange) -> FoundZ:
    """Return the wanted z that the stack has, and those that it lacks. Raises StackMissing, or another RenderFault."""
    return match_z(await client.z_values(stack), wanted)


def no_tiles_fault(stack: StackId, zs: Collection[float] | ZRange) -> Fault:
    """Return the fault of a stack that has none of the wanted z."""
    wanted = (
        f"from z {z_text(zs.first)} to {z_text(zs.last)}"
        if isinstance(zs, ZRange)
        else ", ".join(f"z {z_text(z)}" for z in zs)
    )
    return ReadBackDiffers(str(stack), f"has no tiles at {wanted}", "check z, and whether its metafiles were ingested")


def absent_z_failure(stack: StackId, z: float) -> Failure:
    """Return the failure of a listed z that the stack does not have."""
    return Failure(z, None, ReadBackDiffers(str(stack), f"has no tiles at z {z_text(z)}", "ingest its metafile first"))
