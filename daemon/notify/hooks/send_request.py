"""One attempt at a delivery by an HTTP request. A receiver's failure is a returned value, not an exception."""

import asyncio
import time
from dataclasses import dataclass
from importlib.metadata import version

import aiohttp

from daemon.config.hook_files import read_hook_secret
from daemon.config.hook_settings import HookSettings
from daemon.notify.authorities import system_authorities
from daemon.notify.hooks.cloud_event import CONTENT_TYPE
from daemon.notify.hooks.signing import signature_headers
from handlers.errors import SettingsFault
from handlers.text import printable, shorten
from handlers.uris import without_userinfo

GONE = 410
_AWAY = frozenset({429, 502, 503, 504})
"""Status codes of a receiver, or of a proxy in front of it, that accepts no event now."""
_EXCERPT_BYTES = 300
MAX_PROBLEM = 500


@dataclass(frozen=True, slots=True)
class Sent:
    """Outcome of an attempt."""

    problem: str = ""
    """Why the receiver did not accept the event; empty if it did."""
    is_unavailable: bool = False
    """Whether the receiver cannot accept any event now."""
    is_gone: bool = False
    """Whether it responded 410: it wants no further events."""

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver accepted the event."""
        return not self.problem


async def post(session: aiohttp.ClientSession, hook: HookSettings, event_id: str, body: bytes) -> Sent:
    """Send an event to the URL of a hook; return the outcome."""
    assert hook.url is not None
    headers = {"Content-Type": CONTENT_TYPE, "User-Agent": f"temwatch/{version('temwatch')}"}
    try:
        if hook.secret_file is not None:
            secret = await asyncio.to_thread(read_hook_secret, hook.secret_file, "secret_file")
            headers |= signature_headers(secret, event_id, int(time.time()), body)
        timeout = aiohttp.ClientTimeout(total=hook.timeout_s)
        async with session.post(
            hook.url,
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            ssl=await system_authorities(),
        ) as response:
            return await _judge(response)
    except SettingsFault as fault:
        return Sent(_problem(str(fault)))
    except TimeoutError:
        return Sent(f"no answer within {hook.timeout_s:g} s", is_unavailable=True)
    except (aiohttp.ClientError, OSError) as error:
        return Sent(_problem(f"no answer: {error or type(error).__name__}"), is_unavailable=True)
    except ValueError as error:  # an address that aiohttp refuses
        return Sent(_problem(f"cannot be sent: {error}"))


async def _judge(response: aiohttp.ClientResponse) -> Sent:
    status = response.status
    if 200 <= status < 300:
        return Sent()
    if 300 <= status < 400:
        where = response.headers.get("Location", "nowhere")
        return Sent(_problem(f"answered {status}, a redirect to {where}: set the hook's url to the right address"))
    said = (await response.content.read(_EXCERPT_BYTES)).decode(errors="replace").strip()
    problem = _problem(f"answered {status} {response.reason or ''}".rstrip() + (f": {said}" if said else ""))
    return Sent(problem, is_unavailable=status in _AWAY, is_gone=status == GONE)


def _problem(text: str) -> str:
    return shorten(printable(without_userinfo(text)), MAX_PROBLEM)
