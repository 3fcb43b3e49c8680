"""One attempt at a delivery: by an HTTP request or a program, according to the hook."""

import aiohttp

from daemon.config.hook_settings import HookSettings
from daemon.notify.hooks.run_program import run_program
from daemon.notify.hooks.send_request import Sent, post


async def attempt(session: aiohttp.ClientSession, hook: HookSettings, event_id: str, body: bytes) -> Sent:
    """Attempt to deliver an event to the receiver of a hook; return the outcome.

    Parameters
    ----------
    body : the CloudEvent as JSON.
    """
    if hook.command:
        return await run_program(hook, body)
    return await post(session, hook, event_id, body)
