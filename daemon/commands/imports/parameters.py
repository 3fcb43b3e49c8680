"""Parameters of the three import commands: a table of fields.

Names, types, defaults and aliases are those of asap-modules; docs/compatibility.md lists the differences. Numbers and
booleans may be given as strings. New parameters are last in each model. Symbolic links of a path are resolved, those of
a URI are not, as in asap-modules.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from daemon.commands.imports.aliases import Parameters
from daemon.commands.imports.render import RenderParameters
from daemon.commands.imports.value_types import (
    Directory,
    ExistingFile,
    ImageFormat,
    InputPlace,
    Levels,
    LevelUrl,
    LogLevel,
    Name,
    OutputPlace,
    Resolution,
    SomePath,
    Z,
    none_if_named,
    split_list,
    split_paths,
    upper_case,
)
from handlers.errors import Fault
from handlers.place import ObjectPlace, unreadable_by_render
from handlers.render.names import StackId, ZRange
from handlers.text import z_text

if TYPE_CHECKING:
    from handlers.acquisition.tilespec import TileSpecOptions


class CommandParameters(Parameters):
    """Parameters of every command."""

    render: RenderParameters
    log_level: LogLevel = Field("ERROR", description="lowest level of the log lines on stderr")
    input_json: SomePath | None = Field(None, description="file with parameters; flags override it")
    output_json: SomePath | None = Field(None, description="file for the result; without it the result goes to stdout")
    failures_file: SomePath | None = Field(None, description="file for the list of all failures, as JSON")
    dry_run: bool = Field(
        False, description="whether parameters, tiles and targets are printed only; nothing is changed"
    )

    @model_validator(mode="after")
    def _files_have_a_directory(self) -> "CommandParameters":
        for name, file in (("output_json", self.output_json), ("failures_file", self.failures_file)):
            if file is not None and not file.parent.is_dir():
                raise ValueError(f"{name}: there is no directory {file.parent}")
        return self

    @property
    def warnings(self) -> list[str]:
        """One warning for each value that has no effect."""
        return []

    def stack_id(self, name: str) -> StackId:
        """Return the full name of a stack."""
        return StackId(self.render.owner, self.render.project, name)


class StackVersionParameters(Parameters):
    """Metadata of a stack, used when the stack is created."""

    stackResolutionX: Resolution | None = Field(None, description="nanometres per pixel in x")  # noqa: N815
    stackResolutionY: Resolution | None = Field(None, description="nanometres per pixel in y")  # noqa: N815
    stackResolutionZ: Resolution | None = Field(None, description="nanometres between sections")  # noqa: N815
    stackResolutionValues: Annotated[  # noqa: N815
        tuple[Resolution, Resolution, Resolution] | None, BeforeValidator(split_list)
    ] = Field(None, description="x, y, z as a list; the single values override it")
    createTimestamp: str | None = Field(None, description="not used")  # noqa: N815
    versionNotes: str | None = Field(None, description="not used")  # noqa: N815
    cycleNumber: int | None = Field(None, description="not used")  # noqa: N815
    cycleStepNumber: int | None = Field(None, description="not used")  # noqa: N815
    materializedBoxRootPath: str | None = Field(None, description="not used")  # noqa: N815
    mipmapPathBuilder: dict[str, Any] | None = Field(None, description="not used")  # noqa: N815
    cycle: dict[str, Any] | None = Field(None, description="not used")

    @property
    def resolution_nm(self) -> tuple[float | None, float | None, float | None]:
        """x, y, z; None where a value is not given."""
        single = self.stackResolutionX, self.stackResolutionY, self.stackResolutionZ
        x, y, z = (
            value or default for value, default in zip(single, self.stackResolutionValues or (None,) * 3, strict=True)
        )
        return x, y, z

    def unused(self) -> list[str]:
        """Return a warning for each value that has no effect."""
        used = {"stackResolutionX", "stackResolutionY", "stackResolutionZ", "stackResolutionValues"}
        names = [name for name in type(self).model_fields if name not in used and getattr(self, name) is not None]
        return [f"output_stackVersion.{name}: is not used" for name in names]


class _IntoStack(CommandParameters):
    """Parameters of the commands that write a stack."""

    output_stackVersion: Annotated[  # noqa: N815  its name
        StackVersionParameters, BeforeValidator(lambda value: {} if value is None else value)
    ] = Field(StackVersionParameters(), description="resolution of a stack that is created")

    @property
    def warnings(self) -> list[str]:
        return self.output_stackVersion.unused()


Z_NAMES_OF: Mapping[str, tuple[str, ...]] = {
    "z": ("z", "z_index"),
    "zstart": ("minZ", "zstart"),
    "zend": ("maxZ", "zend"),
    "zValues": ("zValues", "zs"),
}
Z_NAMES = frozenset(name for names in Z_NAMES_OF.values() for name in names)
"""All names of parameters that select z. zValues overrides z, and z overrides zstart and zend."""


Z_MISSING = "z: is missing; set z, zValues, or zstart and zend"


class LayerParameters(CommandParameters):
    """Parameters that select the layers."""

    z: Z | None = Field(None, description="z of the section in the stack; fractions are kept")
    zstart: Z | None = Field(None, description="first z of a range")
    zend: Z | None = Field(None, description="last z of a range")
    zValues: Annotated[list[Z] | None, BeforeValidator(split_list)] = Field(  # noqa: N815  its name
        None, description="several z"
    )

    @model_validator(mode="after")
    def _has_a_z(self) -> "LayerParameters":
        if self.zValues is not None and not self.zValues:
            raise ValueError("zValues: is empty")
        if self.zValues is None and self.z is None:
            if self.zstart is None and self.zend is None:
                raise ValueError(Z_MISSING)
            if self.zstart is None or self.zend is None:
                raise ValueError(f"{'zstart' if self.zstart is None else 'zend'}: is missing; a range needs both")
            if self.zstart > self.zend:
                raise ValueError(f"zend: {z_text(self.zend)} is below zstart, {z_text(self.zstart)}")
        return self

    @property
    def wanted_zs(self) -> tuple[float, ...] | ZRange:
        """z of the layers."""
        if self.zValues is not None:
            return tuple(self.zValues)
        if self.z is not None:
            return (self.z,)
        assert self.zstart is not None
        assert self.zend is not None
        return ZRange(self.zstart, self.zend)


class TilespecsParameters(LayerParameters, _IntoStack):
    """generate_EM_tilespecs_from_metafile: put tile specs of a pyTEMCA metafile into a stack, at stage coordinates."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Z_NAMES_OF,
        "stack": ("output_stack", "stack", "outputStack"),
        "metafile": ("metafile_uri", "metafile"),
        "image_directory": ("image_prefix", "image_directory"),
        "maskUrl": ("maskUrl_uri", "maskUrl"),
    }

    metafile: ExistingFile = Field(description="metafile of a pyTEMCA montage")
    stack: Name = Field(description="stack that the tiles are added to")
    image_directory: Directory | None = Field(None, description="directory of the images; by default the metafile's")
    minimum_intensity: int = Field(0, description="intensity that is shown as black")
    maximum_intensity: int = Field(255, description="intensity that is shown as white")
    sectionId: str | None = Field(  # noqa: N815  its name
        None, min_length=1, description="section id of the tiles; by default z, as in 1050.0"
    )
    maskUrl: ExistingFile | None = Field(None, description="mask image of every tile")  # noqa: N815  its name
    overwrite_zlayer: bool = Field(False, description="whether other tiles of this z are deleted after the upload")
    close_stack: bool = Field(False, description="whether the stack is set COMPLETE at the end")
    pool_size: int = Field(1, ge=1, le=1024, description="largest number of connections to render-ws")
    resolution_z: float = Field(45.0, gt=0, description="nanometres between sections of a stack that is created")
    positions: Literal["integer", "exact"] = Field(
        "integer", description="tile positions truncated to whole pixels, or exact"
    )
    origin: Literal["roi", "stage"] = Field(
        "roi", description="each region at its own origin, or all regions of a z at that of the stage"
    )
    shared_transform: bool = Field(False, description="whether tiles refer to the metafile's lens correction")

    @model_validator(mode="after")
    def _goes_to_one_z(self) -> "TilespecsParameters":
        wanted = self.wanted_zs
        several = wanted.first != wanted.last if isinstance(wanted, ZRange) else len(wanted) > 1
        if several:
            name = "zstart, zend" if isinstance(wanted, ZRange) else "zValues"
            raise ValueError(f"{name}: a metafile has exactly one z")
        if self.minimum_intensity >= self.maximum_intensity:
            raise ValueError(f"minimum_intensity: {self.minimum_intensity} is not below {self.maximum_intensity}")
        return self

    @property
    def options(self) -> "TileSpecOptions":
        """The options of the tile specs."""
        from handlers.acquisition.tilespec import Origin, Positions, TileSpecOptions

        return TileSpecOptions(
            minimum_intensity=self.minimum_intensity,
            maximum_intensity=self.maximum_intensity,
            section_id=self.sectionId,
            mask=self.maskUrl,
            positions=Positions(self.positions),
            origin=Origin(self.origin),
            path_map=self.render.paths,
        )

    @property
    def one_z(self) -> float:
        """z of the section."""
        wanted = self.wanted_zs
        return wanted.first if isinstance(wanted, ZRange) else wanted[0]


class MipmapParameters(LayerParameters):
    """generate_mipmaps: make the mipmap levels of every tile of some layers of a stack."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Z_NAMES_OF,
        "input_stack": ("input_stack", "stack", "inputStack"),
        "output_dir": ("output_prefix", "output_dir"),
    }

    input_stack: Name = Field(description="stack whose tiles get mipmaps")
    output_dir: OutputPlace = Field(
        description="directory that the mipmaps are written to, or a place in an object store: s3://bucket/prefix"
    )
    method: Literal["block_reduce", "PIL", "render"] = Field(
        "block_reduce",
        description="block_reduce: a function of each block of pixels; PIL: a filter of Pillow; "
        "render: the mean of the pixels that render-ws returns",
    )
    block_func: Literal["mean", "median", "min", "max", "mode"] = Field(
        "mean", description="function of method block_reduce"
    )
    PIL_filter: Annotated[
        Literal["NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS"], BeforeValidator(upper_case)
    ] = Field("NEAREST", description="filter of method PIL")
    imgformat: ImageFormat = Field("tiff", validate_default=True, description="tif, tiff, png or jpg")
    levels: Levels = Field(6, description="number of mipmap levels")
    convert_to_8bit: bool = Field(True, description="whether 16-bit images get 8-bit mipmaps")
    force_redo: bool = Field(True, description="whether valid mipmaps are made again")
    pool_size: int = Field(20, ge=1, le=1024, description="worker processes")
    quality: int | None = Field(None, ge=1, le=100, description="quality of jpg; by default 95")
    compression: str | None = Field(
        None, description="tif: none, lzw, deflate or packbits, by default none; png: 0 to 9, by default 6"
    )
    intensity_range: Annotated[tuple[int, int], BeforeValidator(split_list)] = Field(
        (0, 65535), description="16-bit values that convert_to_8bit turns into 0 and 255"
    )
    clear_image_cache: bool = Field(
        True, description="whether the image cache of render-ws is cleared if mipmaps were replaced"
    )
    source_roots: Annotated[list[Directory] | None, BeforeValidator(split_paths)] = Field(
        None, min_length=1, description="directories that must contain the images; by default any"
    )
    largest_image_megapixels: float = Field(
        270, gt=0, le=4096, description="largest image; larger images are refused, and workers may use memory for it"
    )

    @model_validator(mode="after")
    def _can_be_written(self) -> "MipmapParameters":
        low, high = self.intensity_range
        if not 0 <= low < high <= 65535:
            raise ValueError(f"intensity_range: {low}, {high} are not ascending values from 0 to 65535")
        from handlers.images.encode import Encoding  # imports Pillow, which only this command needs

        try:
            Encoding(self.imgformat, self.quality, self.compression)
        except Fault as fault:
            raise ValueError(f"{fault.subject.removeprefix('mipmaps.')}: {fault.problem}") from None
        return self

    @property
    def function(self) -> str:
        """The function or filter of the method."""
        return {"block_reduce": self.block_func, "PIL": self.PIL_filter, "render": "mean"}[self.method]


class ApplyParameters(LayerParameters, _IntoStack):
    """apply_mipmaps_to_render: put existing mipmap levels into the tile specs of a stack."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Z_NAMES_OF,
        "input_stack": ("input_stack", "inputStack"),
        "output_stack": ("output_stack", "outputStack"),
        "mipmap_dir": ("mipmap_prefix", "mipmap_dir"),
    }

    input_stack: Name = Field(description="stack with the tiles")
    output_stack: Annotated[Name | None, BeforeValidator(none_if_named)] = Field(
        None, description="stack that gets the tiles with their mipmaps; by default the input stack"
    )
    mipmap_dir: InputPlace = Field(description="directory of the mipmaps, or their place in an object store")
    imgformat: ImageFormat = Field("tiff", validate_default=True, description="tif, tiff, png or jpg")
    levels: Levels = Field(6, description="number of mipmap levels")
    close_stack: bool = Field(False, description="whether the output stack is set COMPLETE at the end")
    overwrite_zlayer: bool = Field(
        False, description="whether tiles that the input stack does not have are deleted from the output stack's z"
    )
    pool_size: int = Field(20, ge=1, le=1024, description="layers processed at the same time")
    mipmap_url: LevelUrl = Field(
        "", description="http(s) address at which render-ws reads the mipmaps, in place of mipmap_dir"
    )

    @model_validator(mode="after")
    def _render_can_read_the_levels(self) -> "ApplyParameters":
        if self.mipmap_url or not isinstance(self.mipmap_dir, ObjectPlace):
            return self
        from handlers.objects.connection import environment_endpoint

        bucket = self.mipmap_dir.bucket
        if problem := unreadable_by_render(bucket, has_endpoint=bool(environment_endpoint(bucket.scheme))):
            raise ValueError(f"mipmap_url: {problem}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _says_which_stack(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "stack" in values:
            raise ValueError("stack: is ambiguous; use input_stack or output_stack")
        return values
