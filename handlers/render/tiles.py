"""Tile specs and shared transforms as JSON (resolvedTiles): references, bodies of uploads, comparison. Pure.

The functions work on the JSON itself, since a model would lose unknown fields.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from handlers.errors import RenderRefused
from handlers.render.names import require_tile_id
from handlers.text import abbreviate

Json = Mapping[str, Any]

MAX_TILES = 5_000
"""Largest number of tiles of one upload."""
MAX_BYTES = 10_000_000
"""Largest number of bytes of one upload, including shared transforms; a single tile may exceed it."""


def tile_ids(specs: Iterable[Json]) -> tuple[str, ...]:
    """Return the ids of the specs, in order. Raises RenderRefused for an id that is missing or invalid in a URL."""
    ids = []
    for spec in specs:
        tile_id = spec.get("tileId")
        if not isinstance(tile_id, str):
            raise RenderRefused("tile spec", "has no tileId")
        require_tile_id(tile_id)
        ids.append(tile_id)
    return tuple(ids)


def check_upload(subject: str, z: float, specs: Sequence[Json]) -> None:
    """Raise RenderRefused for an upload without tiles, with tiles of another z, or with duplicate ids.

    render-ws would refuse such an upload, or accept it and lose tiles.
    """
    if not specs:
        raise RenderRefused(subject, "was given no tiles to put")
    ids = tile_ids(specs)
    duplicates = [tile_id for tile_id, count in Counter(ids).items() if count > 1]
    if duplicates:
        raise RenderRefused(subject, f"was given duplicate tile ids: {abbreviate(sorted(duplicates), 5)}")
    elsewhere = [tile_id for tile_id, spec in zip(ids, specs, strict=True) if spec.get("z") != z]
    if elsewhere:
        raise RenderRefused(subject, f"was given tiles of another z, expected {z}: {abbreviate(sorted(elsewhere), 5)}")


def references(spec: Any) -> Iterator[str]:
    """Yield the ids of the shared transforms to which a transform spec, its list or its interpolation refers."""
    if not isinstance(spec, Mapping):
        return
    if spec.get("type") == "ref" and spec.get("refId"):
        yield spec["refId"]
    for inner in (*(spec.get("specList") or ()), spec.get("a"), spec.get("b")):
        yield from references(inner)


def referenced(tile_id: str, spec: Json, transforms: Mapping[str, Json]) -> tuple[str, ...]:
    """Return the ids of all shared transforms that a tile needs, directly or indirectly, in order of appearance.

    Raises RenderRefused if one of them is missing.
    """
    found: dict[str, None] = {}
    queue = list(references(spec.get("transforms")))
    while queue:
        name = queue.pop(0)
        if name in found:
            continue
        if name not in transforms:
            raise RenderRefused(f"tile '{tile_id}'", f"refers to shared transform '{name}', which is missing")
        found[name] = None
        queue.extend(references(transforms[name]))
    return tuple(found)


def shared_transforms(specs: Sequence[Json], transforms: Mapping[str, Json]) -> dict[str, Json]:
    """Return the transforms that the tiles need."""
    ids = tile_ids(specs)
    needed = {name for tile_id, spec in zip(ids, specs, strict=True) for name in referenced(tile_id, spec, transforms)}
    return {name: spec for name, spec in transforms.items() if name in needed}


def upload_parts(
    specs: Sequence[Json], transforms: Mapping[str, Json], max_tiles: int = MAX_TILES, max_bytes: int = MAX_BYTES
) -> list[tuple[bytes, int]]:
    """Return the bodies of the requests that put these tiles, each with the number of its tiles.

    A body contains every shared transform that its tiles need: render-ws does not read missing ones from its database.
    """
    shared = {name: _member(name, spec) for name, spec in transforms.items()}
    parts: list[tuple[bytes, int]] = []
    tiles: list[bytes] = []
    included: dict[str, bytes] = {}
    size = 0
    for tile_id, spec in zip(tile_ids(specs), specs, strict=True):
        tile = _member(tile_id, spec)
        needed = {name: shared[name] for name in referenced(tile_id, spec, transforms)} if _REFERENCE in tile else {}
        cost = len(tile) + 1 + _size(needed, included)
        if tiles and (len(tiles) >= max_tiles or size + cost > max_bytes):
            parts.append((_body(tiles, included), len(tiles)))
            tiles, included, size = [], {}, 0
            cost = len(tile) + 1 + _size(needed, included)
        tiles.append(tile)
        included |= needed
        size += cost
    return [*parts, (_body(tiles, included), len(tiles))]


_encode = msgspec.json.Encoder().encode
_REFERENCE = b'"type":"ref"'
"""JSON text that every reference to a transform contains. A tile without this text has no references."""


def _member(name: str, value: Json) -> bytes:
    """Return a member of a JSON object, without nulls. Few specs contain a null, and searching the text is cheap."""
    whole = {name: value}
    try:
        text = _encode(whole)  # writes null for a number that JSON cannot express
    except (ValueError, OverflowError, TypeError):  # json.dumps can write lone surrogates, long numbers and subclasses
        text = b"null"
    return (_strictly_encoded(name, whole) if b"null" in text else text)[1:-1]


def _strictly_encoded(subject: str, value: Json) -> bytes:
    try:
        return json.dumps(without_nulls(value), allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError) as error:
        raise RenderRefused(f"'{subject}'", f"cannot be written as JSON: {error}") from None


def _size(needed: Mapping[str, bytes], included: Mapping[str, bytes]) -> int:
    """Return the bytes of the members that are not included yet, with their commas."""
    return sum(len(member) + 1 for name, member in needed.items() if name not in included)


def _body(tiles: Iterable[bytes], transforms: Mapping[str, bytes]) -> bytes:
    members = b",".join(transforms.values()), b",".join(tiles)
    return b'{"transformIdToSpecMap":{%b},"tileIdToSpecMap":{%b}}' % members


def image_holder(spec: Json) -> Json:
    """Return the part of a tile spec whose mipmap levels render-ws shows: the spec itself, or its only channel.

    render-ws ignores the top-level levels of a tile with channels.

    Raises RenderRefused for several channels, which are ambiguous, and for a channel with another image than the spec.
    """
    channels = spec.get("channels") or []
    if not channels:
        return spec
    own, of_channel = level_0(spec), level_0(channels[0])
    if len(channels) > 1 or (own and of_channel and not _same_image(own, of_channel)):
        raise RenderRefused(
            f"tile '{spec.get('tileId')}'",
            f"has {len(channels)} channels, so its image is ambiguous",
            "use tiles with one image each",
        )
    holder: Json = channels[0]
    return holder


def level_0(holder: Json) -> dict[str, Any] | None:
    """Return level 0 of a tile spec or channel, with the URLs of image and mask; None if there is no level 0."""
    entry = (holder.get("mipmapLevels") or {}).get("0")
    return dict(entry) if entry else None


def _same_image(one: Json, other: Json) -> bool:
    return canonical_url(str(one.get("imageUrl"))) == canonical_url(str(other.get("imageUrl")))


def without_nulls(value: Any) -> Any:
    """Return the value without null members: render-ws reads some nulls as zero and fails because of others."""
    if isinstance(value, Mapping):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(member) for member in value]
    return value


def json_body(subject: str, value: object) -> bytes:
    """Return the body of a request, without nulls. Raises RenderRefused for a value that JSON cannot express."""
    try:
        return json.dumps(without_nulls(value), allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise RenderRefused(subject, f"cannot be written as JSON: {error}") from None


_URLS = ("imageUrl", "maskUrl")


def differences(sent: Any, shown: Any, where: str = "") -> Iterator[str]:
    """Yield a line for each value that a stack shows differently from what was sent.

    render-ws adds fields (bounds, meshCellSize, type), so an additional field is no difference, except an additional
    mipmap level or transform. A null that was sent counts as not sent. File URLs are equal if they name the same path,
    and parameters of transforms if their numbers are equal.

    Parameters
    ----------
    where : path of the value, for the lines.
    """
    if sent == shown or (_is_contained(sent, shown) and not where.endswith("mipmapLevels")):
        return
    if isinstance(sent, Mapping) and isinstance(shown, Mapping):
        yield from _member_differences(sent, shown, where)
    elif isinstance(sent, list | tuple) and isinstance(shown, list) and len(sent) == len(shown):
        for index, (one, other) in enumerate(zip(sent, shown, strict=True)):
            yield from differences(one, other, f"{where}[{index}]")
    elif not _same(sent, shown, where.rpartition(".")[2]):
        yield f"{where}: sent {_short(sent)}, shown {_short(shown)}"


def _is_contained(sent: Any, shown: Any) -> bool:
    """Whether every member is shown as sent. This is the fast path for nearly all tiles."""
    return isinstance(sent, dict) and isinstance(shown, dict) and sent.items() <= shown.items()


def _member_differences(sent: Json, shown: Json, where: str) -> Iterator[str]:
    for key, value in sent.items():
        if value is None or value == shown.get(key):
            continue
        place = f"{where}.{key}" if where else key
        if key in shown:
            yield from differences(value, shown[key], place)
        elif without_nulls(value) not in ({}, []):
            yield f"{place}: sent {_short(value)}, not shown"
    if where.endswith("mipmapLevels"):
        for key in sorted(key for key in shown if sent.get(key) is None):
            yield f"{where}.{key}: not sent, shown {_short(shown[key])}"


def _same(sent: Any, shown: Any, key: str) -> bool:
    if key in _URLS and isinstance(sent, str) and isinstance(shown, str):
        return canonical_url(sent) == canonical_url(shown)
    if key == "dataString" and isinstance(sent, str) and isinstance(shown, str):
        return _numbers(sent) == _numbers(shown)
    return bool(sent == shown)


def _numbers(data: str) -> list[float | str]:
    """Return the parameters of a transform, with numbers as floats."""
    return [_number(word) for word in data.split()]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def canonical_url(url: str) -> str:
    """Return the same text for all file URLs of one path: `file:/d/a b.tif`, unescaped.

    >>> canonical_url("file:///d/a%20b.tif") == canonical_url("file:/d/a%20b.tif") == canonical_url("/d/a b.tif")
    True
    """
    if ":" not in url:
        path = url
    elif url.startswith("file:"):
        path = unquote(url.removeprefix("file:").removeprefix("//localhost"))
    else:
        return url
    return "file:/" + posixpath.normpath(path).lstrip("/")
