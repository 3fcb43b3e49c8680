"""Requests of the render-ws client about the service and its stacks; `client` adds those about tiles."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

from handlers.errors import NotRender, RenderFault, RenderRefused, StackMissing
from handlers.render.http.access import Access
from handlers.render.http.reading import read_answer
from handlers.render.http.requests import Answer, Limit, OnAnswer, Request
from handlers.render.http.time_limits import Polling, TimeLimits
from handlers.render.http.transport import RenderHttp
from handlers.render.layer_responses import Z_VALUES
from handlers.render.names import BaseUrl, StackId, create_timestamp
from handlers.render.responses import (
    LOCKED,
    OBJECT,
    PATH_BUILDER,
    STACK_META,
    PathBuilder,
    StackMeta,
    StackState,
    concerns_stack,
    fault_of,
)
from handlers.render.tiles import json_body
from handlers.render.uploading import UploadLimit

_LISTED_Z = Limit(8 * 2**20, 500_000)


class StackClient:
    """Connections to one render-ws, and the requests about the service and its stacks. An async context manager.

    Parameters
    ----------
    base_url : URL of the service, as in `http://render:8080/render-ws/v1`; a final slash is allowed.
    time_limits : time limits of requests.
    polling : delays of `close_stack`.
    setting : name of the setting of the base URL, for faults.
    access : login, TLS and proxy.
    connections : largest number of requests at once; further requests wait.
    tries : largest number of times that a repeatable request is sent.
    first_wait_s : longest wait before the second try; it doubles with each try, and a random part of it is used.
    on_answer : called after each request with its outcome and its seconds.
    now : clock for creation times.

    Raises
    ------
    SettingsFault
        If the base URL is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        time_limits: TimeLimits | None = None,
        polling: Polling | None = None,
        setting: str = "render.url",
        access: Access | None = None,
        connections: int = 8,
        tries: int = 3,
        first_wait_s: float = 0.25,
        on_answer: OnAnswer = lambda request, outcome, seconds: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._time_limits = time_limits or TimeLimits()
        self.polling = polling or Polling()
        self._http = RenderHttp(
            base_url,
            self._time_limits,
            setting=setting,
            access=access,
            connections=connections,
            tries=tries,
            first_wait_s=first_wait_s,
            on_answer=on_answer,
        )
        self._now = now
        self.upload_limit = UploadLimit()
        """Largest upload of tiles; it shrinks when a proxy refuses an upload."""

    @property
    def base_url(self) -> str:
        """Address of the service without user, password and final slash."""
        return self._http.base_url

    @property
    def address(self) -> BaseUrl:
        """Address of the service and its credentials."""
        return self._http.address

    @property
    def access(self) -> Access:
        """Login, TLS and proxy, by their files."""
        return self._http.access

    async def has_new_login(self) -> bool:
        """Whether a file with a login or certificate has changed since it was read."""
        return await self._http.has_new_login()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.__aexit__(*error)

    # -- the service and its stacks ------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Request the version, for which render-ws needs no database. Raises a RenderFault if it does not answer."""
        request = Request("GET", "/versionInfo", self.base_url, "ask for its version", repeatable=False)
        body = await self.ask(replace(request, limit_s=self._time_limits.ping_s))
        if body.strip():  # a render-ws built without its version answers 204
            await read_answer(OBJECT, body, request)

    async def ask_database(self, stack: StackId) -> None:
        """Read a stack, for which render-ws needs its database; the stack need not exist. Raises a RenderFault."""
        request = Request("GET", stack.path, self.base_url, "read from its database", repeatable=False)
        await self._read_stack(replace(request, limit_s=self._time_limits.ping_s))

    async def empty_image_cache(self) -> None:
        """Clear the image cache of render-ws, which keeps images by URL and does not notice that a file has changed.

        Raises
        ------
        NotRender
            If this render-ws has no such request, or a proxy forbids it.
        """
        path = "/imageProcessorCache/allEntries"
        request = Request("DELETE", path, self.base_url, "empty its image cache")
        if (await self.ask(request)).strip():
            raise NotRender(self.base_url, "was asked to empty its image cache, and answered with a page")

    async def stack(self, stack: StackId) -> StackMeta | None:
        """Read the stack; None if it does not exist."""
        return await self._read_stack(Request("GET", stack.path, str(stack), "read the stack"))

    async def _read_stack(self, request: Request) -> StackMeta | None:
        answer = await self._http.ask(request)
        if not answer.absent:
            return await read_answer(STACK_META, answer.body, request)
        if not concerns_stack(answer.text):  # a 404 of another server
            raise _absence(request, answer)
        return None

    async def existing_stack(self, stack: StackId) -> StackMeta:
        """Read the stack. Raises StackMissing if it does not exist."""
        meta = await self.stack(stack)
        if meta is None:
            raise StackMissing(str(stack), "does not exist", "check the stack's name, and whether somebody deleted it")
        return meta

    async def post_version(self, stack: StackId, resolution_nm: tuple[float, float, float]) -> None:
        """Create the stack, or a new version of it. Never repeated: a new version drops the values of the old one."""
        x, y, z = resolution_nm
        version = {
            "createTimestamp": create_timestamp(self._now()),
            "stackResolutionX": x,
            "stackResolutionY": y,
            "stackResolutionZ": z,
        }
        body = json_body(str(stack), version)
        await self.ask(Request("POST", stack.path, str(stack), "create the stack", body, repeatable=False))

    async def delete_stack(self, stack: StackId) -> None:
        """Delete the stack with all its tiles, if it exists."""
        with contextlib.suppress(StackMissing):
            await self.ask(Request("DELETE", stack.path, str(stack), "delete the stack"))

    async def set_resolution(
        self, stack: StackId, resolution_nm: tuple[float, float, float], *, once: bool = False
    ) -> None:
        """Set nanometres per pixel in x and y, and between sections in z.

        Parameters
        ----------
        once : whether to send the request only once, with the time-out of a ping.
        """
        body = json_body(str(stack), list(resolution_nm))
        request = Request("PUT", f"{stack.path}/resolutionValues", str(stack), "set the resolution", body)
        await self.ask(replace(request, repeatable=False, limit_s=self._time_limits.ping_s) if once else request)

    async def set_state(self, stack: StackId, state: StackState) -> None:
        """Set LOADING or COMPLETE. COMPLETE is sent once, even if its answer is lost.

        READ_ONLY and OFFLINE are refused, since OFFLINE drops the tiles. Raises StackLocked if the stack is in one of
        these two states.
        """
        if state in LOCKED:
            raise RenderRefused(
                str(stack), f"may not be set {state} by a program", "set it by hand if that is intended"
            )
        request = Request("PUT", f"{stack.path}/state/{state}", str(stack), f"make the stack {state}", b"")
        if state is StackState.COMPLETE:
            request = replace(request, repeatable=False, limit_s=self._time_limits.complete_s, abandonable=True)
        await self.ask(request)

    async def z_values(self, stack: StackId) -> tuple[float, ...]:
        """List all z of the stack, ascending. Raises StackMissing."""
        request = Request("GET", f"{stack.path}/zValues", str(stack), "list z values", limit=_LISTED_Z)
        found = await read_answer(Z_VALUES, await self.ask(request), request)
        return tuple(sorted(found))

    async def path_builder(self, stack: StackId) -> PathBuilder | None:
        """Read the stack's mipmap path builder; None if it has none. Raises StackMissing."""
        request = Request("GET", f"{stack.path}/mipmapPathBuilder", str(stack), "read the path builder")
        body = await self.ask(request)
        return await read_answer(PATH_BUILDER, body, request) if body.strip() else None

    async def put_path_builder(self, stack: StackId, builder: PathBuilder) -> None:
        """Set the stack's mipmap path builder, in LOADING or COMPLETE."""
        body = json_body(str(stack), builder.normalized().to_json())
        path = f"{stack.path}/mipmapPathBuilder"
        await self.ask(Request("PUT", path, str(stack), "set the path builder", body))

    # -- one request ---------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> bytes:
        """Send one request and return the body. Raises a RenderFault, also for a 404."""
        answer = await self._http.ask(request)
        if answer.absent:
            raise _absence(request, answer)
        return answer.body

    async def ask_for_part(self, request: Request) -> bytes | None:
        """Send one request and return the body; None if a part of the stack does not exist. Raises StackMissing."""
        answer = await self._http.ask(request)
        if answer.absent and concerns_stack(answer.text):
            raise _absence(request, answer)
        return None if answer.absent else answer.body


def _absence(request: Request, answer: Answer) -> RenderFault:
    return fault_of(request.subject, request.tried, 404, "text/plain", answer.text)
