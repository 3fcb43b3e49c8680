"""Results of the import commands, as they are written to the output file."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """Why a tile or a whole z failed."""

    model_config = ConfigDict(defer_build=True)
    z: int | float
    tileId: str | None = None  # noqa: N815  render's name
    kind: str
    subject: str
    problem: str
    hint: str
    count: int = Field(1, description="number of failures with the same kind, problem and hint")


class Result(BaseModel):
    """Fields of every result."""

    model_config = ConfigDict(defer_build=True)
    tile_count: int
    failures: list[Problem] = []
    failure_count: int = Field(0, description="number of all failures; `failures` lists at most 100 different ones")
    warnings: list[str] = []


class TilespecsResult(Result):
    """Result of generate_EM_tilespecs_from_metafile."""

    stack: str = Field(description="stack that the tiles were added to")


class MipmapResult(Result):
    """Result of generate_mipmaps."""

    levels: int
    output_prefix: str
    tile_count: int = Field(description="tiles that have all their mipmaps")


class ApplyResult(Result):
    """Result of apply_mipmaps_to_render."""

    output_stack: str
    missing_ts_zs: list[int | float] = Field(description="z with tiles that have no mipmaps")
    tile_count: int = Field(description="tiles that have their mipmaps")


class DryRunResult(Result):
    """Result of any command with --dry_run."""

    parameters: dict[str, Any] = Field(description="all parameters as they were parsed")
    zs: list[int | float]
    tile_count: int = Field(description="tiles that the command would process")
    targets: list[str] = Field(description="stacks and files that the command would write")
