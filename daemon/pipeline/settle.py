"""Whether a metafile and its images have arrived whole, and what montage they make.

A metafile settles when its identity has not changed for a while, it parses, it does not contradict itself, and
every image that it names is there, whole, with the size that its header implies. Until then it is waited for, visibly.
"""

import asyncio
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from daemon.config.watch_settings import WatchSettings
from daemon.montages.records import Montage, Settled
from daemon.pipeline.metafile_cache import MetafileCache
from daemon.system.threads import answers_within
from handlers.acquisition.arrival import (
    Arrival,
    ImageProblem,
    check_images,
    depth_warnings,
    not_a_metafile,
    read_metafile,
    too_large,
)
from handlers.acquisition.consistency import Finding, Severity, check_metafile
from handlers.acquisition.metafile import Metafile
from handlers.acquisition.parse import MAX_METAFILE_BYTES
from handlers.acquisition.tilespec import tile_ids_for
from handlers.acquisition.z import ZRule, check_z, z_for
from handlers.errors import (
    Evidence,
    ImageFault,
    ImagesMissing,
    MetafileFault,
    MetafilePartial,
    RenderRefused,
    SettingsFault,
    ZFault,
    storage_fault,
)
from handlers.identity import FileIdentity
from handlers.render.names import StackId, legal_stack_name
from handlers.text import abbreviate

PATIENCE = 30
"""A file that is not whole, and has not changed for this many settle times, is broken and not on its way."""
PATIENCE_AT_LEAST_S = 2.0
LEAST_PAUSE_S = 0.1
NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class NotYet:
    """Something is awaited."""

    reason: str
    again_in_s: float


@dataclass(frozen=True, slots=True)
class Ignored:
    """The watch does not ingest this set."""

    reason: str
    evidence: Evidence | None = None
    """The file that has to change before it is looked at again, if there is one."""


@dataclass(frozen=True, slots=True)
class Read:
    """A metafile that was read, and did not change meanwhile."""

    content: bytes
    digest: str
    """sha256 of the content."""
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class _Awaited:
    """One image that is not there or not whole; while it does not change the others need not be looked at."""

    problem: ImageProblem
    since: float
    until_timeout: bool
    """Whether it is waited for until `arrival_timeout_s`; otherwise until it has not changed for a while."""


@dataclass(slots=True)
class _Observation:
    """What was seen of a metafile that has not settled. In memory only: after a restart it is observed anew."""

    identity: FileIdentity
    since: float
    awaited: _Awaited | None = None
    fingerprint: int | None = None
    """Of the identities of all images, when all of them were whole at the last look."""
    fingerprint_since: float = 0.0


@dataclass(frozen=True, slots=True)
class _Age:
    """How old a montage was when this process saw it first."""

    changed_at: float
    """Of the montage, when it was noticed last; seconds since 1970."""
    seen_at: float
    """Monotonic."""
    then_s: float


class Settler:
    """Observes metafiles until they settle.

    Parameters
    ----------
    clock : monotonic seconds, for quiet times.
    wall_clock : seconds since 1970, for the age of what the journal noticed.
    metafiles : where those that parse are kept for the steps that follow.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        metafiles: MetafileCache | None = None,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._metafiles = metafiles or MetafileCache()
        self._observed: dict[int, _Observation] = {}
        self._ages: dict[int, _Age] = {}

    def forget(self, montage_id: int) -> None:
        """Drops what was observed of a montage that needs no more settling."""
        self._observed.pop(montage_id, None)
        self._ages.pop(montage_id, None)

    async def not_yet(self, montage: Montage, watch: WatchSettings) -> NotYet | Ignored | None:
        """What is awaited before the metafile is worth reading, or None. Looks at file attributes only.

        Raises
        ------
        MetafileFault
            If it is not a regular file, too large, or has been gone for `arrival_timeout_s`.
        StorageFault
            If it cannot be looked at.
        """
        if pattern := next((glob for glob in watch.ignore if fnmatchcase(montage.metafile.name, glob)), None):
            return Ignored(f"its name matches ignore = {pattern}")
        async with answers_within(montage.metafile):
            identity = await asyncio.to_thread(_identity_of, montage.metafile, watch.directory)
        if identity is None:
            return self._gone(montage, watch)
        observation = self._observed.get(montage.id)
        if observation is None or observation.identity != identity:
            self._observed[montage.id] = _Observation(identity, self._clock())
            return NotYet("the metafile is new or still changing", watch.settle_s)
        quiet_s = self._clock() - observation.since
        if quiet_s < watch.settle_s:
            return NotYet("the metafile is new or still changing", watch.settle_s - quiet_s)
        return await self._image_awaited(observation, montage, watch)

    def _gone(self, montage: Montage, watch: WatchSettings) -> NotYet:
        self._observed.pop(montage.id, None)
        if self._age_s(montage) > watch.arrival_timeout_s:
            raise MetafileFault(
                str(montage.metafile),
                f"is gone since it was noticed, for more than {watch.arrival_timeout_s:g} s",
                "copy it there again, and it is taken up by itself",
            ).with_evidence(Evidence(montage.metafile, None))
        return NotYet("the metafile is gone; it may come back", watch.scan_interval_s)

    def _age_s(self, montage: Montage) -> float:
        """Seconds since the montage was noticed; the wall clock, which may be set, is asked once in each process."""
        age = self._ages.get(montage.id)
        if age is None or age.changed_at != montage.changed_at:
            age = _Age(montage.changed_at, self._clock(), max(0.0, self._wall_clock() - montage.changed_at))
            self._ages[montage.id] = age
        return age.then_s + self._clock() - age.seen_at

    async def _image_awaited(self, observation: _Observation, montage: Montage, watch: WatchSettings) -> NotYet | None:
        awaited = observation.awaited
        if awaited is None:
            return None
        async with answers_within(awaited.problem.path):
            present = (await asyncio.to_thread(Evidence.of, awaited.problem.path)).identity
        if present != awaited.problem.identity or self._is_too_late(awaited, montage, watch):
            return None
        return NotYet(f"image {awaited.problem.why}", self._pause_s(observation, watch))

    def _is_too_late(self, awaited: _Awaited, montage: Montage, watch: WatchSettings) -> bool:
        if awaited.until_timeout:
            return self._age_s(montage) > watch.arrival_timeout_s
        return self._clock() - awaited.since >= patience_s(watch)

    def _pause_s(self, observation: _Observation, watch: WatchSettings) -> float:
        """Seconds until the next look: an eighth of the time waited so far, at most a scan's interval.

        So what arrives is seen soon against the time that it took, and what never arrives costs little.
        """
        waited_s = self._clock() - observation.since
        return float(min(watch.scan_interval_s, max(LEAST_PAUSE_S, watch.settle_s, waited_s / 8)))

    async def read(self, montage: Montage) -> Read | None:
        """The metafile; None if it changed while it was being read."""
        async with answers_within(montage.metafile):
            content = await read_metafile(montage.metafile)
            identity = await asyncio.to_thread(_stat_identity, montage.metafile)
        observation = self._observed.get(montage.id)
        if observation is None or identity != observation.identity:
            return None
        return Read(content, hashlib.sha256(content).hexdigest(), identity)

    async def examine(
        self, montage: Montage, watch: WatchSettings, content: bytes, digest: str, stack_id: Callable[[str], StackId]
    ) -> Settled | NotYet | Ignored:
        """The settled montage, or what is still awaited.

        Raises
        ------
        Fault
            If the metafile or its images cannot be meant, or did not become whole in time.
        """
        try:
            metafile = await self._metafiles.parse(content, digest, str(montage.metafile))
        except MetafilePartial as fault:
            return self._partial(montage, watch, fault)
        if metafile.header.is_reference and watch.reference_sets == "ignore":
            return Ignored("a lens-correction set, and reference_sets = ignore")
        async with answers_within(watch.z.table or montage.metafile, looks=len(metafile.tiles)):
            settled = await asyncio.to_thread(settled_of, metafile, montage.metafile, digest, watch, stack_id)
        async with answers_within(montage.metafile.parent, looks=len(metafile.tiles)):
            arrival = await asyncio.to_thread(check_images, metafile, montage.metafile.parent)
        awaited = self._awaited(montage, arrival, len(metafile.tiles), watch)
        warnings = depth_warnings(arrival.bits, watch.tilespecs.maximum_intensity)
        return awaited or replace(settled, findings=(*settled.findings, *warnings))

    def _partial(self, montage: Montage, watch: WatchSettings, fault: MetafilePartial) -> NotYet:
        observation = self._observed[montage.id]
        quiet_s = self._clock() - observation.since
        if quiet_s < patience_s(watch):
            return NotYet(f"the metafile is not whole yet: {fault.problem}", self._pause_s(observation, watch))
        raise MetafileFault(
            fault.subject,
            f"{fault.problem}, and has not changed for {quiet_s:.0f} s",
            "write it again; a new version is taken up by itself",
        )

    def _awaited(self, montage: Montage, arrival: Arrival, image_count: int, watch: WatchSettings) -> NotYet | None:
        """Return what image is awaited; None if all are there, whole and quiet."""
        observation = self._observed[montage.id]
        on_their_way = {problem.path for problem in arrival.placeholders}
        broken = tuple(problem for problem in arrival.unreadable if problem.path not in on_their_way)
        late = (*arrival.missing, *arrival.placeholders)
        if not broken and not late:
            observation.awaited = None
            return self._still_changing(observation, arrival, watch)
        observation.fingerprint = None
        awaited = self._wait_for(observation, (*broken, *late)[0], until_timeout=not broken)
        if self._is_too_late(awaited, montage, watch):
            fault = _broken_fault(montage, broken) if broken else _late_fault(montage, arrival, watch)
            # As it was before it was read: one that is replaced meanwhile is another.
            raise fault.with_evidence(Evidence(awaited.problem.path, awaited.problem.identity))
        reason = f"{len(broken) + len(late)} of {image_count} images are not there yet: {awaited.problem.why}"
        return NotYet(reason, self._pause_s(observation, watch))

    def _wait_for(self, observation: _Observation, problem: ImageProblem, *, until_timeout: bool) -> _Awaited:
        before = observation.awaited
        is_same = before is not None and (before.problem.path, before.problem.identity) == (
            problem.path,
            problem.identity,
        )
        since = before.since if before is not None and is_same else self._clock()
        observation.awaited = _Awaited(problem, since, until_timeout)
        return observation.awaited

    def _still_changing(self, observation: _Observation, arrival: Arrival, watch: WatchSettings) -> NotYet | None:
        """Return what to wait for while images may still be written; None if all are quiet.

        Copy programs give a file its length, and any modification time, before its content. The change time alone
        tells: every write sets it, and no program can. Images that have not changed since the metafile did are quiet;
        the others are if none of them changes for `settle_s`.
        """
        now, reason = self._clock(), "images are new or still changing"
        if arrival.newest_ctime_ns <= (observation.identity.ctime_ns or 0):
            return None
        if arrival.fingerprint != observation.fingerprint:
            observation.fingerprint, observation.fingerprint_since = arrival.fingerprint, now
            return NotYet(reason, watch.settle_s)
        quiet_s = now - observation.fingerprint_since
        return NotYet(reason, watch.settle_s - quiet_s) if quiet_s < watch.settle_s else None


def settled_of(
    metafile: Metafile, path: Path, digest: str, watch: WatchSettings, stack_id: Callable[[str], StackId]
) -> Settled:
    """What a metafile makes in a watch, its images aside. Reads the table of z where there is one.

    Raises
    ------
    Fault
        If the metafile cannot be meant, or no z or stack name follows from it.
    """
    rule, z = _rule_and_z(metafile, path, watch)
    checked = (*check_metafile(metafile, path.name), *check_z(metafile, z, rule))
    findings = _findings(path, checked, strict=watch.strict)
    try:
        raw, mipmapped = _stacks(metafile, watch, stack_id)
    except RenderRefused as fault:
        problem = f"its stack would be {fault.subject}, which {fault.problem}"
        raise MetafileFault(str(path), problem, fault.hint) from None
    ids = tile_ids_for(metafile, z, watch.tilespec_options())
    return Settled(digest, z, str(raw), str(mipmapped), ids, findings)


def _rule_and_z(metafile: Metafile, path: Path, watch: WatchSettings) -> tuple[ZRule, float]:
    table = watch.z.table
    before = Evidence.of(table) if table else None
    try:
        rule = watch.to_z_rule()
        return rule, z_for(metafile, path, rule)
    except (ZFault, SettingsFault) as fault:
        raise fault.with_evidence(before) if before else fault from None


def _lstat(path: Path) -> os.stat_result | None:
    """What a path leads to, links not followed; None if it is gone."""
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_fault(str(path), "look at the metafile", error) from error


def _stat_identity(path: Path) -> FileIdentity | None:
    found = _lstat(path)
    return FileIdentity.of(found) if found else None


def _identity_of(path: Path, root: Path) -> FileIdentity | None:
    """Identity of a metafile that may be read; None if it is gone. It is looked at once: it may go at any moment."""
    found = _lstat(path)
    if found is None:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise not_a_metafile(path)
    if not _is_within(path, root):
        raise MetafileFault(str(path), f"lies outside {root} when links are followed", "watch the directory it lies in")
    if found.st_size > MAX_METAFILE_BYTES:
        raise too_large(path, str(found.st_size))
    return FileIdentity.of(found)


def _is_within(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, until Python 3.13
        reason = error if isinstance(error, OSError) else OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise storage_fault(str(path), "follow the links to the metafile", reason) from error


def patience_s(watch: WatchSettings) -> float:
    """Seconds after which a file that is not whole, and has not changed, is broken and not on its way."""
    return float(max(PATIENCE_AT_LEAST_S, PATIENCE * watch.settle_s))


def _findings(path: Path, findings: tuple[Finding, ...], *, strict: bool) -> tuple[str, ...]:
    wrong = [finding.text for finding in findings if strict or finding.severity is Severity.ERROR]
    if wrong:
        hint = "with strict = false warnings do not stop a montage" if strict else "see what wrote this metafile"
        raise MetafileFault(str(path), abbreviate(wrong, NAMES_SHOWN, "; "), hint)
    return tuple(finding.text for finding in findings)


def _stacks(metafile: Metafile, watch: WatchSettings, stack_id: Callable[[str], StackId]) -> tuple[StackId, StackId]:
    facts = watch.name_facts(metafile)
    raw = stack_id(legal_stack_name(watch.stacks.raw, facts))
    mipmapped = stack_id(legal_stack_name(watch.stacks.mipmapped, facts)) if watch.stacks.mipmapped else raw
    return raw, mipmapped


def _broken_fault(montage: Montage, broken: Sequence[ImageProblem]) -> ImageFault:
    problem = f"{len(broken)} of its images cannot be used: {_shown(broken)}"
    hint = f"{broken[0].hint}; the montage is then taken up by itself"
    return ImageFault(str(montage.metafile), problem, hint)


def _late_fault(montage: Montage, arrival: Arrival, watch: WatchSettings) -> ImagesMissing:
    late = (*arrival.missing, *arrival.placeholders)
    problem = f"{len(late)} of its images have not arrived in {watch.arrival_timeout_s:g} s: {_shown(late)}"
    hint = "copy them there again; the montage is then taken up by itself"
    if not arrival.missing:
        hint = f"if they are whole, set their times, as in: touch {arrival.placeholders[0].path}; if not, {hint}"
    return ImagesMissing(str(montage.metafile), problem, hint)


def _shown(problems: Sequence[ImageProblem]) -> str:
    return abbreviate([problem.why for problem in problems], NAMES_SHOWN, "; ")
