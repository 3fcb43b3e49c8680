"""Tile specs and shared transforms as render-ws carries them (resolvedTiles): what refers to what, uploads, comparison.

Works on the JSON itself: a round trip through a model of ours would lose what we do not know. Pure.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any
from urllib.parse import unquote

from pydantic_core import to_json

from handlers.errors import RenderRefused
from handlers.render.names import require_tile_id
from handlers.text import abbreviate

Json = Mapping[str, Any]

MOST_TILES = 5_000
"""Tiles of one upload."""
MOST_BYTES = 10_000_000
"""Bytes of one upload, shared transforms included; a single tile may exceed it."""


def tile_ids(specs: Iterable[Json]) -> tuple[str, ...]:
    """The ids of the specs, in order. Raises RenderRefused for a spec without one, or an id that no URL can carry."""
    ids = []
    for spec in specs:
        tile_id = spec.get("tileId")
        if not isinstance(tile_id, str):
            raise RenderRefused("tile spec", "has no tileId")
        require_tile_id(tile_id)
        ids.append(tile_id)
    return tuple(ids)


def check_upload(subject: str, z: float, specs: Sequence[Json]) -> None:
    """Refuse what render-ws would refuse, or take and lose: no tiles, another z, one id twice.

    Raises RenderRefused.
    """
    if not specs:
        raise RenderRefused(subject, "was given no tiles to put")
    ids = tile_ids(specs)
    twice = [tile_id for tile_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise RenderRefused(subject, f"was given tile ids twice: {abbreviate(sorted(twice), 5)}")
    elsewhere = [tile_id for tile_id, spec in zip(ids, specs, strict=True) if spec.get("z") != z]
    if elsewhere:
        raise RenderRefused(subject, f"was given tiles of another z than {z}: {abbreviate(sorted(elsewhere), 5)}")


def references(spec: Any) -> Iterator[str]:
    """Ids of shared transforms that a transform spec refers to: itself, in its list, or at the ends of a blend."""
    if not isinstance(spec, Mapping):
        return
    if spec.get("type") == "ref":
        yield spec["refId"]
    for inner in (*(spec.get("specList") or ()), spec.get("a"), spec.get("b")):
        yield from references(inner)


def referenced(tile_id: str, spec: Json, transforms: Mapping[str, Json]) -> tuple[str, ...]:
    """Ids of all shared transforms that a tile needs, in the order in which they are met; those they need, too.

    Raises RenderRefused if one is not among the transforms.
    """
    found: dict[str, None] = {}
    ahead = list(references(spec.get("transforms")))
    while ahead:
        name = ahead.pop(0)
        if name in found:
            continue
        if name not in transforms:
            raise RenderRefused(f"tile '{tile_id}'", f"refers to shared transform '{name}', which is not there")
        found[name] = None
        ahead.extend(references(transforms[name]))
    return tuple(found)


def shared_transforms(specs: Sequence[Json], transforms: Mapping[str, Json]) -> dict[str, Json]:
    """Those of the transforms that the tiles need."""
    ids = tile_ids(specs)
    needed = {name for tile_id, spec in zip(ids, specs, strict=True) for name in referenced(tile_id, spec, transforms)}
    return {name: spec for name, spec in transforms.items() if name in needed}


def upload_bodies(
    specs: Sequence[Json], transforms: Mapping[str, Json], most_tiles: int = MOST_TILES, most_bytes: int = MOST_BYTES
) -> list[bytes]:
    """Bodies of the requests that put these tiles, each with every shared transform that its tiles need.

    render-ws does not look into its database for transforms that an upload leaves out.
    """
    shared = {name: _member(name, spec) for name, spec in transforms.items()}
    bodies: list[bytes] = []
    tiles: list[bytes] = []
    along: dict[str, bytes] = {}
    size = 0
    for tile_id, spec in zip(tile_ids(specs), specs, strict=True):
        tile = _member(tile_id, spec)
        needed = {name: shared[name] for name in referenced(tile_id, spec, transforms)} if _REFERENCE in tile else {}
        cost = len(tile) + 1 + _size(needed, along)
        if tiles and (len(tiles) >= most_tiles or size + cost > most_bytes):
            bodies.append(_body(tiles, along))
            tiles, along, size = [], {}, 0
            cost = len(tile) + 1 + _size(needed, along)
        tiles.append(tile)
        along |= needed
        size += cost
    return [*bodies, _body(tiles, along)]


_REFERENCE = b'"type":"ref"'
"""How it is written that a transform is a reference: where this is not, there is none to be looked for."""


def _member(name: str, value: Json) -> bytes:
    """A member of a JSON object, by its name."""
    return encode_basestring_ascii(name).encode() + b":" + _encoded(name, value)


def _encoded(subject: str, spec: Json) -> bytes:
    """The spec as JSON without nulls. Few hold any, and to look for one in the text costs little."""
    try:
        text = to_json(spec, inf_nan_mode="null")
    except ValueError:  # text that is not Unicode, from a file name, which JSON carries in escapes
        text = b"null"
    return _strictly_encoded(subject, spec) if b"null" in text else text


def _strictly_encoded(subject: str, spec: Json) -> bytes:
    try:
        return json.dumps(without_nulls(spec), allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise RenderRefused(f"'{subject}'", f"cannot be written as JSON: {error}") from None


def _size(needed: Mapping[str, bytes], there: Mapping[str, bytes]) -> int:
    """Bytes of those members that are not there yet, with their commas."""
    return sum(len(member) + 1 for name, member in needed.items() if name not in there)


def _body(tiles: Iterable[bytes], transforms: Mapping[str, bytes]) -> bytes:
    members = b",".join(transforms.values()), b",".join(tiles)
    return b'{"transformIdToSpecMap":{%b},"tileIdToSpecMap":{%b}}' % members


def image_holder(spec: Json) -> Json:
    """The part of a tile spec whose mipmap levels render-ws shows: the spec itself, or its only channel.

    With channels render-ws ignores the top-level levels. Of several channels it cannot be known whose image is meant.

    Raises RenderRefused for several channels, or one whose image is another than that of the spec.
    """
    channels = spec.get("channels") or []
    if not channels:
        return spec
    own, of_channel = level_0(spec), level_0(channels[0])
    if len(channels) > 1 or (own and of_channel and not _same_image(own, of_channel)):
        raise RenderRefused(
            f"tile '{spec.get('tileId')}'",
            f"has {len(channels)} channels, and nothing says of which the mipmap levels are",
            "use tiles with one image each",
        )
    holder: Json = channels[0]
    return holder


def level_0(holder: Json) -> dict[str, Any] | None:
    """URLs of the image and mask of mipmap level 0 of a tile spec or channel; None if it has none."""
    entry = (holder.get("mipmapLevels") or {}).get("0")
    return dict(entry) if entry else None


def _same_image(one: Json, other: Json) -> bool:
    return canonical_url(str(one.get("imageUrl"))) == canonical_url(str(other.get("imageUrl")))


def without_nulls(value: Any) -> Any:
    """The value without members that are null: render-ws reads some nulls as zero, and trips over others."""
    if isinstance(value, Mapping):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(member) for member in value]
    return value


_URLS = ("imageUrl", "maskUrl")


def differences(sent: Any, shown: Any, where: str = "") -> Iterator[str]:
    """What a stack shows otherwise than it was sent, as lines that name the place. What was sent as null counts as not
    sent.

    render-ws adds fields of its own (bounds, meshCellSize, type), so more is no difference, except more mipmap levels
    or more transforms. URLs of files are equal if they name the same path, and parameters of transforms if their
    numbers are equal.
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
    """Whether every member is shown as it was sent: of nearly all tiles that is all there is to say."""
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
    """The parameters of a transform, however their numbers are written."""
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
    """The one spelling for all URLs of a file that mean the same path: `file:/d/a b.tif`, unescaped.

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
