"""Sources of a replay's progress: the running daemon or the journal."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from daemon.commands.daemon_client import ask
from daemon.commands.replay.requests import parameter
from daemon.journal.journal import Journal
from daemon.montages.presentation import montage_json
from daemon.montages.states import MontageState
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.selection import ReplayRequest
from handlers.errors import Fault

Row = dict[str, Any]
"""JSON of a montage as in `GET /api/montages`, or of a plan as in `POST /api/replay`."""

PLANNING_S = 3600.0
"""Time-out of `POST /api/replay`: the daemon may have to search large directories."""
UNRESPONSIVE_S = 60.0
"""Time for which requests to an unresponsive daemon are repeated."""


class DaemonUnresponsive(Fault):
    """The daemon that executes the replay does not respond."""


class Source(Protocol):
    """Reads the present state of montages."""

    async def by_id(self, ids: Sequence[int]) -> list[Row]:
        """Return the montages with these ids that still exist."""

    async def of_metafile(self, metafile: str) -> Row | None:
        """Return the newest montage of a metafile that is not SUPERSEDED."""


class DaemonSource:
    """The running daemon."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._token = token

    async def replay(self, request: ReplayRequest) -> list[Row]:
        """Return the daemon's plan for each montage that the request selects.

        Raises
        ------
        NotSelectable
            If the daemon refuses the request.
        Fault
            If the daemon does not respond, or cannot replay.
        """
        body = request.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        answer = await asyncio.to_thread(ask, f"{self.url}/api/replay", body, self._token, PLANNING_S)
        if answer is None:
            hint = "wait until it is ready, or stop it and replay without it"
            raise DaemonUnresponsive(self.url, "a daemon holds this journal but does not respond", hint)
        status, content = answer
        if status in (200, 202):
            rows: list[Row] = content["montages"]
            return rows
        if status == 400:
            key, _, text = str(content.get("error", "")).partition(": ")
            raise NotSelectable(parameter(key), text)
        raise DaemonUnresponsive(self.url, f"the daemon answered {status}: {content.get('error', content)}")

    async def by_id(self, ids: Sequence[int]) -> list[Row]:
        numbers = ",".join(map(str, ids))
        return await self._montages(f"id={numbers}&limit={len(ids)}")

    async def of_metafile(self, metafile: str) -> Row | None:
        return _newest(await self._montages(f"metafile={quote(metafile, errors='surrogateescape')}&limit=100"))

    async def _montages(self, query: str) -> list[Row]:
        loop = asyncio.get_running_loop()
        end = loop.time() + UNRESPONSIVE_S
        while True:
            answer = await asyncio.to_thread(ask, f"{self.url}/api/montages?{query}")
            if answer is not None and answer[0] == 200:
                rows: list[Row] = answer[1]["montages"]
                return rows
            if loop.time() >= end:
                hint = "the replay is recorded in its journal and resumes when the daemon starts again"
                raise DaemonUnresponsive(self.url, f"the daemon has not answered for {UNRESPONSIVE_S:g} s", hint)
            await asyncio.sleep(1)


class JournalSource:
    """The journal, if this process executes the replay."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def by_id(self, ids: Sequence[int]) -> list[Row]:
        return [montage_json(row) for row in await self._journal.montages(ids=ids, limit=len(ids))]

    async def of_metafile(self, metafile: str) -> Row | None:
        rows = await self._journal.montages(metafile=Path(metafile), limit=100, newest_first=True)
        return _newest([montage_json(row) for row in rows])


def _newest(rows: list[Row]) -> Row | None:
    return next((row for row in rows if row["state"] != MontageState.SUPERSEDED), None)
