"""Results of the import commands, as they are written into the output file."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """Why one tile, or a whole z, failed."""

    model_config = ConfigDict(defer_build=True)
    z: int | float
    tileId: str | None = None  # noqa: N815  render's name
    kind: str
    subject: str
    problem: str
    hint: str
    count: int = Field(1, description="failures of the same kind, problem and hint, which this one stands for")


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
    missing_ts_zs: list[int | float] = Field(description="z at which tiles lack their mipmaps")
    tile_count: int = Field(description="tiles that have their mipmaps")


class DryRunResult(Result):
    """Result of any command with --dry_run."""

    parameters: dict[str, Any] = Field(description="all parameters as they were understood")
    zs: list[int | float]
    tile_count: int = Field(description="tiles that the command would process")
    targets: list[str] = Field(description="stacks and files that the command would write")
