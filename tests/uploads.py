"""Bodies of the requests that put tiles into a stack."""

from typing import Any

from handlers.render.tiles import upload_parts


def upload_bodies(*arguments: Any, **limits: int) -> list[bytes]:
    """Return the bodies that `upload_parts` makes of these arguments, without their numbers of tiles."""
    return [body for body, _ in upload_parts(*arguments, **limits)]
