"""POST requests: replay, retry, dismissal, verdict, deliveries of hooks, silences, differences, copy of the journal."""

import asyncio
import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiofiles.os
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncBufferedReader
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.config.settings import HttpSettings
from daemon.journal.copies import remove_journal
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.notify.alerts.difference_report import DifferenceReport, report_differences
from daemon.notify.alerts.silences import SilenceRequest, silence
from daemon.notify.delivery_requests import DeliveryRequest, act
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.replayer import Replayer, plan_json
from daemon.pipeline.replay.selection import Action, ReplayRequest
from daemon.pipeline.requests.decision import DecisionRequest, decide
from daemon.pipeline.requests.dismissal import DismissRequest, dismiss
from daemon.pipeline.requests.problems import problems
from daemon.pipeline.requests.retry_request import RetryRequest, retry_failed
from daemon.web.access import post_refusal
from daemon.web.errors import error_answer
from daemon.web.parameters import montage_id_of
from daemon.web.visitor import user_of
from handlers.errors import Fault, storage_fault
from handlers.text import printable

M = TypeVar("M", bound=BaseModel)

BODY_S = 30.0
"""Time-out of a request's body."""
PIECE_BYTES = 2**20


class BackupRequest(BaseModel):
    """The body of `POST /api/journal/backup`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    journal: str
    """Path of the journal that the caller expects, since another daemon may listen at the same address."""


Method = Callable[["Posts", web.Request, M], Awaitable[web.StreamResponse]]
Handler = Callable[["Posts", web.Request], Awaitable[web.StreamResponse]]


def _with_body(model: type[M], *, writes: bool = True) -> Callable[[Method[M]], Handler]:
    """Return a decorator that makes a handler of a method: it checks the request's rights and parses its body.

    Parameters
    ----------
    model : model of the body.
    writes : whether the method writes into the journal. Then the request is refused while the journal has a fault, so
        that the caller does not wait until the disk is repaired.
    """

    def decorate(method: Method[M]) -> Handler:
        @functools.wraps(method)
        async def handler(self: "Posts", request: web.Request) -> web.StreamResponse:
            wanted = await self._parse(request, model)
            if isinstance(wanted, web.Response):
                return wanted
            if writes and self._journal.fault is not None:
                return error_answer(503, str(self._journal.fault))
            return await method(self, request, wanted)

        return handler

    return decorate


class Posts:
    """Handlers of POST requests.

    Parameters
    ----------
    on_decided : called after a person's decision was recorded.
    wake_hooks : called after deliveries were made due.
    """

    def __init__(
        self,
        http: HttpSettings,
        replayer: Replayer,
        journal: Journal,
        on_decided: Callable[[Montage], Awaitable[object]] | None = None,
        wake_hooks: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_decided = on_decided
        self._http = http
        self._replayer = replayer
        self._journal = journal
        self._wake_hooks = wake_hooks
        self._one_backup = asyncio.Lock()

    async def _parse(self, request: web.Request, model: type[M]) -> M | web.Response:
        """Return the parsed body of a permitted request, otherwise the error response."""
        refusal = await asyncio.to_thread(post_refusal, request, self._http)
        if refusal is not None:
            return error_answer(*refusal)
        try:
            return model.model_validate_json(await _body(request))
        except ValidationError as error:
            return error_answer(400, "; ".join(f"{key}: {problem}" for key, problem in problems(error, model)))

    @_with_body(ReplayRequest, writes=False)
    async def replay(self, request: web.Request, wanted: ReplayRequest) -> web.Response:
        """Return 202 with the plan of each montage if work was started, otherwise 200."""
        try:
            plans = await self._replayer.replay(wanted, user_of(request, self._http))
        except NotSelectable as fault:
            return error_answer(400, str(fault))
        except Fault as fault:
            return error_answer(503, str(fault))
        has_started = not wanted.dry_run and any(planned.action is not Action.REFUSE for planned in plans)
        body = {"dry_run": wanted.dry_run, "montages": [plan_json(planned) for planned in plans]}
        return web.json_response(body, status=202 if has_started else 200)

    @_with_body(RetryRequest)
    async def retry(self, request: web.Request, wanted: RetryRequest) -> web.Response:
        """Return 200 with the outcome of each montage and a summary for people."""
        user = user_of(request, self._http)
        outcomes = await retry_failed(self._journal, self._replayer.enqueue, wanted, user)
        return web.json_response({"montages": outcomes, "summary": _summary(outcomes)})

    @_with_body(DismissRequest)
    async def dismiss(self, request: web.Request, wanted: DismissRequest) -> web.Response:
        """Return 200 with the outcome of each montage."""
        return web.json_response({"montages": await dismiss(self._journal, wanted, user_of(request, self._http))})

    @_with_body(DecisionRequest)
    async def decide(self, request: web.Request, wanted: DecisionRequest) -> web.Response:
        """Return 200 with the effective verdict after a person's decision."""
        user = user_of(request, self._http)  # the proxy's name has precedence over the typed one
        wanted = wanted.model_copy(update={"by": user}) if user else wanted
        answer = await decide(self._journal, montage_id_of(request), wanted, self._on_decided)
        return error_answer(404, "no such montage") if answer is None else web.json_response(answer)

    @_with_body(DeliveryRequest)
    async def notify(self, request: web.Request, wanted: DeliveryRequest) -> web.Response:
        """Return 200 with the ids of deliveries that were made due or dropped."""
        outcome = await act(self._journal, wanted)
        self._wake_hooks()
        return web.json_response(outcome)

    @_with_body(SilenceRequest)
    async def silence(self, request: web.Request, wanted: SilenceRequest) -> web.Response:
        """Return 200 with the active silences after the change."""
        user = user_of(request, self._http)
        wanted = wanted.model_copy(update={"by": user}) if user else wanted
        return web.json_response(await silence(self._journal, wanted))

    @_with_body(DifferenceReport)
    async def differences(self, request: web.Request, wanted: DifferenceReport) -> web.Response:
        """Return 200 after the differences of a verification were recorded."""
        return web.json_response(await report_differences(self._journal, wanted))

    @_with_body(BackupRequest, writes=False)
    async def back_up(self, request: web.Request, wanted: BackupRequest) -> web.StreamResponse:
        """Return 200 with a copy of the journal, even if its file was deleted."""
        if wanted.journal != str(self._journal.path):
            return error_answer(409, f"journal: this daemon uses {printable(self._journal.path)}")
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with self._one_backup:
                    copy = await stack.enter_async_context(self._copy())
            except Fault as fault:
                return error_answer(503, str(fault))
            response = web.StreamResponse(headers={"Content-Type": "application/vnd.sqlite3"})
            response.content_length = (await aiofiles.os.stat(copy.fileno())).st_size
            await response.prepare(request)
            while piece := await copy.read(PIECE_BYTES):
                await response.write(piece)
        await response.write_eof()
        return response

    @contextlib.asynccontextmanager
    async def _copy(self) -> AsyncIterator[AsyncBufferedReader]:
        """Yield an open copy of the journal whose file is already deleted, so that no copy can be left behind."""
        directory = self._journal.path.parent
        if not await aiofiles.os.path.isdir(directory):  # deleted with the journal
            directory = Path(tempfile.gettempdir())
        path = directory / f".{self._journal.path.name}.backup"
        with contextlib.ExitStack() as stack:
            try:
                await asyncio.to_thread(remove_journal, path)
                await self._journal.back_up(path)
                # Closed here and not by aiofiles, because a cancelled request would not wait for aiofiles.
                copy = stack.enter_context(await asyncio.to_thread(path.open, "rb"))
            except OSError as error:
                raise storage_fault(printable(path), "write a copy of the journal", error) from error
            finally:
                await asyncio.to_thread(remove_journal, path)
            yield wrap(copy)


def _summary(outcomes: Sequence[dict[str, Any]]) -> str:
    retried = sum(outcome["retried"] for outcome in outcomes)
    others = [outcome for outcome in outcomes if not outcome["retried"]]
    text = f"{retried} {'section is' if retried == 1 else 'sections are'} retried."
    return text + (f" {len(others)} not: {others[0]['note']}." if others else "")


async def _body(request: web.Request) -> bytes:
    """Return the body. Raises HTTPRequestTimeout if it does not arrive in time."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason=f"body: not received within {BODY_S:g} s") from None
