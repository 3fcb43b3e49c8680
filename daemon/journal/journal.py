"""Persistent record of montages, their events and attempts in one SQLite file.

An event and the state that follows it are committed together with `synchronous=FULL`. Every acknowledged record
survives a crash of the process and of the machine.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import structlog

from daemon.journal.stacks import JournalStacks
from daemon.journal.tables import images_read, quality, retries, rows, settling, sightings, trends, verdicts
from daemon.journal.transaction import Connection
from daemon.montages.records import AwaitedFile, Inspection, Montage, Outcome, Settled, SettleResult
from daemon.montages.sighting import Sighting
from daemon.montages.states import Event, MontageState, Step
from daemon.montages.verdicts import Decision
from handlers.errors import Evidence, Fault
from handlers.images.digest import FileContent
from handlers.quality.rules import Judgement
from handlers.quality.trend import Trend

log = structlog.get_logger()


class Journal(JournalStacks):
    """The journal: queries, attempts and the use of stacks by its base classes, and all other records.

    Open it with `async with Journal(path) as journal`.

    Parameters
    ----------
    clock : seconds since 1970 UTC.
    steady : monotonic clock for ages, seconds.
    read_only : open an existing journal for reading, even beside a running daemon. Nothing is created or migrated, and
        a journal that cannot be read raises a fault at once.
    examination : an examination of this file that is already running.

    Raises
    ------
    SettingsFault
        If the file was written by a newer temwatch, is damaged, or is not a journal.
    StorageFault
        If the file cannot be opened, or cannot be written although `read_only` is false.
    """

    # --- sightings

    async def notice(self, sighting: Sighting) -> int | None:
        """Return the id of the montage that the sighting creates or resets to NOTICED; None if the file is known."""
        return await self._notice(lambda connection, now: sightings.notice(connection, sighting, now))

    async def notice_again(self, sighting: Sighting) -> int:
        """Return the id of the montage of a metafile that is to be read again, even if the journal knows its identity.

        A known content is recognised when the metafile settles.
        """
        montage_id = await self._notice(lambda connection, now: sightings.notice(connection, sighting, now, force=True))
        assert montage_id is not None
        return montage_id

    async def notice_changed(self, montage_id: int, sighting: Sighting) -> int | None:
        """Return the id of the montage for the new content of an unfinished montage's metafile.

        None if the montage is no longer unfinished, or if the metafile was noticed again since; then the later sighting
        takes effect.
        """
        return await self._notice(
            lambda connection, now: sightings.notice_changed(connection, montage_id, sighting, now)
        )

    async def _notice(self, notice: Callable[[Connection, float], int | None]) -> int | None:
        """Return the id of the noticed montage, and start its age if it is new."""

        def work(connection: Connection) -> tuple[int | None, bool]:
            now = self._clock()
            montage_id = notice(connection, now)
            montage = rows.find(connection, rows.BY_ID, (montage_id,)) if montage_id is not None else None
            return montage_id, montage is not None and montage.noticed_at == now

        montage_id, is_new = await self.write(work)
        if montage_id is not None and is_new:
            self._ages.begin(montage_id)
        return montage_id

    # --- settling

    async def recognise(self, inspection: Inspection) -> SettleResult | None:
        """Merge the montage into the one that settled earlier with the same content; None if there is none.

        Raises
        ------
        StaleInspection
            If the metafile was noticed again since it was read. `settle`, `refuse` and `ignore` raise it, too.
        """
        return await self.write(lambda connection: settling.recognise(connection, inspection, self._clock()))

    async def settle(
        self,
        inspection: Inspection,
        settled: Settled,
        *,
        moved: Mapping[Montage, str] | None = None,
        unrelated: Collection[int] = (),
    ) -> SettleResult:
        """Record that a metafile has settled, unless rivals have to be checked first; then the result lists them.

        Parameters
        ----------
        moved : rival whose metafile no longer holds its content, as it was when that was checked -> the reason. These
            rivals are superseded, and so are the other contents of the path.
        unrelated : ids of checked rivals that are other files and own no tile of this montage.
        """
        return await self.write(
            lambda connection: settling.settle(connection, inspection, settled, moved or {}, unrelated, self._clock())
        )

    async def refuse(self, inspection: Inspection, fault: Fault) -> SettleResult:
        """Record that a metafile cannot be ingested: its montage FAILED before it settled.

        If the content was read, the other contents of the path that are not COMPLETE are superseded.
        """
        result, montage = await self.write(
            lambda connection: settling.refuse(connection, inspection, fault, self._clock())
        )
        _log_failure(montage, fault)
        return result

    async def ignore(self, inspection: Inspection, reason: str, evidence: Evidence | None = None) -> SettleResult:
        """Record that the content of a metafile is not ingested, and why.

        Parameters
        ----------
        evidence : the file whose change makes the daemon read the metafile again; None if there is none.
        """
        return await self.write(
            lambda connection: settling.ignore(connection, inspection, reason, evidence, self._clock())
        )

    async def wait(self, montage_id: int, reason: str, digest: str | None = None) -> None:
        """Record what a montage is waiting for.

        Parameters
        ----------
        reason : one sentence for the operator.
        digest : SHA-256 of the metafile's content, if it was read.
        """
        await self.write(lambda connection: settling.wait(connection, montage_id, reason, digest))

    async def withdraw(self, refused: AwaitedFile) -> bool:
        """Supersede a montage whose metafile is gone and that was not ingested because of another metafile.

        Returns whether the montage was superseded.
        """
        return await self.write(lambda connection: retries.withdraw(connection, refused, self._clock()))

    async def move(self, montage: Montage, onto: Montage) -> tuple[Montage, ...]:
        """Record that a metafile moved to the path of another montage; return the superseded montages.

        These are the montage itself, and the unfinished, FAILED and IGNORED montages that it had replaced at its former
        path. If the montage changed meanwhile, the result is empty and nothing is recorded.
        """
        return await self.write(lambda connection: settling.move(connection, montage, onto, self._clock()))

    async def restore(self, sighting: Sighting, settled: Settled, state: MontageState, evidence: str) -> int | None:
        """Insert a montage in the state that stacks and files prove; return its id.

        If a montage of another metafile owns some of its tiles, nothing is inserted and the result is None.
        """
        return await self.write(
            lambda connection: settling.restore(connection, sighting, settled, state, evidence, self._clock())
        )

    # --- outcomes of steps

    async def record(
        self,
        montage_id: int,
        event: Event,
        *,
        attempt: int | None = None,
        quality_numbers: bytes | None = None,
        **detail: object,
    ) -> Montage:
        """Record an event and the state that follows; return the montage.

        Parameters
        ----------
        attempt : id of the attempt that caused the event, and ends with it.
        quality_numbers : packed quality numbers of the montage, stored with the event MIPMAPPED only.
        detail : stored with the event as JSON.
        """

        def work(connection: Connection) -> Montage:
            if event is Event.MIPMAPPED:
                images_read.keep(connection, montage_id)
                quality.store(connection, montage_id, quality_numbers)
            now = self._clock()
            if attempt is not None:
                rows.end_attempt(connection, attempt, Outcome.DONE, None, now)
            return rows.record(connection, montage_id, event, now, detail)

        return await self.write(work)

    async def fail(self, montage_id: int, fault: Fault) -> Montage:
        """Record that a montage failed because of a fault; log the same texts that status and pages show."""
        montage = await self.write(lambda connection: settling.fail(connection, montage_id, fault, self._clock()))
        _log_failure(montage, fault)
        return montage

    async def retry(self, montage_id: int, because: str) -> Montage | None:
        """Resume a FAILED or IGNORED montage where it stopped; return it. None as for `replay`."""
        return await self.write(lambda connection: retries.retry(connection, montage_id, because, self._clock()))

    async def replay(self, montage_id: int, step: Step, user: str | None = None) -> Montage | None:
        """Reset a COMPLETE, FAILED or DISMISSED montage to a step; return it.

        A montage that failed before this step resumes where it failed. The result is None and nothing is recorded if
        the montage is in another state, or if its metafile has to be read and was noticed again since; then the later
        sighting takes effect.
        """
        return await self.write(lambda connection: retries.replay(connection, montage_id, step, self._clock(), user))

    async def dismiss(
        self,
        montage_id: int,
        reason: str,
        user: str | None = None,
        state: MontageState = MontageState.FAILED,
    ) -> Montage | None:
        """Record that an operator dismissed a montage; return it. None if the montage is not in `state`.

        A dismissed montage is not retried automatically. A replay undoes the dismissal.
        """
        now = self._clock()
        return await self.write(lambda connection: retries.dismiss(connection, montage_id, reason, now, user, state))

    # --- images

    async def record_tiles(
        self,
        montage_id: int,
        contents: Mapping[str, FileContent | None],
        measured: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Record tiles whose mipmaps are made and verified, each with its image as it was read, if that is known.

        Parameters
        ----------
        measured : tile id -> packed numbers that a worker measured in the image.
        """
        await self.write(
            lambda connection: images_read.record_tiles(connection, montage_id, contents, measured, self._clock())
        )

    async def adopt_images(self, montage_id: int, contents: Mapping[str, FileContent]) -> None:
        """Store the new identities of images whose bytes have not changed."""
        await self.write(lambda connection: images_read.adopt(connection, montage_id, contents))

    async def change_images(self, montage_id: int, changed: Mapping[str, str]) -> Montage:
        """Reset a montage so that the mipmaps of changed images are made again; return it.

        Parameters
        ----------
        changed : tile id -> name of its image.

        Raises
        ------
        IllegalTransition
            If the montage is no longer MIPMAPPED, APPLIED or COMPLETE.
        """
        return await self.write(lambda connection: images_read.change(connection, montage_id, changed, self._clock()))

    async def end_watching_images(self, montage_id: int) -> None:
        """Record that the images of a montage are no longer rechecked."""
        await self.write(lambda connection: images_read.end_watch(connection, montage_id))

    # --- verdicts

    async def judge(
        self, montage_id: int, judgement: Judgement, focus: float | None, trend: Trend | None = None
    ) -> Montage:
        """Record the verdict of the rules; return the montage.

        A verdict that differs from the recorded one is announced and removes a person's decision.

        Parameters
        ----------
        focus : median focus score of the tiles; None if unknown.
        trend : medians of the quality numbers, for the trends of the microscope; None: not recorded.
        """

        def work(connection: Connection) -> Montage:
            if trend is not None:
                trends.store(connection, montage_id, trend)
            return verdicts.judge(connection, montage_id, judgement, focus, self._clock())

        return await self.write(work)

    async def decide(self, montage_id: int, decision: Decision, by: str, note: str) -> Montage | None:
        """Record a person's decision in place of the rules' verdict; return the montage, None if there is none."""
        return await self.write(
            lambda connection: verdicts.decide(connection, montage_id, decision, by, note, self._clock())
        )


def _log_failure(montage: Montage, fault: Fault) -> None:
    log.error(
        "montage.failed",
        watch=montage.watch,
        montage=montage.id,
        metafile=str(montage.metafile),
        z=montage.z,
        stack=montage.raw_stack,
        kind=type(fault).__name__,
        subject=fault.subject,
        problem=fault.problem,
        hint=fault.hint,
        failed_in=montage.failed_in,
        attempt=montage.attempt,
    )
