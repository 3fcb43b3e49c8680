"""Requests that change something: `POST /api/replay`."""

import asyncio

from aiohttp import web
from pydantic import ValidationError

from daemon.config.settings import HttpSettings
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.replayer import Replayer, plan_json
from daemon.pipeline.replay.selection import Action, ReplayRequest, problems
from daemon.web.access import post_refusal
from daemon.web.errors import error_answer
from handlers.errors import Fault


class Posts:
    """Handlers of POST requests."""

    def __init__(self, http: HttpSettings, replayer: Replayer) -> None:
        self._http = http
        self._replayer = replayer

    async def replay(self, request: web.Request) -> web.Response:
        """Answer 202 with the plan of each montage if work was started, otherwise 200."""
        refusal = await asyncio.to_thread(post_refusal, request, self._http)
        if refusal is not None:
            return error_answer(*refusal)
        try:
            wanted = ReplayRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return error_answer(400, problems(error))
        try:
            plans = await self._replayer.replay(wanted)
        except NotSelectable as fault:
            return error_answer(400, str(fault))
        except Fault as fault:
            return error_answer(503, str(fault))
        has_started = not wanted.dry_run and any(planned.action is not Action.REFUSE for planned in plans)
        body = {"dry_run": wanted.dry_run, "montages": [plan_json(planned) for planned in plans]}
        return web.json_response(body, status=202 if has_started else 200)
