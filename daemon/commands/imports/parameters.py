"""Parameters and results of the three import commands, as the tools that they replace have them.

Names, types, defaults and aliases are those of asap-modules; docs/compatibility.md lists what differs. Values may be
strings that mean numbers or booleans. Parameters that those tools do not have come last in each model. A path is
resolved, symbolic links included, and a URI is taken as it stands: so do those tools.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from daemon.commands.imports.values import (
    Directory,
    ExistingFile,
    ImageFormat,
    Levels,
    LogLevel,
    Name,
    Resolution,
    ResolvedPath,
    SomePath,
    Z,
    none_if_named,
    split_list,
    upper_case,
)
from handlers.errors import Fault
from handlers.render.names import StackId, ZRange, checked_base_url


class Parameters(BaseModel):
    """What all of them have in common: a value that is not understood is refused, by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """All names of a parameter that has several, its own among them; the first one that is given counts."""

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, values: Any) -> Any:
        return canonical(cls, values)[0] if isinstance(values, Mapping) else values


def canonical(model: type[Parameters], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values under their parameters' own names, and a warning for each value that another name's overrides."""
    result = dict(values)
    warnings: list[str] = []
    for own, names in model.NAMES.items():
        given = {name: result.pop(name) for name in names if name in result}
        said = [name for name in given if given[name] is not None]
        if given:
            result[own] = given[said[0]] if said else None
        overridden = [name for name in said if given[name] != result[own]]
        warnings += [f"{name}: {given[name]!r} is ignored, because {said[0]} is {result[own]!r}" for name in overridden]
    return result, warnings


class RenderParameters(Parameters):
    """The render web service."""

    host: str = Field(min_length=1, description="render host, with or without http://")
    port: int = Field(ge=1, le=65535, description="render port")
    owner: Name = Field(description="render default owner")
    project: Name = Field(description="render default project")
    client_scripts: str = Field("", description="path to render client scripts; not used: no Java is started")
    memGB: str = Field("5G", description="java heap memory; not used: no Java is started")  # noqa: N815  its name

    @model_validator(mode="after")
    def _has_an_address(self) -> "RenderParameters":
        try:
            checked_base_url(self.base_url)
        except Fault as fault:
            raise ValueError(f"render.host: {fault.problem}") from None
        return self

    @property
    def base_url(self) -> str:
        """Address of the service."""
        host = self.host if "://" in self.host else f"http://{self.host}"
        return f"{host.rstrip('/')}:{self.port}/render-ws/v1"


class CommandParameters(Parameters):
    """What every command takes."""

    render: RenderParameters
    log_level: LogLevel = Field("ERROR", description="least severe log lines on stderr")
    input_json: SomePath | None = Field(None, description="file with parameters; flags go before it")
    output_json: SomePath | None = Field(None, description="file for the result; stdout without it")

    @model_validator(mode="after")
    def _result_has_a_place(self) -> "CommandParameters":
        if self.output_json is not None and not self.output_json.parent.is_dir():
            raise ValueError(f"output_json: there is no directory {self.output_json.parent}")
        return self

    @property
    def warnings(self) -> list[str]:
        """What was given without effect."""
        return []

    def stack_id(self, name: str) -> StackId:
        """The full name of a stack."""
        return StackId(self.render.owner, self.render.project, name)


class StackVersionParameters(Parameters):
    """What render-ws keeps of a stack; used where the stack is created."""

    stackResolutionX: Resolution | None = Field(None, description="nanometres per pixel in x")  # noqa: N815
    stackResolutionY: Resolution | None = Field(None, description="nanometres per pixel in y")  # noqa: N815
    stackResolutionZ: Resolution | None = Field(None, description="nanometres between sections")  # noqa: N815
    stackResolutionValues: Annotated[  # noqa: N815
        tuple[Resolution, Resolution, Resolution] | None, BeforeValidator(split_list)
    ] = Field(None, description="the three in one list; each by itself goes before it")
    createTimestamp: str | None = Field(None, description="not used")  # noqa: N815
    versionNotes: str | None = Field(None, description="not used")  # noqa: N815
    cycleNumber: int | None = Field(None, description="not used")  # noqa: N815
    cycleStepNumber: int | None = Field(None, description="not used")  # noqa: N815
    materializedBoxRootPath: str | None = Field(None, description="not used")  # noqa: N815
    mipmapPathBuilder: dict[str, Any] | None = Field(None, description="not used")  # noqa: N815
    cycle: dict[str, Any] | None = Field(None, description="not used")

    @property
    def resolution_nm(self) -> tuple[float | None, float | None, float | None]:
        """x, y, z; None where it is not given."""
        one_by_one = self.stackResolutionX, self.stackResolutionY, self.stackResolutionZ
        x, y, z = (
            own or common for own, common in zip(one_by_one, self.stackResolutionValues or (None,) * 3, strict=True)
        )
        return x, y, z

    def unused(self) -> list[str]:
        """A warning for each value that has no effect."""
        used = {"stackResolutionX", "stackResolutionY", "stackResolutionZ", "stackResolutionValues"}
        names = [name for name in type(self).model_fields if name not in used and getattr(self, name) is not None]
        return [f"output_stackVersion.{name}: is not used" for name in names]


class _IntoStack(CommandParameters):
    """What the commands that write a stack take."""

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
"""Every way to say z. zValues goes before z, and z before zstart and zend."""


class _Layers(CommandParameters):
    z: Z | None = Field(None, description="z of the section in the stack; fractions are kept")
    zstart: Z | None = Field(None, description="first z of a range")
    zend: Z | None = Field(None, description="last z of a range")
    zValues: Annotated[list[Z] | None, BeforeValidator(split_list)] = Field(  # noqa: N815  its name
        None, description="several z"
    )

    @model_validator(mode="after")
    def _has_a_z(self) -> "_Layers":
        if self.zValues is not None and not self.zValues:
            raise ValueError("zValues: is empty")
        if self.zValues is None and self.z is None:
            if self.zstart is None and self.zend is None:
                raise ValueError("z: is missing; give z, zValues, or zstart and zend")
            if self.zstart is None or self.zend is None:
                raise ValueError(f"{'zstart' if self.zstart is None else 'zend'}: is missing; a range has two ends")
            if self.zstart > self.zend:
                raise ValueError(f"zend: {self.zend:g} is below zstart, {self.zstart:g}")
        return self

    @property
    def wanted_zs(self) -> tuple[float, ...] | ZRange:
        """Layers that are meant."""
        if self.zValues is not None:
            return tuple(self.zValues)
        if self.z is not None:
            return (self.z,)
        assert self.zstart is not None
        assert self.zend is not None
        return ZRange(self.zstart, self.zend)


class TilespecsParameters(_Layers, _IntoStack):
    """generate_EM_tilespecs_from_metafile: tile specs of a pyTEMCA metafile, at stage coordinates, into a stack."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Z_NAMES_OF,
        "stack": ("output_stack", "stack", "outputStack"),
        "metafile": ("metafile_uri", "metafile"),
        "image_directory": ("image_prefix", "image_directory"),
        "maskUrl": ("maskUrl_uri", "maskUrl"),
    }

    metafile: ExistingFile = Field(description="metadata file containing TEMCA acquisition data")
    stack: Name = Field(description="stack to which tiles should be added")
    image_directory: Directory | None = Field(
        None, description="directory of the images; by default that of the metafile"
    )
    minimum_intensity: int = Field(0, description="intensity value to interpret as black")
    maximum_intensity: int = Field(255, description="intensity value to interpret as white")
    sectionId: str | None = Field(  # noqa: N815  its name
        None, min_length=1, description="section id of the tiles; by default z as a float, in decimal"
    )
    maskUrl: ExistingFile | None = Field(None, description="mask image of every tile")  # noqa: N815  its name
    overwrite_zlayer: bool = Field(
        False, description="whether other tiles of this z are deleted, once the new ones are there"
    )
    close_stack: bool = Field(False, description="whether to set the stack COMPLETE afterwards")
    pool_size: int = Field(1, ge=1, le=1024, description="connections to render at once")
    resolution_z: float = Field(45.0, gt=0, description="nanometres between sections, for a stack that is created")
    positions: Literal["integer", "exact"] = Field(
        "integer", description="tile positions truncated to whole pixels, or as computed"
    )
    origin: Literal["roi", "stage"] = Field(
        "roi", description="each region at its own origin, or all regions of a z at the stage's"
    )
    shared_transform: bool = Field(False, description="whether tiles refer to the metafile's lens correction")

    @model_validator(mode="after")
    def _goes_to_one_z(self) -> "TilespecsParameters":
        wanted = self.wanted_zs
        several = wanted.first != wanted.last if isinstance(wanted, ZRange) else len(wanted) > 1
        if several:
            name = "zstart, zend" if isinstance(wanted, ZRange) else "zValues"
            raise ValueError(f"{name}: a metafile goes to exactly one z")
        if self.minimum_intensity >= self.maximum_intensity:
            raise ValueError(f"minimum_intensity: {self.minimum_intensity} is not below {self.maximum_intensity}")
        return self

    @property
    def one_z(self) -> float:
        """z of the section."""
        wanted = self.wanted_zs
        return wanted.first if isinstance(wanted, ZRange) else wanted[0]


class MipmapParameters(_Layers):
    """generate_mipmaps: mipmap levels of every tile of some layers of a stack."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Z_NAMES_OF,
        "input_stack": ("input_stack", "stack", "inputStack"),
        "output_dir": ("output_prefix", "output_dir"),
    }

    input_stack: Name = Field(description="stack for which the mipmaps are to be generated")
    output_dir: ResolvedPath = Field(description="directory in which the mipmaps are stored")
    method: Literal["block_reduce", "PIL", "render"] = Field(
        "block_reduce",
        description="'block_reduce': a function of each block of pixels; 'PIL': Pillow's filters; "
        "'render': pixels as render-ws shows them, then the mean",
    )
    block_func: Literal["mean", "median", "min", "max", "mode"] = Field(
        "mean", description="of method block_reduce: what stands for a block of pixels"
    )
    PIL_filter: Annotated[
        Literal["NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS"], BeforeValidator(upper_case)
    ] = Field("NEAREST", description="of method PIL: the filter")
    imgformat: ImageFormat = Field("tiff", validate_default=True, description="tif, tiff, png or jpg")
    levels: Levels = Field(6, description="number of levels of mipmaps")
    convert_to_8bit: bool = Field(True, description="whether 16-bit images get 8-bit mipmaps")
    force_redo: bool = Field(True, description="whether mipmaps are made again that are there and valid")
    pool_size: int = Field(20, ge=1, le=1024, description="worker processes")
    quality: int | None = Field(None, ge=1, le=100, description="of jpg; 95 by default")
    compression: str | None = Field(
        None, description="of tif none, lzw, deflate or packbits; of png 0 to 9; by default none for tif, 6 for png"
    )
    intensity_range: Annotated[tuple[int, int], BeforeValidator(split_list)] = Field(
        (0, 65535), description="16-bit values that become 0 and 255 with convert_to_8bit"
    )
    clear_image_cache: bool = Field(
        True, description="whether render-ws is told to read images anew where mipmaps that were there are made again"
    )

    @model_validator(mode="after")
    def _can_be_written(self) -> "MipmapParameters":
        low, high = self.intensity_range
        if not 0 <= low < high <= 65535:
            raise ValueError(f"intensity_range: {low}, {high} are not ascending values from 0 to 65535")
        from handlers.images.encode import Encoding  # which loads Pillow, that only this command needs

        try:
            Encoding(self.imgformat, self.quality, self.compression)
        except Fault as fault:
            raise ValueError(f"{fault.subject.removeprefix('mipmaps.')}: {fault.problem}") from None
        return self

    @property
    def function(self) -> str:
        """The function or filter that goes with the method."""
        return {"block_reduce": self.block_func, "PIL": self.PIL_filter, "render": "mean"}[self.method]


class ApplyParameters(_Layers, _IntoStack):
    """apply_mipmaps_to_render: mipmap levels that were made, into the tile specs of a stack."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Z_NAMES_OF,
        "input_stack": ("input_stack", "inputStack"),
        "output_stack": ("output_stack", "outputStack"),
        "mipmap_dir": ("mipmap_prefix", "mipmap_dir"),
    }

    input_stack: Name = Field(description="stack with the tiles")
    output_stack: Annotated[Name | None, BeforeValidator(none_if_named)] = Field(
        None, description="stack to which they go with their mipmaps; by default the same, in place"
    )
    mipmap_dir: Directory = Field(description="directory in which the mipmaps are")
    imgformat: ImageFormat = Field("tiff", validate_default=True, description="tif, tiff, png or jpg")
    levels: Levels = Field(6, description="number of levels of mipmaps")
    close_stack: bool = Field(False, description="whether to set the output stack COMPLETE afterwards")
    overwrite_zlayer: bool = Field(
        False, description="whether tiles are deleted from the output stack's z that the input stack does not have"
    )
    pool_size: int = Field(20, ge=1, le=1024, description="layers worked on at once")

    @model_validator(mode="before")
    @classmethod
    def _says_which_stack(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "stack" in values:
            raise ValueError("stack: is ambiguous; say input_stack or output_stack")
        return values
