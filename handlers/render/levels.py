"""The mipmap levels of a tile spec: checked, and replaced in its JSON, all else as found. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from handlers.errors import RenderRefused
from handlers.render.tiles import Json, image_holder, level_0

Levels = Mapping[int, tuple[str, str | None]]
"""Mipmap level, from 1, to the URLs of its image and of its mask, if it has one."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


def check_levels(subject: str, levels_by_tile: Mapping[str, Levels]) -> None:
    """Refuse levels that are none: below 1, or at a URL that is no absolute URI. Raises RenderRefused."""
    for tile_id, levels in levels_by_tile.items():
        tile = f"{subject} tile '{tile_id}'"
        if not levels or min(levels) < 1:
            raise RenderRefused(tile, f"was given mipmap levels {sorted(levels)}", "give levels from 1")
        for image, mask in levels.values():
            for url in (image, mask):
                if url is not None and not _URI.fullmatch(url):
                    raise RenderRefused(tile, f"was given '{url}', which is no URI", "percent-encode it, with a scheme")


def with_levels(spec: Json, levels: Levels) -> dict[str, Any]:
    """The spec with its levels above 0 replaced, level 0 as it is: top-level ones, or those of its only channel.

    Raises
    ------
    RenderRefused
        If it has no level 0, several channels, or a mask at level 0 and a level without one: render-ws would show what
        the mask hides as soon as the view is zoomed out.
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
            f"has a mask, and mipmap levels {unmasked} were made without it",
            "make mipmaps of the mask, too",
        )
    return {"0": raw} | {str(level): _entry(*urls) for level, urls in sorted(levels.items())}


def _entry(image: str, mask: str | None) -> dict[str, str]:
    return {"imageUrl": image} if mask is None else {"imageUrl": image, "maskUrl": mask}
