"""Placement of tiles in a stack: the affine transform of a tile, and the bounds of a region. Pure."""

import math
from collections.abc import Iterable, Sequence

from handlers.acquisition.acquisition import Tile
from handlers.acquisition.geometry import Point

Affine = tuple[float, float, float, float, float, float]
"""m00, m10, m01, m11, m02, m12 of a transform x' = m00 x + m01 y + m02, y' = m10 x + m11 y + m12, in render's order."""
Bounds = tuple[float, float, float, float]
"""Smallest x and y, largest x and y, in level-0 pixels of the stack."""


def affine_of(tile: Tile, translation: Point) -> Affine:
    """Return the transform of a tile: rotated about its centre, scaled from its upper left corner, then translated."""
    if tile.rotation_deg == 0:
        return tile.scale, 0.0, 0.0, tile.scale, *translation
    cosine, sine = cosine_and_sine(tile.rotation_deg)
    half_width, half_height = (tile.width or 0) / 2, (tile.height or 0) / 2
    x = translation[0] + tile.scale * (half_width - (half_width * cosine - half_height * sine))
    y = translation[1] + tile.scale * (half_height - (half_width * sine + half_height * cosine))
    return cosine * tile.scale, sine * tile.scale, -sine * tile.scale, cosine * tile.scale, x, y


def cosine_and_sine(angle_deg: float) -> tuple[float, float]:
    """Return cosine and sine of an angle, exact for multiples of 90 degrees.

    >>> cosine_and_sine(90.0)
    (0.0, 1.0)
    """
    quarters, rest = divmod(angle_deg, 90)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters) % 4]
    turn = math.radians(angle_deg)
    return math.cos(turn), math.sin(turn)


def bounds_of(tiles: Sequence[Tile], translations: Iterable[Point]) -> Bounds | None:
    """Return the bounds of the tiles, rotated and scaled as in the stack, before any lens correction.

    A tile of unknown size counts as a point. Returns None if there are no tiles.
    """
    corners = [
        (m00 * x + m01 * y + m02, m10 * x + m11 * y + m12)
        for tile, translation in zip(tiles, translations, strict=True)
        for m00, m10, m01, m11, m02, m12 in (affine_of(tile, translation),)
        for x in (0, tile.width or 0)
        for y in (0, tile.height or 0)
    ]
    if not corners:
        return None
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
