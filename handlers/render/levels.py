"""Checking the mipmap levels of a tile spec, and replacing them in its JSON, which otherwise stays as it is. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from handlers.errors import RenderRefused
from handlers.render.tiles import Json, image_holder, level_0

Levels = Mapping[int, tuple[str, str | None]]
"""Mipmap level (1 or higher) -> URL of its image, and URL of its mask or None."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


def check_levels(subject: str, levels_by_tile: Mapping[str, Levels]) -> None:
    """Refuse levels below 1 and URLs that are not absolute URIs. Raises RenderRefused."""
    for tile_id, levels in levels_by_tile.items():
        tile = f"{subject} tile '{tile_id}'"
        if not levels or min(levels) < 1:
            raise RenderRefused(tile, f"was given the mipmap levels {sorted(levels)}, expected levels from 1")
        for image, mask in levels.values():
            for url in (image, mask):
                if url is not None and not _URI.fullmatch(url):
                    raise RenderRefused(
                        tile, f"was given '{url}', which is not a URI", "add a scheme and percent-encode it"
                    )


def with_levels(spec: Json, levels: Levels) -> dict[str, Any]:
    """Return the spec with its levels above 0 replaced, in the spec itself or in its only channel.

    Raises
    ------
    RenderRefused
        If the spec has no level 0 or several channels, or if it has a mask at level 0 and a level without one:
        render-ws would show the hidden pixels as soon as the view is zoomed out.
    """
    holder = image_holder(spec)
    edited = {**holder, "mipmapLevels": _replaced(spec, holder, levels)}
    return edited if holder is spec else {**spec, "channels": [edited]}


def _replaced(spec: Json, holder: Json, levels: Levels) -> dict[str, Any]:
    raw = level_0(holder)
    if not raw or not raw.get("imageUrl"):
        raise RenderRefused(
            f"tile '{spec.get('tileId')}'", "has no image at mipmap level 0", "ingest the montage again"
        )
    unmasked = [level for level, (_, mask) in sorted(levels.items()) if mask is None]
    if raw.get("maskUrl") and unmasked:
        raise RenderRefused(
            f"tile '{spec.get('tileId')}'",
            f"has a mask, and its mipmap levels {unmasked} have none",
            "make mipmaps of the mask too",
        )
    return {"0": raw} | {str(level): _entry(*urls) for level, urls in sorted(levels.items())}


def _entry(image: str, mask: str | None) -> dict[str, str]:
    return {"imageUrl": image} if mask is None else {"imageUrl": image, "maskUrl": mask}
