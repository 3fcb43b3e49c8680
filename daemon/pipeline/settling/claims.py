"""Judge claims on tiles: whether the metafile of another montage still exists with the same content.

Each tile of a stack belongs to one montage. If two metafiles have the same tile, the montage that settled first owns it
until its metafile is moved or, before its tiles are applied, is removed or replaced. A finished montage owns its tiles
even without its metafile, since raw data are archived.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from daemon.montages.records import Montage, Namesake, Rival, StaleInspection
from daemon.montages.states import HAS_SETTLED, MontageState
from daemon.pipeline.settling.settle import Ignored, NotYet
from daemon.system.threads import access_timeout
from handlers.acquisition.arrival import metafile_content
from handlers.acquisition.presence import Present, evidence_of, find_metafile
from handlers.acquisition.retakes import is_later_take, is_mirrored
from handlers.errors import Evidence, MetafileFault, StorageFault, reading_fault
from handlers.text import excerpt, z_text

NEEDS_NO_METAFILE = frozenset({MontageState.APPLIED, MontageState.COMPLETE})
"""States of montages that own their tiles even without their metafile."""
RIVAL_PAUSE_S = 10.0
"""Pause before a metafile is inspected again if the watch of its rival cannot be accessed."""


class Claim(StrEnum):
    """Present content of a montage's path, compared with another metafile."""

    PRESENT = "present"
    """The content of the montage."""
    SAME_FILE = "same_file"
    """The other metafile itself, through a link, a bind mount or an overlapping watch."""
    GONE = "gone"
    """Nothing."""
    REPLACED = "replaced"
    """Another content."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim and its evidence."""

    claim: Claim
    evidence: Evidence
    """Metafile of the rival. The claim is outdated when it changes or is removed."""


class Claims:
    """Judges the claims of other montages, without blocking the event loop.

    Parameters
    ----------
    is_accessible : whether the directory of a watch can be accessed now; True for a watch that is not configured.
    """

    def __init__(self, is_accessible: Callable[[str], bool]) -> None:
        self._is_accessible = is_accessible

    async def judge(self, rival: Rival, montage: Montage, digest: str) -> NotYet | Ignored | str | None:
        """Compare a settling montage with a rival.

        Parameters
        ----------
        digest : SHA-256 of the settling metafile.

        Returns
        -------
        A text if the rival is superseded, which states why; NotYet or Ignored if the settling montage does not settle;
        None if both settle.

        Raises
        ------
        MetafileFault
            If the rival owns tiles of the settling metafile.
        """
        other = rival.montage
        if not self._is_accessible(other.watch):
            reason = f"{other.metafile} has the same images, and its watch {other.watch} cannot be accessed"
            return NotYet(reason, RIVAL_PAUSE_S) if rival.shared else None
        async with access_timeout(other.metafile):
            found = await asyncio.to_thread(find, other, montage.metafile)
        if is_later_take(montage.metafile, other.metafile):
            return f"imaged again: {montage.metafile}"
        stands = found.claim is Claim.PRESENT or other.state in NEEDS_NO_METAFILE
        if stands and is_later_take(other.metafile, montage.metafile):
            return Ignored(f"imaged again: {other.metafile}", found.evidence)
        if is_over(rival, found.claim, digest):
            return why_ended(found.claim, other, montage.metafile, digest)
        if found.claim is Claim.SAME_FILE and (other.failed_in or other.state) in HAS_SETTLED:
            return Ignored(f"it is {other.metafile} under another path", found.evidence)
        if other.digest == digest and is_mirrored(montage.metafile, other.metafile):
            return Ignored(f"a copy on a mirror drive: {other.metafile}", found.evidence)
        if rival.shared:
            raise owned_fault(rival, montage.metafile, found, is_copy=other.digest == digest)
        return None

    async def present(self, montage: Montage) -> Claim | None:
        """Return the claim of a montage; None if its path cannot be accessed."""
        if not self._is_accessible(montage.watch):
            return None
        with contextlib.suppress(StorageFault):
            async with access_timeout(montage.metafile):
                return await asyncio.to_thread(claim_of, montage)
        return None


def find(rival: Montage, metafile: Path) -> Finding:
    """Return the claim of a rival, compared with a settling metafile. Blocking.

    Raises
    ------
    StaleInspection
        If the settling metafile itself is missing.
    StorageFault
        If one of the two cannot be accessed.
    """
    own, there = _look_at(metafile), _look_at(rival.metafile)
    if own is None:
        raise StaleInspection
    if there is not None and own.place == there.place:
        return Finding(Claim.SAME_FILE, _evidence(rival, there))
    return Finding(_claim(rival, there), _evidence(rival, there))


def claim_of(montage: Montage) -> Claim:
    """Return the claim of a montage. Blocking. Raises StorageFault if its path cannot be accessed."""
    return _claim(montage, _look_at(montage.metafile))


def _look_at(path: Path) -> Present | None:
    try:
        return find_metafile(path, follow_links=True)
    except OSError as error:
        raise reading_fault(str(path), "access the metafile", error) from error


def _evidence(rival: Montage, there: Present | None) -> Evidence:
    return Evidence(rival.metafile, there.identity if there else None, or_gone=True)


def _claim(rival: Montage, there: Present | None) -> Claim:
    if there is None:
        return Claim.GONE
    return Claim.PRESENT if there.identity.matches(rival.identity) else _claim_of_content(rival)


def _claim_of_content(rival: Montage) -> Claim:
    try:
        content = metafile_content(rival.metafile)
    except MetafileFault:
        return Claim.REPLACED
    except StorageFault as fault:
        if isinstance(fault.__cause__, FileNotFoundError | NotADirectoryError):
            return Claim.GONE
        raise
    return Claim.PRESENT if hashlib.sha256(content).hexdigest() == rival.digest else Claim.REPLACED


def is_over(rival: Rival, claim: Claim, digest: str) -> bool:
    """Whether a rival is superseded because its metafile is no longer at its path.

    Parameters
    ----------
    digest : SHA-256 of the settling metafile. It equals the rival's if the rival's metafile was moved.
    """
    owner = rival.montage
    if not rival.shared:
        return claim is Claim.GONE
    is_kept = owner.state in NEEDS_NO_METAFILE and owner.digest != digest
    return claim in (Claim.GONE, Claim.REPLACED) and not is_kept


def why_ended(claim: Claim, rival: Montage, metafile: Path, digest: str) -> str:
    """Return why a rival is superseded by the montage of another metafile."""
    if claim is Claim.GONE and rival.digest in (None, digest):
        return f"moved to {metafile}"
    found = "is gone" if claim is Claim.GONE else "has another content"
    return f"its metafile {found}, and {metafile} has its images"


def owned_fault(rival: Rival, metafile: Path, found: Finding, *, is_copy: bool) -> MetafileFault:
    """Return the fault of a metafile with tiles that another montage owns."""
    owner = rival.montage
    problem = (
        f"shares tiles with {owner.metafile} in {owner.raw_stack} at z {z_text(owner.z)} "
        f"({len(rival.shared)}, such as {rival.shared[0]}): each tile of a stack belongs to one montage"
    )
    release = f'`temwatch dismiss {owner.id} --reason "..."`'
    if found.claim in (Claim.GONE, Claim.REPLACED):
        is_now = "is gone" if found.claim is Claim.GONE else "has another content now"
        problem += f"; {owner.metafile} {is_now}, but its montage {owner.id} is {owner.state}"
        hint = (
            f"remove this metafile; to replace that montage instead: {release}, then this one is retried automatically"
        )
    elif owner.state in NEEDS_NO_METAFILE and not is_copy:
        hint = f"remove this metafile; to replace {owner.metafile} instead: remove that one, then {release}"
    else:
        hint = f"remove one of the two metafiles; when {owner.metafile} is removed, this one is retried automatically"
    return MetafileFault(str(metafile), problem, hint).with_evidence(found.evidence)


def namesake_fault(namesake: Namesake, metafile: Path) -> MetafileFault:
    """Return the fault of a metafile whose stack name was already made from another header value. Blocking."""
    other = namesake.montage.metafile
    evidence = replace(evidence_of(other), or_gone=True)
    return MetafileFault(
        str(metafile),
        f"its {namesake.field} is {excerpt(namesake.own_value)}, but stack {namesake.stack} contains {other} with "
        f"{excerpt(namesake.other_value)}: different values would share one stack",
        "correct the header of one of the two metafiles, or name stacks by another field",
    ).with_evidence(evidence)
