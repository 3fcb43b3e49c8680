"""Settling: wait until a metafile and its images are complete, then read the metafile.

A metafile settles when its identity has not changed for `settle_s`, it is valid and consistent, and every image in it
is present, complete and of the size that its header implies. Until then the reason for waiting is shown.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from daemon.config.render_settings import RenderSettings
from daemon.config.watch_settings import WatchSettings
from daemon.montages.records import Montage, Settled
from daemon.pipeline.settling.interpret import interpret_metafile
from daemon.pipeline.settling.metafile_cache import MetafileCache, content_digest
from daemon.pipeline.settling.metafile_identity import checked_identity, present_identity
from daemon.system.threads import access_timeout
from handlers.acquisition.arrival import Arrival, ImageProblem, check_images, depth_warnings, read_metafile, with_sizes
from handlers.container import Container, Containers
from handlers.errors import Evidence, ImageFault, ImagesMissing, MetafileFault, MetafileOpen, MetafilePartial
from handlers.identity import FileIdentity
from handlers.images.largest_image import LARGEST_IMAGE_PX
from handlers.text import abbreviate

INCOMPLETE_TIMEOUT_FACTOR = 30
"""Number of settle times after which an incomplete file that has not changed counts as broken."""
MIN_INCOMPLETE_TIMEOUT_S = 2.0
MIN_PAUSE_S = 0.1
NAMES_SHOWN = 10
STILL_CHANGING = "the metafile is new or still changing"


@dataclass(frozen=True, slots=True)
class NotYet:
    """The montage waits, for a reason and until a retry."""

    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Ignored:
    """The watch does not ingest this set."""

    reason: str
    evidence: Evidence | None = None
    """File whose change makes the daemon inspect the metafile again; None if there is none."""


@dataclass(frozen=True, slots=True)
class Read:
    """A metafile that did not change while it was read."""

    content: bytes
    digest: str
    """SHA-256 of the content."""
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class _AwaitedImage:
    """A missing or incomplete image. While it does not change, the other images need not be checked."""

    problem: ImageProblem
    since: float
    until_timeout: bool
    """Whether the montage waits for it up to `arrival_timeout_s`; otherwise until it has not changed for
    `incomplete_timeout_s`."""


@dataclass(slots=True)
class _Observation:
    """State of an unsettled metafile. It is kept in memory only: a restart begins a new observation."""

    identity: FileIdentity
    since: float
    root: Container
    """The watched directory."""
    awaited: _AwaitedImage | None = None
    fingerprint: int | None = None
    """Hash of the identities of all images, if all were complete at the last check."""
    fingerprint_since: float = 0.0


@dataclass(frozen=True, slots=True)
class _Age:
    """Age of a montage when this process first determined it."""

    changed_at: float
    """When the montage last changed; seconds since 1970 UTC."""
    asked_at: float
    """Monotonic seconds."""
    age_s: float


class Settler:
    """Observes metafiles until they settle.

    Parameters
    ----------
    clock : monotonic seconds, for quiet times.
    wall_clock : seconds since 1970 UTC, for the age of montages in the journal.
    metafiles : cache of parsed metafiles for the following steps.
    containers : containers of the watched directories.
    largest_image_px : largest allowed image, pixels. Metafiles of larger images are refused.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        metafiles: MetafileCache | None = None,
        containers: Containers | None = None,
        largest_image_px: int = LARGEST_IMAGE_PX,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._metafiles = metafiles or MetafileCache()
        self._containers = containers or Containers()
        self._largest_image_px = largest_image_px
        self._observed: dict[int, _Observation] = {}
        self._ages: dict[int, _Age] = {}

    def forget(self, montage_id: int) -> None:
        """Drop the observation of a montage that needs no further settling."""
        self._observed.pop(montage_id, None)
        self._ages.pop(montage_id, None)

    async def check(self, montage: Montage, watch: WatchSettings) -> NotYet | Ignored | None:
        """Return why the metafile must not be read yet; None if it can be read. Reads file attributes only.

        Raises
        ------
        MetafileFault
            If it is not a regular file, is too large, or has been missing for `arrival_timeout_s`.
        StorageFault
            If it cannot be accessed.
        """
        if pattern := next((glob for glob in watch.ignore if fnmatchcase(montage.metafile.name, glob)), None):
            return Ignored(f"its name matches ignore = {pattern}")
        async with access_timeout(montage.metafile):
            identity = await asyncio.to_thread(checked_identity, montage.metafile, watch.directory, self._containers)
        if identity is None:
            return self._missing(montage, watch)
        observation = self._observed.get(montage.id)
        if observation is None or observation.identity != identity:
            root = self._containers.of(watch.directory)
            self._observed[montage.id] = _Observation(identity, self._clock(), root)
            return NotYet(STILL_CHANGING, watch.settle_s)
        quiet_s = self._clock() - observation.since
        if quiet_s < watch.settle_s:
            return NotYet(STILL_CHANGING, watch.settle_s - quiet_s)
        return await self._check_awaited_image(observation, montage, watch)

    def _missing(self, montage: Montage, watch: WatchSettings) -> NotYet:
        self._observed.pop(montage.id, None)
        if self._age_s(montage) > watch.arrival_timeout_s:
            raise MetafileFault(
                str(montage.metafile),
                f"was removed after it was noticed, and has been missing for more than {watch.arrival_timeout_s:g} s",
                "copy it there again; then the montage is retried automatically",
            ).with_evidence(Evidence(montage.metafile, None))
        return NotYet("the metafile is missing; it may reappear", watch.scan_interval_s)

    def _age_s(self, montage: Montage) -> float:
        """Return the seconds since the montage was noticed.

        The wall clock can be set, so it is read only once for each montage and process.
        """
        age = self._ages.get(montage.id)
        if age is None or age.changed_at != montage.changed_at:
            age = _Age(montage.changed_at, self._clock(), max(0.0, self._wall_clock() - montage.changed_at))
            self._ages[montage.id] = age
        return age.age_s + self._clock() - age.asked_at

    async def _check_awaited_image(
        self, observation: _Observation, montage: Montage, watch: WatchSettings
    ) -> NotYet | None:
        awaited = observation.awaited
        if awaited is None:
            return None
        async with access_timeout(awaited.problem.path):
            present = (await asyncio.to_thread(Evidence.of, awaited.problem.path)).identity
        if present != awaited.problem.identity or self._is_overdue(awaited, montage, watch):
            return None
        return NotYet(f"image {awaited.problem.why}", self._pause_s(observation, watch))

    def _is_overdue(self, awaited: _AwaitedImage, montage: Montage, watch: WatchSettings) -> bool:
        if awaited.until_timeout:
            return self._age_s(montage) > watch.arrival_timeout_s
        return self._clock() - awaited.since >= incomplete_timeout_s(watch)

    def _pause_s(self, observation: _Observation, watch: WatchSettings) -> float:
        """Return the seconds until the next check: an eighth of the time waited so far, at most `scan_interval_s`.

        An image that arrives is found within an eighth of its delay; an image that never arrives costs few checks.
        """
        waited_s = self._clock() - observation.since
        return float(min(watch.scan_interval_s, max(MIN_PAUSE_S, watch.settle_s, waited_s / 8)))

    async def read(self, montage: Montage) -> Read | None:
        """Read and return the metafile; None if it changed meanwhile."""
        observation = self._observed.get(montage.id)
        if observation is None:
            return None
        async with access_timeout(montage.metafile):
            content = await read_metafile(montage.metafile, root=observation.root)
            identity = await asyncio.to_thread(present_identity, montage.metafile)
        if identity != observation.identity:
            return None
        return Read(content, await content_digest(content), identity)

    async def examine(
        self, montage: Montage, watch: WatchSettings, content: bytes, digest: str, render: RenderSettings
    ) -> Settled | NotYet | Ignored:
        """Return the values of a settled montage, or why it waits or is ignored.

        Raises
        ------
        Fault
            If the metafile or its images are invalid, or not complete in time.
        """
        try:
            acquisition = await self._metafiles.parse(content, digest, montage.metafile, watch.reader)
        except MetafilePartial as fault:
            return self._partial(montage, watch, fault)
        if acquisition.is_reference and watch.reference_sets == "ignore":
            return Ignored("a lens-correction set, and reference_sets = ignore")
        images, root = watch.reader.image_directory(montage.metafile), self._observed[montage.id].root
        async with access_timeout(images):
            acquisition = await asyncio.to_thread(with_sizes, acquisition, images, root)
        async with access_timeout(watch.z.table or montage.metafile, accesses=len(acquisition.tiles)):
            settled = await asyncio.to_thread(interpret_metafile, acquisition, montage.metafile, digest, watch, render)
        async with access_timeout(images, accesses=len(acquisition.tiles)):
            arrival = await asyncio.to_thread(check_images, acquisition, images, root, self._largest_image_px)
        not_yet = self._check_arrival(montage, arrival, len(acquisition.tiles), watch)
        warnings = depth_warnings(arrival.bits, watch.tilespecs.maximum_intensity)
        return not_yet or replace(settled, findings=(*settled.findings, *warnings))

    def _partial(self, montage: Montage, watch: WatchSettings, fault: MetafilePartial) -> NotYet:
        observation = self._observed[montage.id]
        quiet_s = self._clock() - observation.since
        timeout_s = watch.arrival_timeout_s if isinstance(fault, MetafileOpen) else incomplete_timeout_s(watch)
        if quiet_s < timeout_s:
            return NotYet(f"the metafile is incomplete: {fault.problem}", self._pause_s(observation, watch))
        raise MetafileFault(
            fault.subject,
            f"{fault.problem}, and has not changed for {quiet_s:.0f} s",
            "write it again; the new version is read automatically",
        )

    def _check_arrival(
        self, montage: Montage, arrival: Arrival, image_count: int, watch: WatchSettings
    ) -> NotYet | None:
        """Return the image for which the montage waits; None if all are present, complete and quiet."""
        observation = self._observed[montage.id]
        being_copied = {problem.path for problem in arrival.placeholders}
        broken = tuple(problem for problem in arrival.unreadable if problem.path not in being_copied)
        late = (*arrival.missing, *arrival.placeholders)
        if not broken and not late:
            observation.awaited = None
            return self._check_quiet(observation, arrival, watch)
        observation.fingerprint = None
        awaited = self._await(observation, (*broken, *late)[0], until_timeout=not broken)
        if self._is_overdue(awaited, montage, watch):
            fault = (
                _broken_fault(montage, broken, image_count)
                if broken
                else _late_fault(montage, arrival, image_count, watch)
            )
            # The identity before the check, so that an image that is replaced meanwhile counts as changed.
            raise fault.with_evidence(Evidence(awaited.problem.path, awaited.problem.identity))
        incomplete = len(broken) + len(late)
        reason = f"{incomplete} of {image_count} images missing or incomplete: {awaited.problem.why}"
        return NotYet(reason, self._pause_s(observation, watch))

    def _await(self, observation: _Observation, problem: ImageProblem, *, until_timeout: bool) -> _AwaitedImage:
        before = observation.awaited
        is_same = before is not None and (before.problem.path, before.problem.identity) == (
            problem.path,
            problem.identity,
        )
        since = before.since if before is not None and is_same else self._clock()
        observation.awaited = _AwaitedImage(problem, since, until_timeout)
        return observation.awaited

    def _check_quiet(self, observation: _Observation, arrival: Arrival, watch: WatchSettings) -> NotYet | None:
        """Return how long to wait while images may still be written; None if all are quiet.

        Copy programs set a file's length and modification time before its content is complete. Only the change time
        (ctime) is reliable: every write sets it, and no program can set it to an earlier time. Images that have not
        changed after the metafile are quiet; the others are quiet if none of them changes for `settle_s`.
        """
        now, reason = self._clock(), "images are new or still changing"
        if arrival.newest_ctime_ns <= (observation.identity.ctime_ns or 0):
            return None
        if arrival.fingerprint != observation.fingerprint:
            observation.fingerprint, observation.fingerprint_since = arrival.fingerprint, now
            return NotYet(reason, watch.settle_s)
        quiet_s = now - observation.fingerprint_since
        return NotYet(reason, watch.settle_s - quiet_s) if quiet_s < watch.settle_s else None


def incomplete_timeout_s(watch: WatchSettings) -> float:
    """Return the seconds after which an incomplete file that has not changed counts as broken."""
    return float(max(MIN_INCOMPLETE_TIMEOUT_S, INCOMPLETE_TIMEOUT_FACTOR * watch.settle_s))


def _broken_fault(montage: Montage, broken: Sequence[ImageProblem], image_count: int) -> ImageFault:
    problem = f"{len(broken)} of {image_count} images cannot be used: {_texts(broken)}"
    hint = f"{broken[0].hint}; the montage is then retried automatically"
    return ImageFault(str(montage.metafile), problem, hint)


def _late_fault(montage: Montage, arrival: Arrival, image_count: int, watch: WatchSettings) -> ImagesMissing:
    late = (*arrival.missing, *arrival.placeholders)
    problem = f"{len(late)} of {image_count} images did not arrive within {watch.arrival_timeout_s:g} s: {_texts(late)}"
    hint = "copy them there again; the montage is then retried automatically"
    if not arrival.missing:
        first = arrival.placeholders[0].path
        hint = f"if they are complete, set their times, for example: touch {first}; if not, {hint}"
    return ImagesMissing(str(montage.metafile), problem, hint)


def _texts(problems: Sequence[ImageProblem]) -> str:
    return abbreviate([problem.why for problem in problems], NAMES_SHOWN, "; ")
