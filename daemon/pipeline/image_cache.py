"""render-ws's cache of images: emptied when files were rewritten that it may have read before.

render-ws keeps an image by its URL, and never sees that the file changed: it goes on showing the old pixels.
"""

from collections.abc import Callable

import structlog

from handlers.errors import RenderBroken, RenderRefused
from handlers.render.client import RenderClient, StackId

log = structlog.get_logger()


class RenderImageCache:
    """Remembers which montages rewrote files, and has the cache emptied once for each.

    Parameters
    ----------
    is_wanted : whether the cache is to be emptied at all.
    """

    def __init__(self, client: RenderClient, is_wanted: Callable[[], bool]) -> None:
        self._client = client
        self._is_wanted = is_wanted
        self._rewrote: dict[int, bool] = {}
        self._has_told = False

    def begin(self, montage_id: int, *, is_resumed: bool) -> None:
        """Mipmaps of a montage are begun, or gone on with.

        Parameters
        ----------
        is_resumed : whether some were made before. If that was before a restart they may have replaced others.
        """
        self._rewrote.setdefault(montage_id, is_resumed)

    def rewrote(self, montage_id: int) -> None:
        """A file of the montage took the place of another."""
        self._rewrote[montage_id] = True

    async def settle(self, montage_id: int, stack: StackId) -> None:
        """All files of the montage are in place: empty the cache if one of them replaced another.

        Raises RenderUnavailable, and the montage is remembered.
        """
        if self._rewrote.get(montage_id):
            await self.empty(stack)
        self._rewrote.pop(montage_id, None)

    async def empty(self, stack: StackId) -> None:
        """Have the cache emptied. A render-ws that does not know how, or whose proxy forbids it, is no fault.

        Raises
        ------
        RenderFault
            If render-ws is away, or something else answers in its place.
        """
        if not self._is_wanted():
            return
        try:
            await self._client.empty_image_cache()
        except (RenderRefused, RenderBroken) as fault:
            await self._client.ask_database(stack)
            self._tell_once(str(fault))
        else:
            log.info("render.image_cache_emptied")

    def _tell_once(self, fault: str) -> None:
        if not self._has_told:
            log.warning("render.image_cache_stays", fault=fault, note="rewritten images may be shown as they were")
        self._has_told = True
