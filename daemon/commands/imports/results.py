"""Results of the import commands, as they go into the output file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from handlers.uris import path_to_uri


class Problem(BaseModel):
    """Why a tile, or a whole z, could not be done."""

    z: int | float
    tileId: str | None = None  # noqa: N815  render's name
    kind: str
    subject: str
    problem: str
    hint: str


class Result(BaseModel):
    """What every result has."""

    tile_count: int
    failures: list[Problem] = []
    warnings: list[str] = []


class TilespecsResult(Result):
    """Result of generate_EM_tilespecs_from_metafile."""

    stack: str = Field(description="stack to which generated tiles were added")


class MipmapResult(Result):
    """Result of generate_mipmaps."""

    levels: int
    output_prefix: str
    tile_count: int = Field(description="tiles whose mipmaps are all there")


class ApplyResult(Result):
    """Result of apply_mipmaps_to_render."""

    output_stack: str
    missing_ts_zs: list[int | float] = Field(description="z at which tiles lack their mipmaps")
    tile_count: int = Field(description="tiles that have their mipmaps")


def prefix_of(directory: Path) -> str:
    """The URI prefix that a directory is."""
    return path_to_uri(directory)


def problems(failures: Iterable[Any]) -> list[Problem]:
    """Failures of a handler for a result."""
    return [Problem.model_validate(failure.to_json()) for failure in failures]
