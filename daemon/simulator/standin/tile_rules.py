"""Upload, move, delete and read the tiles of a stack by the rules of render-ws. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from daemon.simulator.standin.json_types import BOUNDS, Json, Refusal
from daemon.simulator.standin.store import Stack, State
from daemon.simulator.standin.transforms import all_references, derive_bounds, flattened, require_references

MAX_TILES_READ = 50_000


def require_loading_for_upload(stack: Stack) -> None:
    """Raise Refusal, 500, for an upload to a stack that is not LOADING."""
    if stack.state is not State.LOADING:
        raise Refusal(
            500,
            "Resolved tiles can only be saved to stacks in the LOADING state, "
            f"but this stack's state is {stack.state}.",
        )


def check_upload(tiles: Sequence[Json], transforms: Mapping[str, Json], z: float | None, *, derive: bool) -> None:
    """Check an upload, and derive the tiles' bounds if `derive`. Raises Refusal; z is that of the path."""
    if derive:
        for tile in tiles:
            require_references(tile, transforms)
            derive_bounds(tile, transforms)
    if not tiles:
        raise Refusal(400, "collection does not have any tiles (maybe they were removed by a prior validation process)")
    for tile in tiles:
        if any(key not in tile for key in BOUNDS):
            raise Refusal(
                400,
                f"tile with id '{tile.get('tileId')}' is missing bounding box attributes "
                "(minX, minY, maxX, and/or maxY)",
            )
        if z is not None and tile.get("z") != z:
            raise Refusal(
                400,
                f"all tiles must have a z value of {z} but tile with id '{tile.get('tileId')}' "
                f"has a z value of {tile.get('z', 'null')}",
            )
    for tile in tiles:
        require_references(tile, transforms)


def save_upload(stack: Stack, tiles: Iterable[Json], transforms: Mapping[str, Json]) -> None:
    """Add or replace tiles and transforms by id."""
    stack.transforms.update(transforms)
    stack.tiles.update((tile.get("tileId"), tile) for tile in tiles)


def require_loading_for_deletion(stack: Stack) -> None:
    """Raise Refusal, 400, for a deletion in a stack that is not LOADING."""
    if stack.state is not State.LOADING:
        raise Refusal(400, f"stack state is {stack.state} but must be LOADING to delete data")


def delete_tiles(stack: Stack, tiles: Iterable[Json]) -> None:
    """Delete tiles of the stack."""
    for tile in tiles:
        stack.tiles.pop(tile.get("tileId"), None)


def move_tiles(stack: Stack, tiles: Iterable[Json], z: float) -> None:
    """Move tiles to another z; they keep their section id. Raises Refusal, 500, if the stack is not LOADING."""
    if stack.state is not State.LOADING:
        raise Refusal(
            500, f"Tile z values can only be updated for stacks in the LOADING state, this one is {stack.state}."
        )
    for tile in tiles:
        tile["z"] = z


def tiles_at(stack: Stack, z: float) -> list[Json]:
    """Return the tiles with exactly this z, sorted by id."""
    return by_id(tile for tile in stack.tiles.values() if tile.get("z") == z)


def require_tile_collection(stack: Stack) -> None:
    """Raise Refusal, 404, for an OFFLINE stack, whose collection was dropped."""
    if stack.state is State.OFFLINE:
        raise Refusal(404, f"{stack.key} does not exist")


def tiles_of_section(stack: Stack, section_id: str) -> list[Json]:
    """Return the tiles with exactly this section id, sorted by id."""
    return by_id(tile for tile in stack.tiles.values() if tile.get("layout", {}).get("sectionId") == section_id)


def by_id(tiles: Iterable[Json]) -> list[Json]:
    """Sort tiles by id."""
    return sorted(tiles, key=lambda tile: tile.get("tileId") or "")


def tile_of(stack: Stack, tile_id: str) -> Json:
    """Return the tile. Raises Refusal, 404, if there is none."""
    if tile_id not in stack.tiles:
        raise Refusal(
            404, f"tile spec with id '{tile_id}' does not exist in the render.{stack.key.collection}tile collection"
        )
    return stack.tiles[tile_id]


def transform_of(stack: Stack, transform_id: str) -> Json:
    """Return the shared transform. Raises Refusal, 404, if there is none."""
    if transform_id not in stack.transforms:
        raise Refusal(404, f"transform spec with id '{transform_id}' does not exist in the {stack.key}")
    return stack.transforms[transform_id]


def resolved(stack: Stack, tiles: Sequence[Json]) -> Json:
    """Return tiles and the shared transforms that they reference; the references are kept."""
    _require_few(tiles)
    needed = all_references((tile["transforms"] for tile in tiles), stack.transforms)
    return {
        "transformIdToSpecMap": {name: stack.transforms[name] for name in sorted(needed) if name in stack.transforms},
        "tileIdToSpecMap": {str(tile.get("tileId")): tile for tile in tiles},
    }


def with_flattened_transforms(stack: Stack, tiles: Sequence[Json]) -> list[Json]:
    """Return tiles with the shared transforms in place of references. An upload of them loses the references."""
    _require_few(tiles)
    return [
        {**tile, "transforms": {"type": "list", "specList": flattened(tile["transforms"], stack.transforms)}}
        for tile in tiles
    ]


def _require_few(tiles: Sequence[Json]) -> None:
    if len(tiles) > MAX_TILES_READ:
        raise Refusal(400, f"query too broad, over {MAX_TILES_READ + 1} tiles match")


def tile_bounds(tile: Json) -> Json:
    """Return the tile's row of tileBounds."""
    row = {key: tile.get(key) for key in (*BOUNDS, "tileId", "z")}
    return without_nulls({**row, "sectionId": tile.get("layout", {}).get("sectionId")})


def without_nulls(row: Json) -> Json:
    """Return the row without nulls, as render-ws writes it."""
    return {key: value for key, value in row.items() if value is not None}
