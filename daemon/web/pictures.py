"""Pictures of montages over HTTP: mosaic and heatmaps as PNG."""

from aiohttp import web

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.pictures import MAX_COMPARED, NoPicture, Pictures
from daemon.web import parameters
from daemon.web.errors import error_answer
from handlers.errors import Fault
from handlers.quality.heatmap_numbers import Number


class PicturePages:
    """Handlers of GET requests for pictures."""

    def __init__(self, journal: Journal, pictures: Pictures) -> None:
        self._journal = journal
        self._pictures = pictures

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/montages/{id}/mosaic.png", self.mosaic),
            web.get("/api/montages/{id}/heatmap/{number}.png", self.heatmap),
        ]

    async def mosaic(self, request: web.Request) -> web.Response:
        """Return the mosaic of a montage as PNG; tiles without mipmaps are striped."""
        montage = await self._montage(request)
        try:
            return _png(await self._pictures.mosaic(montage))
        except Fault as fault:
            return error_answer(_status(fault), str(fault))

    async def heatmap(self, request: web.Request) -> web.Response:
        """Return the heatmap of a number as PNG; `?compare=12,13`: with a scale shared with these montages."""
        try:
            number = Number(request.match_info["number"])
        except ValueError:
            raise web.HTTPNotFound(reason=f"no such number; there are {', '.join(Number)}") from None
        compared = parameters.ids_of(request, "compare") or []
        if len(compared) > MAX_COMPARED:
            raise web.HTTPBadRequest(reason=f"compare: at most {MAX_COMPARED} montages")
        montage = await self._montage(request)
        try:
            return _png(await self._pictures.heatmap(montage, number, compared))
        except Fault as fault:
            return error_answer(_status(fault), str(fault))

    async def _montage(self, request: web.Request) -> Montage:
        montage = await self._journal.montage(parameters.montage_id_of(request))
        if montage is None:
            raise web.HTTPNotFound(reason="no such montage")
        return montage


def _png(picture: bytes) -> web.Response:
    return web.Response(body=picture, content_type="image/png")


def _status(fault: Fault) -> int:
    return 404 if isinstance(fault, NoPicture) else 503
