"""A stack's mipmap path builder: merging it with the present one, and comparing it with the level files. Pure."""

from collections.abc import Collection, Mapping

from handlers.errors import RenderRefused
from handlers.render.levels import Levels
from handlers.render.names import StackId
from handlers.render.responses import PathBuilder
from handlers.render.tiles import Json, canonical_url, level_0


def merged_builder(subject: str, present: PathBuilder | None, wanted: PathBuilder) -> PathBuilder:
    """Return the builder to set on a stack: the wanted one, or the present one with its level count raised.

    Raises RenderRefused if the present builder derives other paths: if it were replaced, other tiles would lose their
    levels.
    """
    wanted = wanted.normalized()
    if present is None:
        return wanted
    present = present.normalized()
    rule, wanted_rule = (
        (canonical_url(builder.root_path), builder.extension, builder.image_mipmap_pattern_string)
        for builder in (present, wanted)
    )
    if rule != wanted_rule:
        raise RenderRefused(
            subject,
            f"has a path builder for {present.root_path} and {present.extension}, not for {wanted.root_path} and "
            f"{wanted.extension}",
            'write mipmaps to that root in that format, use another stack, or set mipmaps.apply = "tiles"',
        )
    return present.model_copy(update={"number_of_levels": max(present.number_of_levels, wanted.number_of_levels)})


def check_derived(
    target: StackId, specs: Collection[Json], levels_by_tile: Mapping[str, Levels], builder: PathBuilder
) -> None:
    """Raise RenderRefused if the builder derives other paths than those of the level files."""
    for spec in specs:
        raw = level_0(spec)
        if spec.get("channels") or not raw:
            raise RenderRefused(
                f"{target} tile '{spec['tileId']}'", "has channels or no level 0: no path can be derived"
            )
        for level, (image, mask) in levels_by_tile[spec["tileId"]].items():
            made = {"imageUrl": image} | ({"maskUrl": mask} if mask else {})
            for key in ("imageUrl", "maskUrl"):
                if key in raw or key in made:
                    _check_path(f"{target} tile '{spec['tileId']}'", builder, level, raw.get(key), made.get(key))


def _check_path(subject: str, builder: PathBuilder, level: int, source: str | None, made: str | None) -> None:
    derived = builder.derived_path(source, level) if source else None
    if derived is None or made is None or canonical_url(derived) != canonical_url(made):
        raise RenderRefused(
            subject,
            f"has level {level} at {made}, and the path builder derives {derived}",
            'set mipmaps.apply = "tiles", or write mipmaps where the builder expects them',
        )
    if level > builder.number_of_levels:
        raise RenderRefused(
            subject, f"has a level {level}, and the path builder ends at level {builder.number_of_levels}"
        )
