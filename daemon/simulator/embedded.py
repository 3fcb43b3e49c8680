"""Run the stand-in within this process, for `url = "embedded"`."""

import contextlib
from collections.abc import AsyncIterator

import structlog

from daemon.config.render_settings import RenderSettings

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def serve_if_embedded(render: RenderSettings) -> AsyncIterator[str]:
    """Yield the URL of render-ws; for `url = "embedded"` that of a stand-in that runs within the context."""
    if not render.embedded:
        yield render.url
        return
    from daemon.simulator.standin.server import (
        serve_standin,  # imports numpy and Pillow, which the daemon itself does not need
    )

    async with serve_standin() as url:
        log.warning("render.embedded", url=url, note="a stand-in for trials: its stacks are lost when the daemon stops")
        yield url
