"""Plan bad tiles like those of real microscopes. Pure."""

from dataclasses import replace

from daemon.simulator.section import SectionPlan, TileFault, TilePlan

MIN_TILES = 8
"""Fewest tiles of a section with bad tiles: with fewer, bad tiles would be neighbours."""
OVERLAP = 0.15
"""Overlap of a section with bad tiles, as a fraction of the frame: sufficient to compare neighbours at level 3."""
MIN_SIDE_PX = 1000
"""Smallest side of a frame whose overlap is sufficient for that."""
SHIFT_SHARE = (0.3, -0.2)
"""Distance (x, y) of the stage from the reported place, as a fraction of the overlap."""


def spoil_tiles(plan: SectionPlan) -> SectionPlan:
    """Return the section with one tile of each fault. Raises ValueError if it has too few tiles."""
    count = len(plan.tiles)
    if count < MIN_TILES:
        raise ValueError(f"a section with bad tiles needs at least {MIN_TILES} tiles, and this one has {count}")
    places = {
        count // 4: TileFault.SHIFTED,
        count // 2: TileFault.SATURATED,
        2 * count // 3: TileFault.BLURRED,
        count - 1: TileFault.REPEATED,
    }
    tiles = [replace(tile, fault=places.get(at)) for at, tile in enumerate(plan.tiles)]
    return replace(plan, tiles=tuple(_shifted(plan, tile) for tile in tiles))


def _shifted(plan: SectionPlan, tile: TilePlan) -> TilePlan:
    """Return a SHIFTED tile with its true corner and unchanged stage position; other tiles unchanged."""
    if tile.fault is not TileFault.SHIFTED:
        return tile
    x_px, y_px = (share * plan.overlap for share in SHIFT_SHARE)
    return replace(
        tile,
        left_px=tile.left_px + round(x_px * plan.camera.width),
        top_px=tile.top_px + round(y_px * plan.camera.height),
    )
