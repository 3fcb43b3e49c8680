"""One attempt at a delivery, over HTTP or by a program, as the hook says."""

import aiohttp

from daemon.config.hook_settings import HookSettings
from daemon.notify.run_program import run_program
from daemon.notify.send import Sent, post


async def attempt(session: aiohttp.ClientSession, hook: HookSettings, event_id: str, body: bytes) -> Sent:
    """Bring an event to the receiver of a hook."""
    if hook.command:
        return await run_program(hook, body)
    return await post(session, hook, event_id, body)
