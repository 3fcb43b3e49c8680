"""Address at which render-ws serves level 0 of a tile. `source` fetches it; this module imports no decoder."""

from dataclasses import dataclass, field
from typing import Self

from handlers.render.http.access import NO_LOGIN, Access
from handlers.render.names import tile_segment


@dataclass(frozen=True, slots=True)
class RenderSource:
    """Address of a tile's raw image or mask in render-ws, and the access to it.

    Parameters
    ----------
    url : URL of the PNG, without a query.
    bits : bits per pixel of level 0, 8 or 16. render-ws always serves 8, whatever the file has.
    authorization : value of the HTTP header Authorization, if the address of render-ws contains a login.
    access : login, TLS and proxy. Each request reads the files that it names, which must exist on the worker's machine.
    """

    url: str
    bits: int = 8
    authorization: str | None = field(default=None, repr=False)
    access: Access = NO_LOGIN

    @classmethod
    def of_image(cls, stack_url: str, tile_id: str, maximum_intensity: float) -> Self:
        """Return the source of a tile's raw image, with 16 bits if the maximum intensity exceeds 255, as in render.

        Parameters
        ----------
        stack_url : as in `http://render:8080/render-ws/v1/owner/em/project/v1/stack/raw`.

        Raises RenderRefused for a tile id that is invalid in a URL.
        """
        return cls(f"{stack_url}/tile/{tile_segment(tile_id)}/source/png-image", 16 if maximum_intensity > 255 else 8)

    @classmethod
    def of_mask(cls, stack_url: str, tile_id: str) -> Self:
        """Return the source of a tile's mask. Raises as `of_image` does."""
        return cls(f"{stack_url}/tile/{tile_segment(tile_id)}/mask/png-image")
