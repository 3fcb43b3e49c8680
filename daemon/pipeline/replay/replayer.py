"""Plan the replay of the selected montages, and enqueue them in the pipeline."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Step
from daemon.pipeline.replay.lookup import Lookup
from daemon.pipeline.replay.selection import Action, Candidate, Plan, ReplayRequest, plan
from daemon.pipeline.runner import PipelineRunner

log = structlog.get_logger()


class Replayer:
    """Plans replays and starts them in a pipeline, one request at a time."""

    def __init__(self, settings: Callable[[], Settings], journal: Journal, pipeline: PipelineRunner) -> None:
        self._settings = settings
        self._journal = journal
        self._pipeline = pipeline
        self._one_at_a_time = asyncio.Lock()

    async def replay(self, request: ReplayRequest, user: str | None = None) -> list[Plan]:
        """Return the plan for each selected montage, after starting it unless the request is a dry run.

        Parameters
        ----------
        user : name of the operator, if known.

        Raises
        ------
        Fault
            If the selection is invalid, a directory cannot be accessed, or the journal cannot be written.
        """
        async with self._one_at_a_time:
            selected = await Lookup(self._settings, self._journal).candidates(request)
            planned = [(candidate, plan_within(candidate, request.step, self._settings())) for candidate in selected]
            if request.dry_run:
                return [each for _, each in planned]
            if self._journal.fault is not None:  # otherwise the caller would wait until the disk is repaired
                raise self._journal.fault
            return [await self._start(candidate, each, request.step, user) for candidate, each in planned]

    async def _start(self, candidate: Candidate, planned: Plan, step: Step, user: str | None) -> Plan:
        if planned.action is Action.REFUSE:
            return planned
        if planned.action is Action.NOTICE:
            montage_id = await self._journal.notice_again(_sighting(candidate))
            planned = replace(planned, montage_id=montage_id)
            await self.enqueue(await self._journal.montage(montage_id))
        elif planned.montage_id is not None:
            replayed = planned.action is Action.REPLAY and await self._journal.replay(planned.montage_id, step, user)
            await self.enqueue(replayed or await self._journal.montage(planned.montage_id), force=bool(replayed))
        facts = {"note": planned.note, **({"by": user} if user else {})}
        log.info("montage.replayed", montage=planned.montage_id, metafile=str(planned.metafile), **facts)
        return planned

    async def enqueue(self, montage: Montage | None, *, force: bool = False) -> None:
        """Enqueue a montage, if there is one; with `force`, a waiting ticket is replaced."""
        if montage is not None:
            await self._pipeline.enqueue(montage, force=force)


def plan_within(candidate: Candidate, step: Step, settings: Settings) -> Plan:
    """Return the plan for a candidate; REFUSE if its watch is no longer configured."""
    planned = plan(candidate, step)
    current = candidate.current
    # A known montage keeps the watch that found it; a noticed metafile gets the watch that contains it now.
    keeps_watch = current is not None and planned.action in (Action.REPLAY, Action.WAIT)
    watch = current.watch if current is not None and keeps_watch else candidate.watch
    if watch in {each.name for each in settings.watch}:
        return planned
    note = f"its watch {watch} is not in the configuration"
    return replace(planned, action=Action.REFUSE, start=None, note=note)


def _sighting(candidate: Candidate) -> Sighting:
    found = candidate.on_disk
    assert found is not None
    return Sighting(candidate.watch, candidate.metafile, found.identity, FoundBy.REPLAY)


def plan_json(planned: Plan) -> dict[str, Any]:
    """Return a plan as JSON for `POST /api/replay`."""
    return {
        "id": planned.montage_id,
        "metafile": str(planned.metafile),
        "watch": planned.watch,
        "action": str(planned.action),
        "state": planned.state,
        "z": planned.z,
        "start": planned.start,
        "note": planned.note,
    }
