"""Verifying a COMPLETE montage: its tiles in the stacks, and its mipmap files.

Every difference names its subject, a hint, and the step from which a replay repairs it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.difference import APPLY, MIPMAPS, REPLAY, Difference, Kind
from handlers.errors import Fault, ImageFault, ImagesMissing, RenderRefused, StoreFault
from handlers.file_status import status_of
from handlers.identity import FileIdentity
from handlers.images.decode import verify_level
from handlers.images.digest import FileContent, RunningDigest
from handlers.images.header import inspect_image, open_content
from handlers.images.pixels import Grey
from handlers.images.provenance import level0_digest, pixels_match, read_provenance
from handlers.images.reduction import level_size
from handlers.mipmaps.level_digests import are_proved, level_digests
from handlers.mipmaps.measure import digest_of_levels
from handlers.mipmaps.plan import Level0, LevelUris, MipmapPlan
from handlers.objects.files import reading_once
from handlers.path_map import PathMap
from handlers.place import Place
from handlers.render.responses import PathBuilder
from handlers.render.tiles import Json, canonical_url, differences, image_holder, level_0
from handlers.text import z_text
from handlers.verify_stack import check_stack

# --- files


def check_files(
    tile: Level0,
    plan: MipmapPlan,
    recorded: FileContent | None = None,
    levels_digest: bytes | None = None,
    *,
    deep: bool = False,
) -> list[Difference]:
    """Check a tile's level 0 and decode each of its levels. An object is fetched once. Blocking.

    With `deep`, if the checksums of an object store prove that all levels hold the bytes that were written, only the
    smallest level is read.

    Parameters
    ----------
    recorded : identity and digest of level 0 when its levels were made, if they are known.
    levels_digest : digest of the level files when they were written, by `digest_of_levels`; None: not compared.
    deep : whether the bytes of level 0 are read even if the file's identity is the recorded one.
    """
    with reading_once():
        return _check_files(tile, plan, recorded, levels_digest, deep=deep)


def _check_files(
    tile: Level0,
    plan: MipmapPlan,
    recorded: FileContent | None,
    levels_digest: bytes | None,
    *,
    deep: bool,
) -> list[Difference]:
    source = _check_source(tile.tile_id, tile.image, tile.width, tile.height, is_made=tile.stack is not None)
    levels = plan.outputs(tile.image)
    bits = source.bits if plan.reduction.method != "render" else (16 if tile.maximum_intensity > 255 else 8)
    mode = "I;16" if bits == 16 and not plan.convert_to_8bit else "L"
    is_proved = deep and recorded is not None and levels_digest is not None and are_proved(levels, levels_digest)
    read = levels[-1:] if is_proved else levels
    found = [
        *check_stack(tile, recorded, deep=deep),
        *source.differences,
        *_check_levels(tile, read, mode, recorded),
        *_check_origin(tile, read, source, recorded, deep=deep),
    ]
    if levels_digest is not None and not is_proved and not any(difference.start == MIPMAPS for difference in found):
        found += _check_bytes(tile.tile_id, levels, levels_digest)
    return found


def _check_bytes(tile_id: str, levels: Sequence[tuple[int, Place]], expected: bytes) -> Iterator[Difference]:
    """Compare the digest of a tile's level files with the recorded one. Used if no file is invalid by itself."""
    try:
        found = digest_of_levels(level_digests(levels))
    except (OSError, StoreFault):
        return  # a file was deleted after it was checked; the next run reports it
    if found != expected:
        what = f"one of its levels 1 to {levels[-1][0]} holds other bytes than were written"
        yield Difference(Kind.LEVEL_BROKEN, tile_id, str(levels[0][1]), what, REPLAY, MIPMAPS)


def check_mask_files(tile: Level0, plan: MipmapPlan, recorded: FileContent | None = None) -> list[Difference]:
    """Check the mask that the tiles share, and its levels, as `check_files` does. Blocking."""
    if tile.mask is None:
        return []
    source = _check_source(None, tile.mask, tile.width, tile.height, mask=True)
    of_mask = Level0("", tile.mask, None, tile.width, tile.height)
    levels = plan.outputs(tile.mask, mask=True)
    found = _check_levels(of_mask, levels, "L", recorded)
    return [*source.differences, *found, *_check_origin(of_mask, levels, source, recorded)]


@dataclass(frozen=True, slots=True)
class _Source:
    """A level-0 image and its differences."""

    differences: tuple[Difference, ...]
    bits: int = 8


def _check_source(
    tile_id: str | None, path: Place, width: int, height: int, *, mask: bool = False, is_made: bool = False
) -> _Source:
    """Check the header of level 0. `is_made`: temwatch made this file, so a replay makes it again."""
    if is_made and isinstance(path, Path) and not path.exists():
        return _Source((Difference(Kind.LEVEL_MISSING, tile_id, str(path), "level 0 is missing", REPLAY, MIPMAPS),))
    try:
        info = inspect_image(path, mask=mask)
    except FileNotFoundError:
        hint = "copy it there again; its levels are not affected"
        return _Source((Difference(Kind.SOURCE_GONE, tile_id, str(path), "level 0 is missing", hint, None),))
    except ImageFault as fault:
        what = f"level 0 {fault.problem}"
        return _Source((Difference(Kind.SOURCE_CHANGED, tile_id, str(path), what, fault.hint, None),))
    except (OSError, StoreFault) as error:
        return _Source((_unread(tile_id, path, error),))
    if (info.width, info.height) != (width, height):
        what = f"level 0 has {info.width}x{info.height} pixels, expected {width}x{height}"
        hint = "find out who replaced it"
        return _Source((Difference(Kind.SOURCE_CHANGED, tile_id, str(path), what, hint, None),), info.bits)
    return _Source((), info.bits)


def _unread(tile_id: str | None, path: Place, error: OSError | StoreFault) -> Difference:
    why = error.problem if isinstance(error, StoreFault) else error.strerror or error
    what = f"level 0 cannot be read: {why}"
    return Difference(Kind.NOT_CHECKED, tile_id, str(path), what, "check that its mount is there", None)


def _check_levels(
    tile: Level0, levels: Iterable[tuple[int, Place]], mode: str, recorded: FileContent | None
) -> Iterator[Difference]:
    tile_id = tile.tile_id or None
    for level, path in levels:
        try:
            pixels = verify_level(path, *level_size(tile.width, tile.height, level), mode)
            if problem := _pixel_problem(pixels, read_provenance(path), recorded):
                what = f"level {level} {problem}"
                yield Difference(Kind.LEVEL_BROKEN, tile_id, str(path), what, REPLAY, MIPMAPS)
        except (ImagesMissing, FileNotFoundError):
            yield Difference(Kind.LEVEL_MISSING, tile_id, str(path), f"level {level} is missing", REPLAY, MIPMAPS)
        except ImageFault as fault:
            what = f"level {level} {fault.problem}"
            yield Difference(Kind.LEVEL_BROKEN, tile_id, str(path), what, REPLAY, MIPMAPS)
        except (Fault, OSError) as fault:
            # The output directory is missing or empty. A replay makes lost levels again, and waits for a lost mount.
            what = f"level {level} {getattr(fault, 'problem', fault)}"
            hint = getattr(fault, "hint", "check that its mount is there")
            advice = f"{hint}; if the levels are lost, {REPLAY}"
            yield Difference(Kind.NOT_CHECKED, tile_id, str(path), what, advice, MIPMAPS)


def _pixel_problem(pixels: Grey, text: str | None, recorded: FileContent | None) -> str:
    """Return why these pixels are not the written ones; empty if they are, or if the file's text does not say."""
    if not pixels_match(text, pixels):
        return "holds other pixels than were written"
    if recorded is not None and level0_digest(text) is None:
        return "was written by another program: its file does not name the digest of its level 0"
    return ""


def _check_origin(
    tile: Level0,
    levels: Iterable[tuple[int, Place]],
    source: _Source,
    recorded: FileContent | None,
    *,
    deep: bool = False,
) -> Iterator[Difference]:
    """Check that the levels were made from the present bytes of level 0. Times are not compared."""
    if source.differences:
        return
    named = {level: digest for level, path in levels if (digest := _named_digest(path)) is not None}
    if not named and recorded is None:
        return  # levels of a former version of temwatch, or made from pixels of render-ws
    tile_id, what = tile.tile_id or None, ""
    try:
        digest = _digest_of(tile.image, None if deep else recorded)
    except (OSError, StoreFault) as error:
        yield _unread(tile_id, tile.image, error)
        return
    others = ", ".join(str(level) for level, origin in named.items() if origin != digest)
    if recorded is not None and digest != recorded.digest:
        what = "level 0 holds other bytes than its levels were made of"
    elif others:
        what = f"its levels {others} were made of other bytes than level 0 holds"
    if what:
        yield Difference(Kind.SOURCE_CHANGED, tile_id, str(tile.image), what, REPLAY, MIPMAPS)


def _named_digest(path: Place) -> bytes | None:
    try:
        return level0_digest(read_provenance(path))
    except (Fault, OSError):
        return None  # reported with the level


def _digest_of(path: Place, recorded: FileContent | None) -> bytes:
    """Return the digest of level 0. The file is read only if its identity is not the recorded one."""
    with open_content(path) as image:
        identity = FileIdentity.of(status_of(image)) if isinstance(image, int) else None
        if recorded is not None and identity is not None and identity.matches(recorded.identity):
            return recorded.digest
        return RunningDigest(image).digest()


# --- stacks; pure, except that `check_levels_named` looks for files


def check_tiles(
    stack: str, z: float, expected: Iterable[Json], shown: Mapping[str, Json], start: str
) -> Iterator[Difference]:
    """Yield the tiles that a stack lacks at z, or that differ from those of the metafile.

    Parameters
    ----------
    expected : tile specs as the ingest makes them.
    shown : tile specs of the stack at z, by id.
    start : the step that puts tiles into this stack.
    """
    for spec in expected:
        tile_id = str(spec["tileId"])
        found = shown.get(tile_id)
        if found is None:
            yield Difference(Kind.TILE_MISSING, tile_id, stack, f"is not at z {z_text(z)}", REPLAY, start)
            continue
        if found.get("z") != z:
            what = f"has z {found.get('z')}, expected {z_text(z)}"
            yield Difference(Kind.TILE_ELSEWHERE, tile_id, stack, what, REPLAY, start)
        yield from _check_tile(stack, tile_id, spec, found, start)


def _check_tile(stack: str, tile_id: str, spec: Json, shown: Json, start: str) -> Iterator[Difference]:
    """Compare a tile spec field by field, except z and the levels above 0, which have checks of their own."""
    put = {key: value for key, value in spec.items() if key not in ("z", "mipmapLevels")}
    for line in differences(put, shown):
        yield Difference(Kind.TILE_DIFFERS, tile_id, stack, line, REPLAY, start)
    try:
        wanted, found = level_0(image_holder(spec)) or {}, level_0(image_holder(shown)) or {}
    except RenderRefused as fault:
        yield Difference(Kind.TILE_DIFFERS, tile_id, stack, fault.problem, fault.hint, None)
        return
    for key in ("imageUrl", "maskUrl"):
        yield from _check_url(stack, tile_id, f"level 0's {key}", wanted.get(key), found.get(key), start)


def check_transform(stack: str, wanted: Json | None, shown: Mapping[str, Json], start: str) -> Iterator[Difference]:
    """Compare the transform that a montage's tiles share with the stack's transform of the same id.

    Parameters
    ----------
    wanted : the transform as the ingest makes it; None if the tiles share none.
    shown : shared transforms of the stack at z, by id.
    """
    if wanted is None:
        return
    name = str(wanted["id"])
    lines = differences(wanted, shown[name]) if name in shown else ["is missing"]
    for line in lines:
        yield Difference(Kind.TRANSFORM_DIFFERS, None, stack, f"shared transform '{name}': {line}", REPLAY, start)


def check_levels_named(
    stack: str,
    levels_by_tile: Mapping[str, LevelUris],
    shown: Mapping[str, Json],
    path_map: PathMap,
    *,
    derived: bool = False,
) -> Iterator[Difference]:
    """Yield the levels that tiles do not name, or name at another URL, and further named levels without a file.

    Parameters
    ----------
    shown : tile specs of the stack at z, by id.
    path_map : for the paths of further levels.
    derived : whether the stack's path builder derives the levels, so that tiles need not name them.
    """
    for tile_id, levels in levels_by_tile.items():
        if tile_id not in shown:
            continue
        try:
            named = image_holder(shown[tile_id]).get("mipmapLevels") or {}
        except RenderRefused:
            continue  # reported with the tile
        for level, urls in levels.items():
            entry = named.get(str(level)) or {}
            if derived and not entry:
                continue
            for key, url in zip(("imageUrl", "maskUrl"), urls, strict=True):
                yield from _check_url(stack, tile_id, f"level {level}'s {key}", url, entry.get(key), APPLY)
        for level, entry in named.items():
            if level != "0" and int(level) not in levels:
                yield from _check_alive(stack, tile_id, level, entry, path_map)


def _check_url(
    stack: str, tile_id: str, what: str, wanted: str | None, found: str | None, start: str
) -> Iterator[Difference]:
    if wanted is not None and found is None:
        yield Difference(Kind.URL_MISSING, tile_id, stack, f"{what} is not named", REPLAY, start)
    elif found is not None and (wanted is None or canonical_url(wanted) != canonical_url(found)):
        expected = f"expected {wanted}" if wanted else "expected none"
        yield Difference(Kind.URL_DIFFERS, tile_id, stack, f"{what} is {found}, {expected}", REPLAY, start)


def _check_alive(stack: str, tile_id: str, level: str, entry: Json, path_map: PathMap) -> Iterator[Difference]:
    for key in ("imageUrl", "maskUrl"):
        url = entry.get(key)
        try:
            dead = url is not None and not os.path.exists(path_map.to_path(url))  # noqa: PTH110  never raises
        except Fault:
            continue  # another scheme, or a file that only render-ws sees
        if dead:
            what = f"level {level}'s {key} names a missing file: {url}"
            yield Difference(Kind.URL_DEAD, tile_id, stack, what, REPLAY, APPLY)


def check_path_builder(stack: str, wanted: PathBuilder, found: PathBuilder | None) -> Iterator[Difference]:
    """Check that a stack's path builder derives the levels that were made."""
    if found is None:
        yield Difference(Kind.PATH_BUILDER, None, stack, "has no mipmap path builder", REPLAY, APPLY)
        return
    wanted, found = wanted.normalized(), found.normalized()
    same_rule = (canonical_url(wanted.root_path), wanted.extension) == (canonical_url(found.root_path), found.extension)
    if not same_rule or found.image_mipmap_pattern_string or found.number_of_levels < wanted.number_of_levels:
        what = f"has the path builder {found.to_json()}, which does not derive the levels that were made"
        yield Difference(Kind.PATH_BUILDER, None, stack, what, "find out who set it, then replay", APPLY)
