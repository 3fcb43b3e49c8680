"""Empty render-ws's image cache after files were rewritten that render-ws may have read before.

render-ws caches images by URL and does not detect changed files, so it would show the old pixels.
"""

from collections.abc import Callable

import structlog

from handlers.errors import RenderBroken, RenderRefused, RequestForbidden
from handlers.render.client import RenderClient
from handlers.render.names import StackId

log = structlog.get_logger()


class RenderImageCache:
    """Remembers which montages rewrote files, and empties the cache once for each montage.

    Parameters
    ----------
    is_enabled : returns whether the configuration allows emptying the cache.
    """

    def __init__(self, client: RenderClient, is_enabled: Callable[[], bool]) -> None:
        self._client = client
        self._is_enabled = is_enabled
        self._has_rewritten: dict[int, bool] = {}
        self._has_warned = False

    def begin(self, montage_id: int, *, is_resumed: bool) -> None:
        """Begin or resume the mipmaps of a montage.

        Parameters
        ----------
        is_resumed : whether some tiles were made before. Then a former process may have replaced files.
        """
        self._has_rewritten.setdefault(montage_id, is_resumed)

    def mark_rewritten(self, montage_id: int) -> None:
        """Record that a montage replaced a file."""
        self._has_rewritten[montage_id] = True

    async def finish(self, montage_id: int, stack: StackId) -> None:
        """Empty the cache if the finished montage replaced a file.

        Raises RenderFault as `empty`; then a later call repeats it.
        """
        if self._has_rewritten.get(montage_id):
            await self.empty(stack)
        self._has_rewritten.pop(montage_id, None)

    async def empty(self, stack: StackId) -> None:
        """Empty the cache. If render-ws does not support that, or a proxy forbids it, a warning is logged.

        Raises
        ------
        RenderFault
            If render-ws is unavailable, or another service responds in its place.
        """
        if not self._is_enabled():
            return
        try:
            await self._client.empty_image_cache()
        except (RenderRefused, RenderBroken, RequestForbidden) as fault:
            await self._client.ask_database(stack)
            self._warn_once(str(fault))
        else:
            log.info("render.image_cache_emptied")

    def _warn_once(self, fault: str) -> None:
        if not self._has_warned:
            log.warning(
                "render.image_cache_stays", fault=fault, note="render-ws may show the old pixels of rewritten images"
            )
        self._has_warned = True
