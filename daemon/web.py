"""The daemon's HTTP face: liveness, readiness, metrics, and what the journal knows of each montage."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from daemon.health import Facts, Metrics, reasons_not_ready, warnings
from daemon.journal import Journal, Montage
from daemon.states import MontageState

LONGEST_LIST = 10_000
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(journal: Journal, metrics: Metrics, facts: Callable[[], Awaitable[Facts]]) -> web.Application:
    """The routes, answering from the journal and from `facts`."""
    app = web.Application(middlewares=[_answer_as_json], client_max_size=64 * 1024)
    pages = _Pages(journal, metrics, facts)
    app.add_routes(
        [
            web.get("/healthz", pages.healthz),
            web.get("/readyz", pages.readyz),
            web.get("/metrics", pages.metrics),
            web.get("/api/montages", pages.montages),
            web.get("/api/montages/{id}", pages.montage),
        ]
    )
    return app


@web.middleware
async def _answer_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Errors as JSON, one sentence."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return web.json_response({"error": error.reason}, status=error.status)


class _Pages:
    def __init__(self, journal: Journal, metrics: Metrics, facts: Callable[[], Awaitable[Facts]]) -> None:
        self._journal = journal
        self._metrics = metrics
        self._facts = facts

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the loop turns: an answer at all is the proof."""
        return web.json_response({"alive": True})

    async def readyz(self, _: web.Request) -> web.Response:
        """200, or 503 with the reasons."""
        facts = await self._facts()
        reasons = reasons_not_ready(facts)
        body = {
            "ready": not reasons,
            "reasons": list(reasons),
            "warnings": list(warnings(facts)),
            "watches": [
                {
                    "name": root.name,
                    "directory": str(root.directory),
                    "status": str(root.status),
                    "directories_seen": root.directories_seen,
                    "directories_watched": root.directories_watched,
                    "found_by_event": root.found_by_event,
                    "found_only_by_scan": root.found_only_by_scan,
                    "overflows": root.overflows,
                }
                for root in facts.roots
            ],
        }
        return web.json_response(body, status=503 if reasons else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text format."""
        text = self._metrics.text(await self._facts(), await self._journal.counts())
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def montages(self, request: web.Request) -> web.Response:
        """Newest first: `?state=failed&z=1050&limit=100`."""
        rows = await self._journal.montages(
            states=_states(request), z=_number(request, "z"), limit=_limit(request), newest_first=True
        )
        counts = counts_json(await self._journal.counts())
        return web.json_response({"montages": [montage_json(row) for row in rows], "counts": counts})

    async def montage(self, request: web.Request) -> web.Response:
        """One montage with its events and attempts."""
        text = request.match_info["id"]
        montage = (
            await self._journal.montage(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
        )
        if montage is None:
            raise web.HTTPNotFound(reason="no such montage")
        body = montage_json(montage)
        body["events"] = [{**event, "at": _iso(event["at"])} for event in await self._journal.events(montage.id)]
        body["attempts"] = [
            {**attempt, "started_at": _iso(attempt["started_at"]), "ended_at": _iso(attempt["ended_at"])}
            for attempt in await self._journal.attempts(montage.id)
        ]
        body["tiles_made"] = len(await self._journal.tiles_made(montage.id))
        return web.json_response(body)


def montage_json(montage: Montage) -> dict[str, Any]:
    """A montage as the web and `temwatch status --json` show it; times in ISO 8601, UTC."""
    fault = montage.fault
    return {
        "id": montage.id,
        "watch": montage.watch,
        "metafile": str(montage.metafile),
        "digest": montage.digest,
        "state": str(montage.state),
        "failed_in": montage.failed_in,
        "z": montage.z,
        "raw_stack": montage.raw_stack,
        "mipmapped_stack": montage.mipmapped_stack,
        "tiles": montage.tile_count,
        "findings": list(montage.findings),
        "fault": None
        if fault is None
        else {"kind": fault.kind, "subject": fault.subject, "problem": fault.problem, "hint": fault.hint},
        "waiting_for": montage.waiting_for,
        "attempt": montage.attempt,
        "noticed_at": _iso(montage.noticed_at),
        "changed_at": _iso(montage.changed_at),
        "complete_at": _iso(montage.complete_at),
    }


def counts_json(counts: Mapping[tuple[str, MontageState], int]) -> dict[str, dict[str, int]]:
    """Counts of montages as watch -> state -> number."""
    by_watch: dict[str, dict[str, int]] = {}
    for (watch, state), count in counts.items():
        by_watch.setdefault(watch, {})[str(state)] = count
    return by_watch


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _states(request: web.Request) -> list[MontageState] | None:
    names = [name for value in request.query.getall("state", []) for name in value.split(",") if name]
    if not names or names == ["all"]:
        return None
    try:
        return [MontageState(name) for name in names]
    except ValueError:
        raise web.HTTPBadRequest(reason=f"state: one of {', '.join(MontageState)}, all") from None


def _number(request: web.Request, key: str) -> float | None:
    text = request.query.get(key)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise web.HTTPBadRequest(reason=f"{key}: not a number") from None


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LONGEST_LIST):
        raise web.HTTPBadRequest(reason=f"limit: a whole number from 1 to {LONGEST_LIST}")
    return int(text)
