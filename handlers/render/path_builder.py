"""A stack's mipmap path builder: merged with the one that is there, and held against the files that were made. Pure."""

from collections.abc import Collection, Mapping

from handlers.errors import RenderRefused
from handlers.render.levels import Levels
from handlers.render.names import StackId
from handlers.render.responses import PathBuilder
from handlers.render.tiles import Json, canonical_url, level_0


def merged_builder(subject: str, there: PathBuilder | None, wanted: PathBuilder) -> PathBuilder:
    """The builder to set on a stack: the wanted one, or the one there with its level count raised.

    Raises RenderRefused if the one there derives other names: levels that other tiles rely on would be lost.
    """
    wanted = wanted.normalized()
    if there is None:
        return wanted
    there = there.normalized()
    rule, wanted_rule = (
        (canonical_url(builder.root_path), builder.extension, builder.image_mipmap_pattern_string)
        for builder in (there, wanted)
    )
    if rule != wanted_rule:
        raise RenderRefused(
            subject,
            f"has a path builder for {there.root_path} and {there.extension}, not for {wanted.root_path} and "
            f"{wanted.extension}",
            "write mipmaps to that root in that format, or use another stack, or apply to tiles",
        )
    return there.model_copy(update={"number_of_levels": max(there.number_of_levels, wanted.number_of_levels)})


def check_derived(
    target: StackId, specs: Collection[Json], levels_by_tile: Mapping[str, Levels], builder: PathBuilder
) -> None:
    """Refuse a builder that would name other files than were made. Raises RenderRefused."""
    for spec in specs:
        raw = level_0(spec)
        if spec.get("channels") or not raw:
            raise RenderRefused(
                f"{target} tile '{spec['tileId']}'", "has channels, or no level 0, to derive names from"
            )
        for level, (image, mask) in levels_by_tile[spec["tileId"]].items():
            made = {"imageUrl": image} | ({"maskUrl": mask} if mask else {})
            for key in ("imageUrl", "maskUrl"):
                if key in raw or key in made:
                    _check_name(f"{target} tile '{spec['tileId']}'", builder, level, raw.get(key), made.get(key))


def _check_name(subject: str, builder: PathBuilder, level: int, source: str | None, made: str | None) -> None:
    derived = builder.derived_path(source, level) if source else None
    if derived is None or made is None or canonical_url(derived) != canonical_url(made):
        raise RenderRefused(
            subject,
            f"has level {level} at {made}, where the path builder derives {derived}",
            "apply to tiles, or write mipmaps where the builder looks",
        )
    if level > builder.number_of_levels:
        raise RenderRefused(subject, f"has a level {level}, the path builder ends at {builder.number_of_levels}")
