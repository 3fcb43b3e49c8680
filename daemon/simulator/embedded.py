"""`url = "embedded"`: a stand-in for render-ws that lives as long as the process."""

import contextlib
from collections.abc import AsyncIterator

import structlog

from daemon.config.settings import RenderSettings

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def serve_if_embedded(render: RenderSettings) -> AsyncIterator[str]:
    """The URL of a stand-in that answers during the context where the settings ask for one, otherwise theirs."""
    if not render.embedded:
        yield render.url
        return
    from daemon.simulator.standin import serve_standin  # numpy and Pillow, which the daemon itself does without

    async with serve_standin() as url:
        log.warning("render.embedded", url=url, note="a stand-in in memory, for trying things out; nothing is kept")
        yield url
