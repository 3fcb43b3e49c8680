"""Faults of single tiles: add the file whose change helps, and merge several faults of a montage."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from daemon.montages.records import Montage
from daemon.system.threads import access_timeout
from handlers.errors import Evidence, Fault, ImageFault, StorageFault, Waiting
from handlers.mipmaps.job import MipmapJob
from handlers.text import abbreviate


def image_evidence(jobs: Sequence[MipmapJob]) -> dict[str, Evidence]:
    """Return the present identity of each job's image, by the subject of its faults. Blocking."""
    images = {job.stack.path if job.stack else job.level0 for job in jobs}
    return {str(image): Evidence.of(image) for image in images if isinstance(image, Path)}


async def add_evidence(fault: Fault, before: Mapping[str, Evidence]) -> Fault:
    """Return the fault of a job with the image or level that has to change before a retry can help.

    If the file server does not answer, the fault is returned unchanged.

    Parameters
    ----------
    before : `image_evidence` before the jobs, so that an image that was repaired during its job counts as changed.
    """
    try:
        async with access_timeout(Path(fault.subject)):
            return await asyncio.to_thread(_add_evidence, fault, before)
    except StorageFault:
        return fault


def _add_evidence(fault: Fault, before: Mapping[str, Evidence]) -> Fault:
    path = Path(fault.subject)
    if fault.waiting_helps is Waiting.ALWAYS or not path.is_absolute():
        return fault
    return fault.with_evidence(before.get(fault.subject) or Evidence.of(path))


def merge_faults(montage: Montage, faults: Sequence[Fault], tile_count: int) -> Fault:
    """Return one fault for the montage, with the kind of the worst one: the one that waiting helps least."""
    order = {Waiting.NEVER: 0, Waiting.LIMITED: 1, Waiting.ALWAYS: 2}
    worst = min(faults, key=lambda fault: (order[fault.waiting_helps], fault.subject))
    if len(faults) == 1:
        return worst
    texts = abbreviate([f"{abbreviate(names)}: {problem}" for problem, names in _names_by_problem(faults)], 5, "; ")
    kind = type(worst) if worst.waiting_helps is not Waiting.NEVER else ImageFault
    merged = kind(
        str(montage.metafile),
        f"mipmaps of {len(faults)} of {tile_count} tiles could not be made: {texts}",
        worst.hint,
    )
    return merged.with_evidence(worst.evidence) if worst.evidence else merged


def _names_by_problem(faults: Iterable[Fault]) -> list[tuple[str, list[str]]]:
    """Return each problem with the names of its files. The order does not depend on which tile failed first."""
    names: dict[str, list[str]] = {}
    for name, problem in sorted((Path(fault.subject).name, fault.problem) for fault in faults):
        names.setdefault(problem, []).append(name)
    return list(names.items())
