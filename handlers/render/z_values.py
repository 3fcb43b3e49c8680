"""Layers of a stack, all tiles of one z: which of those asked for it has."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from handlers.errors import Fault, ReadBackDiffers
from handlers.render.client import RenderClient, StackId
from handlers.render.failures import Failure
from handlers.render.names import ZRange


@dataclass(frozen=True, slots=True)
class Layers:
    """z of a stack that were asked for."""

    present: tuple[float, ...]
    """Ascending."""
    absent: tuple[float, ...]
    """Asked for one by one, and not there. What a range lacks is no fault: reels have gaps."""


def layers_among(z_values: Iterable[float], wanted: Collection[float] | ZRange) -> Layers:
    """Which of a stack's z are wanted.

    >>> layers_among([1.0, 2.0, 5.5], [2, 3])
    Layers(present=(2.0,), absent=(3.0,))
    >>> layers_among([1.0, 2.0, 5.5], ZRange(2, 9))
    Layers(present=(2.0, 5.5), absent=())
    """
    there = {float(z) for z in z_values}
    if isinstance(wanted, ZRange):
        return Layers(tuple(sorted(z for z in there if wanted.first <= z <= wanted.last)), ())
    asked = {float(z) for z in wanted}
    return Layers(tuple(sorted(asked & there)), tuple(sorted(asked - there)))


async def find_layers(client: RenderClient, stack: StackId, wanted: Collection[float] | ZRange) -> Layers:
    """Which of the wanted z the stack has now. Raises StackMissing, or another RenderFault."""
    return layers_among(await client.z_values(stack), wanted)


def no_layers(stack: StackId, zs: Collection[float] | ZRange) -> Fault:
    """What is said when a stack has nothing of what was asked for."""
    wanted = f"from z {zs.first:g} to {zs.last:g}" if isinstance(zs, ZRange) else ", ".join(f"z {z:g}" for z in zs)
    return ReadBackDiffers(str(stack), f"has no tiles at {wanted}", "see z, and whether its metafiles were ingested")


def absent_layer(stack: StackId, z: float) -> Failure:
    """The failure of a z that was asked for by itself and is not there."""
    return Failure(z, None, ReadBackDiffers(str(stack), f"has no tiles at z {z:g}", "ingest its metafile first"))
