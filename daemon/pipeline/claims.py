"""Whether another montage's claim on a tile stands: its metafile is there and holds what the montage stands for.

A tile belongs to one montage of a stack. Where two metafiles name it, the one that settled first keeps it until its
metafile is gone, moved, or holds something else.
"""

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from daemon.montages.records import Montage, Rival, StaleInspection
from handlers.acquisition.arrival import metafile_content
from handlers.errors import Evidence, MetafileFault, StorageFault, storage_fault
from handlers.identity import FileIdentity


class Claim(StrEnum):
    """What a montage's path holds now, as another metafile sees it."""

    STANDS = "stands"
    """What the montage stands for."""
    SAME_FILE = "same_file"
    """The other metafile itself: by a link, a bind mount, an overlapping watch."""
    GONE = "gone"
    """Nothing."""
    REPLACED = "replaced"
    """Another content."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim, and the file that was looked at."""

    claim: Claim
    evidence: Evidence
    """The rival's metafile: its being changed or gone ends the claim."""


def find(rival: Montage, metafile: Path) -> Finding:
    """Look at a rival's metafile from the side of another metafile. Blocking.

    Raises
    ------
    StaleInspection
        If the other metafile is gone itself.
    StorageFault
        If one of them cannot be accessed.
    """
    own, there = _stat(metafile), _stat(rival.metafile)
    if own is None:
        raise StaleInspection
    if there is not None and (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
        return Finding(Claim.SAME_FILE, _evidence(rival, there))
    return Finding(_claim(rival, there), _evidence(rival, there))


def claim_of(montage: Montage) -> Claim:
    """Return what a montage's path holds now. Blocking. Raises StorageFault if it cannot be accessed."""
    return _claim(montage, _stat(montage.metafile))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_fault(str(path), "look at the metafile", error) from error


def _evidence(rival: Montage, there: os.stat_result | None) -> Evidence:
    return Evidence(rival.metafile, FileIdentity.of(there) if there else None, or_gone=True)


def _claim(rival: Montage, there: os.stat_result | None) -> Claim:
    if there is None:
        return Claim.GONE
    return Claim.STANDS if FileIdentity.of(there).matches(rival.identity) else _claim_of_content(rival)


def _claim_of_content(rival: Montage) -> Claim:
    try:
        content = metafile_content(rival.metafile)
    except MetafileFault:
        return Claim.REPLACED
    except StorageFault as fault:
        if isinstance(fault.__cause__, FileNotFoundError | NotADirectoryError):
            return Claim.GONE
        raise
    return Claim.STANDS if hashlib.sha256(content).hexdigest() == rival.digest else Claim.REPLACED


def why_ended(claim: Claim, rival: Montage, metafile: Path, digest: str) -> str:
    """Say why a rival is superseded by the montage of another metafile."""
    if claim is Claim.GONE and rival.digest in (None, digest):
        return f"moved to {metafile}"
    what = "is gone" if claim is Claim.GONE else "holds something else"
    return f"its metafile {what}, and {metafile} names its images"


def taken(rival: Rival, metafile: Path, evidence: Evidence) -> MetafileFault:
    """Return the fault of a metafile that names tiles of a montage whose claim stands."""
    holder = rival.montage
    return MetafileFault(
        str(metafile),
        f"names {len(rival.shared)} tiles that {holder.metafile} holds in {holder.raw_stack} at z {holder.z:g}, "
        f"such as {rival.shared[0]}: an image belongs to one montage of a stack",
        f"take one of the two metafiles away; once {holder.metafile} is gone, this one is taken up by itself",
    ).with_evidence(evidence)
