"""The settings tree: every key with its type, bounds, default and meaning. Pure; `daemon.config.load` reads files."""

import ipaddress
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.config.errors import RefusedKeyError, is_section, shown
from daemon.config.text import example
from daemon.watching.roots import WatchMode, WatchRoot
from handlers.acquisition.metafile import Header, Metafile
from handlers.acquisition.tilespec import Origin, Positions, TileSpecOptions
from handlers.acquisition.z import DEFAULT_NAME_PATTERN, ZRule, ZRuleKind, read_z_table
from handlers.errors import Fault, SettingsFault
from handlers.images.encode import Encoding
from handlers.images.reduction import Reduction
from handlers.mipmaps.plan import MipmapPlan
from handlers.render.names import check_name, checked_base_url, legal_stack_name
from handlers.uris import path_builder_agrees

T = TypeVar("T")

EMBEDDED = "embedded"
"""Value of `render.url` that stands for the built-in stand-in."""
NAME_FIELDS = (
    "specimen_id",
    "grid",
    "roi_index",
    "session_id",
    "temca_id",
    "media",
    "media_id",
    "tape_id",
    "z_index",
    "lims_specimen_id",
    "placement_id",
    "roi_creation_time",
)
"""Header fields that the name of a stack may hold."""

ENVIRONMENT_PREFIX = "TEMWATCH_"


def _not_set(value: object) -> object:
    return None if value == "" else value


def _absolute(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{shown(text)} is not an absolute path")
    if ".." in PurePosixPath(text).parts:
        raise ValueError(f"{shown(text)} leads through '..': write the path that is meant")
    return Path(text)


def _file_name_glob(value: str) -> str:
    if "/" in value:
        raise ValueError(f"{shown(value)} is not a pattern for a file name: it contains '/'")
    return value


def _obeyed(rule: Callable[..., T], *arguments: object, about: str = "") -> T:
    """What the rule returns; its refusal in the form that pydantic collects, `about` the value where it names none."""
    try:
        return rule(*arguments)
    except Fault as fault:
        hint = f" ({fault.hint})" if fault.hint else ""
        raise ValueError(f"{about} {fault.problem}{hint}".strip()) from None


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
OptionalPath = Annotated[AbsolutePath | None, BeforeValidator(_not_set)]
Text = Annotated[str, StringConstraints(min_length=1)]
OptionalText = Annotated[str | None, BeforeValidator(_not_set)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]
Glob = Annotated[Text, AfterValidator(_file_name_glob)]


def with_empty_sections(model: type[BaseModel], value: Any) -> Any:
    """The value with an empty table for each section it leaves out, so that a refusal names the keys missing there."""
    if not isinstance(value, dict):
        return value
    absent = [name for name, field in model.model_fields.items() if field.is_required() and is_section(field)]
    return {**{name: {} for name in absent}, **value}


class _Section(BaseModel):
    """A part of the settings: values do not change, other keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _sections_left_out_are_empty(cls, value: Any) -> Any:
        return with_empty_sections(cls, value)


class RenderSettings(_Section):
    """The render-ws that takes the tile specs."""

    url: Text = Field(repr=False, **example("http://render:8080/render-ws/v1"))
    """Address of the service up to its version. "embedded" runs the built-in stand-in, for trying things out. A user
    and password in it, as in "http://user:password@render/render-ws/v1", go to the server and are shown nowhere."""
    owner: Text = Field(**example("em"))
    """Owner of the stacks in render-ws: letters and digits, joined by single underscores."""
    project: Text = Field(**example("v1"))
    """Project of the stacks in render-ws: letters and digits, joined by single underscores."""
    clear_image_cache: bool = True
    """Whether render-ws is told to forget the images that it has read, once after mipmaps that were there before were
    made again. It keeps images by their URL and shows the old pixels otherwise. It then reads all images anew."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, value: str) -> str:
        if value == EMBEDDED:
            return value
        _obeyed(checked_base_url, value)
        return value.strip().rstrip("/")

    @field_validator("owner", "project")
    @classmethod
    def _name_is_legal(cls, value: str) -> str:
        _obeyed(check_name, "name", value, about=shown(value))
        return value

    @property
    def embedded(self) -> bool:
        """Whether the built-in stand-in is to be run."""
        return self.url == EMBEDDED

    @property
    def shown_url(self) -> str:
        """The address without user and password."""
        return self.url if self.embedded else checked_base_url(self.url).url


class JournalSettings(_Section):
    """What is remembered of every montage."""

    path: AbsolutePath = Path("/var/lib/temwatch/journal.sqlite")
    """The SQLite file. It belongs on a local disk, never on a share, and outside every watched directory."""
    allow_network: bool = False
    """Whether `path` may lie on a network file system all the same. Locks and shared memory of SQLite may not work
    there, so that a crash can damage the journal; and while the file server is away nothing can be recorded."""


class HttpSettings(_Section):
    """Health, metrics, the list of montages."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all of the machine's."""
    port: int = Field(8787, ge=0, le=65535)
    """TCP port to listen on; 0 lets the system choose one, which the log then names."""
    token_file: OptionalPath = Field(None, **example(""))
    """File that holds the token which a POST has to carry as `Authorization: Bearer TOKEN`. Without one, POST is
    taken only where `host` is this machine's own loopback address. The file must be closed to other users, and the
    token at least 16 characters long. Empty: none."""

    allowed_hosts: tuple[HostName, ...] = Field((), **example([]))
    """Further names under which the daemon may be asked where `host` is loopback, as behind a proxy on this machine;
    without a port. Names of the loopback itself always pass; requests under other names are refused, since a page in a
    browser here could make them."""
    backlog_limit_s: float = Field(7200, gt=0)
    """Seconds that a montage may take before the daemon says that it is not ready: its backlog is too old."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class WorkerSettings(_Section):
    """Where mipmaps are made."""

    executor: Literal["processes", "dask"] = "processes"
    """"processes" makes them in worker processes on this machine, "dask" on the workers of a dask scheduler."""
    count: int = Field(0, ge=0, le=1024)
    """Worker processes; 0 takes one per core of this machine. With dask it bounds the jobs under way."""
    dask_scheduler: OptionalText = Field(None, **example(""))
    """Address of the dask scheduler, as in "tcp://scheduler:8786". Read with executor = "dask" alone."""
    tile_timeout_s: float = Field(300, gt=0)
    """Seconds that a worker may take for one tile. One that takes longer hangs, as on a dead mount: it is replaced, and
    the tile is tried again a few times. With dask let `count` be the threads of all workers together."""

    @model_validator(mode="after")
    def _scheduler_goes_with_dask(self) -> Self:
        if self.executor == "dask" and not self.dask_scheduler:
            raise RefusedKeyError("dask_scheduler", 'is required with executor = "dask", as in "tcp://scheduler:8786"')
        if self.executor != "dask" and self.dask_scheduler:
            raise RefusedKeyError(
                "dask_scheduler", f'is read with executor = "dask" alone, and executor is "{self.executor}"'
            )
        return self


class LogSettings(_Section):
    """What the service writes to its standard output."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """"json" writes one object per line, "console" lines for people, "auto" the latter on a terminal alone."""


class ZSettings(_Section):
    """How a section's place in the stack follows from its metafile."""

    rule: ZRuleKind = Field(**example("grid"))
    """Where z comes from. "header": the header's z_index. "grid": the header's grid as a number. "name": found in the
    metafile's name by `name_pattern`. "table": looked up in `table`. "fixed": always `z`."""
    offset: float = 0
    """Added to what the rule finds, in sections."""
    offsets_by_media: dict[str, float] = Field(default_factory=dict, **example({"0151": 130000}))
    """Tape (media_id of the header) -> offset, in place of `offset`. A tape that is not listed takes `offset`."""
    name_pattern: OptionalText = Field(None, **example(DEFAULT_NAME_PATTERN, off=True))
    """Regular expression with a group named z, searched in the metafile's name, or in its whole path if the expression
    has a "/". Read with rule = "name" alone. Left out: the one shown, which finds the grid."""
    table: OptionalPath = Field(None, **example("/etc/temwatch/z.csv", off=True))
    """CSV file with a header row, a column z, and one or more columns that name what it belongs to: grid, roi_index,
    session_id, specimen_id, media_id or metafile. Read with rule = "table" alone."""
    z: float | None = Field(None, **example(1, off=True))
    """The z of every section. Read with rule = "fixed" alone."""

    @field_validator("name_pattern")
    @classmethod
    def _pattern_finds_z(cls, value: str | None) -> str | None:
        if value is not None:
            _obeyed(ZRule, ZRuleKind.NAME, 0.0, {}, value)
        return value

    @model_validator(mode="after")
    def _keys_go_with_the_rule(self) -> Self:
        for key, rule in _Z_KEYS.items():
            given = getattr(self, key) is not None
            if given and self.rule is not rule:
                raise RefusedKeyError(key, f'is read with rule = "{rule}" alone, and rule is "{self.rule}"')
            if not given and self.rule is rule and rule is not ZRuleKind.NAME:
                raise RefusedKeyError(key, f'is required with rule = "{rule}"')
        return self


_Z_KEYS = {"name_pattern": ZRuleKind.NAME, "table": ZRuleKind.TABLE, "z": ZRuleKind.FIXED}
"""The rule that reads the key."""


class StackSettings(_Section):
    """The stacks that a montage goes to."""

    raw: Text = "{specimen_id}_raw"
    """Stack of the raw tile specs. Fields of the metafile's header stand in braces; what render-ws does not take in a
    name becomes an underscore."""
    mipmapped: OptionalText = Field(None, **example("{specimen_id}_mips"))
    """Stack of the tile specs with their mipmap levels. Left out: the raw stack is updated in place."""
    close: bool = True
    """Whether a stack is set COMPLETE once it is quiet."""
    close_after_s: float = Field(60, ge=0)
    """Seconds without a montage under way before a stack is closed."""
    close_at_latest_s: float = Field(900, ge=0)
    """Seconds after which a stack that never gets quiet is closed all the same, and opened again for those that wait.
    Between two such closes lies ten times the duration of the last one at least. 0: never."""
    resolution_z: float = Field(45.0, gt=0)
    """Thickness of a section in nanometres, for stacks that are created. x and y come from the calibration."""

    @field_validator("raw", "mipmapped")
    @classmethod
    def _names_known_fields(cls, value: str | None) -> str | None:
        if value is not None:
            _obeyed(legal_stack_name, value, dict.fromkeys(NAME_FIELDS, "x"), about=shown(value))
        return value


class TilespecSettings(_Section):
    """What a tile spec says beside the position."""

    minimum_intensity: int = Field(0, ge=0, le=65535)
    """Intensity that is shown black."""
    maximum_intensity: int = Field(255, ge=0, le=65535)
    """Intensity that is shown white."""
    mask: OptionalPath = Field(None, **example(""))
    """Image that masks every tile, of the tiles' size. It gets mipmaps too. Empty: none."""
    positions: Positions = Positions.INTEGER
    """"integer": whole pixels, as asap-modules has them. "exact": floats, as the stage reports them."""
    origin: Origin = Origin.ROI
    """"roi": each region begins at (0, 0). "stage": all regions of a z share the stage's origin."""
    tile_id: Text = "{basename}.{z}"
    """Template of the tile ids. {basename} is the image's name without its extension, {z} the z as a decimal; also
    {section_id}, {session_id}, {grid}, {roi_index}, {specimen_id}, {raster_col}, {raster_row} and {raster_index}."""
    section_id: OptionalText = Field(None, **example("", off=True))
    """Section id of the tiles. Left out: the z."""
    shared_transform: bool = False
    """Whether a lens-correction transform found in the metafile goes to the stack and is referred to by the tiles."""

    @field_validator("tile_id")
    @classmethod
    def _template_is_known(cls, value: str) -> str:
        _obeyed(lambda: TileSpecOptions(tile_id=value))
        return value

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.minimum_intensity >= self.maximum_intensity:
            raise RefusedKeyError(
                "minimum_intensity",
                f"{self.minimum_intensity} is not below maximum_intensity, {self.maximum_intensity}",
            )
        return self


class MipmapSettings(_Section):
    """The reduced images."""

    output_dir: AbsolutePath = Field(**example("/data/mipmaps"))
    """Directory of the mipmaps, outside every watched directory. A level of a tile is written to
    {output_dir}/{level}/{path of the image}.{extension}."""
    method: Literal["block_reduce", "PIL", "render"] = "block_reduce"
    """How a level is made. "block_reduce": a function of the level-0 pixels under each of its pixels. "PIL": level 0
    resized by a filter. "render": level 0 is asked of render-ws, for files that only render-ws can reach, and reduced
    by the mean."""
    function: Literal["mean", "median", "min", "max", "mode"] = "mean"
    """Function of "block_reduce". "mode", the most frequent value, is for label images. Masks always take "min"."""
    filter: Literal["NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS"] | None = Field(
        None, **example("LANCZOS", off=True)
    )
    """Filter of "PIL", by Pillow's names. Read with method = "PIL" alone."""
    levels: int = Field(6, ge=1, le=12)
    """Highest mipmap level; level n is reduced 2^n in x and y."""
    format: Literal["tiff", "tif", "png", "jpg", "jpeg"] = "tiff"
    """File format of the levels. Their extension is tif, png or jpg, which is what render-ws reads. jpg holds 8 bits
    alone; masks beside it are written as png."""
    quality: int | None = Field(None, ge=1, le=100, **example(95, off=True))
    """Quality of jpg. Left out: 95."""
    compression: str | int | None = Field(None, **example("lzw", off=True))
    """Of tiff "none", "lzw", "deflate" or "packbits"; of png 0 (none) to 9 (smallest). Left out: none for tiff, a
    quick one for png. The pixels are the same with any."""
    convert_to_8bit: bool = True
    """Whether levels of 16-bit images are written with 8 bits. 8-bit images stay as they are."""
    range_16bit: tuple[int, int] = (0, 65535)
    """16-bit values that become 0 and 255."""
    force: bool = True
    """Whether levels that are there already are made all the same. false keeps those that decode, have the right size
    and depth, and say that they were made of their image as it is now, in the way configured here."""
    apply: Literal["tiles", "path_builder"] = "tiles"
    """"tiles" writes the levels into the tile specs, "path_builder" tells the stack once where they lie."""
    min_free_bytes: int = Field(256 * 1024**2, ge=0)
    """Free bytes to be kept on the disk of `output_dir`; below it no mipmaps are made and the daemon is not ready."""

    @field_validator("range_16bit")
    @classmethod
    def _range_ascends(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1] <= 65535:
            raise ValueError(f"{list(value)} is not two ascending values from 0 to 65535")
        return value

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        for key, idle, method in (("function", "mean", "block_reduce"), ("filter", None, "PIL")):
            if getattr(self, key) != idle and self.method != method:
                raise RefusedKeyError(key, f'is read with method = "{method}" alone, and method is "{self.method}"')
        if self.method == "PIL" and self.filter is None:
            raise RefusedKeyError("filter", 'is required with method = "PIL"')
        try:
            self.encoding()
        except SettingsFault as fault:
            raise RefusedKeyError(fault.subject.removeprefix("mipmaps."), fault.problem) from None
        return self

    def reduction(self) -> Reduction:
        """How levels are made of level 0."""
        return Reduction(self.method, self.filter or self.function)

    def encoding(self) -> Encoding:
        """How a level becomes a file. Raises SettingsFault, names the key."""
        return Encoding(self.format, self.quality, self.compression)


class WatchSettings(_Section):
    """A directory to watch; one such table for each. A metafile that lands below it becomes a montage."""

    name: Annotated[str, StringConstraints(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")] = Field(**example("temca2"))
    """Name of the watch in logs, metrics and the journal: letters, digits, '.', '_' and '-'. Keep it: the journal
    knows the montages by it."""
    directory: AbsolutePath = Field(**example("/data/temca2"))
    """Top of the tree to watch. The daemon never writes there."""
    pattern: Glob = "_metadata_*.json"
    """File names that are metafiles."""
    ignore: tuple[Glob, ...] = ("*_reference_*",)
    """File names among those that are recorded as ignored."""
    mode: WatchMode = WatchMode.AUTO
    """"events" is woken by the file system, "poll" looks from time to time alone, "auto" polls on network mounts and
    where events turn out to miss files."""
    scan_interval_s: float = Field(60, gt=0)
    """Seconds between two passes over the directories that changed."""
    full_scan_interval_s: float = Field(600, gt=0)
    """Seconds between two passes over every name, for mounts whose directory times lie."""
    settle_s: float = Field(2, ge=0)
    """Seconds that a metafile, and the images that changed after it, must stay unchanged before they are read."""
    arrival_timeout_s: float = Field(3600, ge=0)
    """Seconds that images are waited for that are missing, or have a placeholder for their time (1970, 1980); then the
    montage fails with the list of them."""
    recheck_images_for_s: float = Field(3600, ge=0)
    """Seconds that the images of a COMPLETE montage are looked at again, soon at first and then ever more rarely: a
    copy may have stalled. The mipmaps of images that changed are made again. 0: not after it is COMPLETE."""
    strict: bool = False
    """Whether what is only a warning (tiles off their own grid) fails a montage."""
    reference_sets: Literal["ignore", "ingest"] = "ignore"
    """"ignore" records lens-correction sets, told by their header, as ignored; "ingest" treats them as montages.
    To ingest them, let `ignore` not keep them out."""
    specimen: OptionalText = Field(None, **example("unknown", off=True))
    """Taken for specimen_id where a header has none. Left out: such a metafile fails if a stack's name needs it."""
    z: ZSettings
    """The section's place in the stack."""
    stacks: StackSettings = StackSettings()
    """The stacks that a montage goes to."""
    tilespecs: TilespecSettings = TilespecSettings()
    """What a tile spec says."""
    mipmaps: MipmapSettings
    """The reduced images."""

    @model_validator(mode="after")
    def _paths_suit_the_path_builder(self) -> Self:
        if self.mipmaps.apply == "path_builder" and not path_builder_agrees(self.directory):
            raise RefusedKeyError(
                "mipmaps.apply",
                f"'path_builder' cannot be used for images below {self.directory}: a URL escapes some of its "
                "characters, and render-ws would look for other names than those written; use 'tiles'",
            )
        return self

    @model_validator(mode="after")
    def _masks_suit_the_path_builder(self) -> Self:
        masked = self.tilespecs.mask is not None and not self.mipmaps.encoding().lossless
        if self.mipmaps.apply == "path_builder" and masked:
            raise RefusedKeyError(
                "mipmaps.apply",
                "'path_builder' has one extension for images and masks, and masks are not written as jpg; use 'tiles'",
            )
        return self

    @model_validator(mode="after")
    def _reference_sets_can_come_in(self) -> Self:
        kept_out = [glob for glob in self.ignore if fnmatchcase("_metadata_1_s_20170502174047_reference_0_.json", glob)]
        if self.reference_sets == "ingest" and kept_out:
            raise RefusedKeyError(
                "reference_sets", f"'ingest' contradicts ignore, which keeps them out by {kept_out[0]!r}"
            )
        return self

    def watch_root(self) -> WatchRoot:
        """What the watcher needs to know. Nothing is ignored there: what is ignored is to be recorded."""
        return WatchRoot(
            name=self.name,
            directory=self.directory,
            pattern=self.pattern,
            ignore=(),
            mode=self.mode,
            scan_interval_s=self.scan_interval_s,
            full_scan_interval_s=self.full_scan_interval_s,
        )

    def to_z_rule(self) -> ZRule:
        """How z follows from a metafile; reads the table where the rule has one.

        Raises
        ------
        SettingsFault
            If the table cannot be meant.
        StorageFault
            If it cannot be read now.
        """
        return ZRule(
            rule=self.z.rule,
            offset=self.z.offset,
            offsets_by_media=self.z.offsets_by_media,
            name_pattern=self.z.name_pattern,
            table=read_z_table(self.z.table) if self.z.table else None,
            fixed=self.z.z,
        )

    def tilespec_options(self) -> TileSpecOptions:
        """How tile specs follow from a metafile."""
        return TileSpecOptions(
            minimum_intensity=self.tilespecs.minimum_intensity,
            maximum_intensity=self.tilespecs.maximum_intensity,
            section_id=self.tilespecs.section_id,
            mask=self.tilespecs.mask,
            positions=self.tilespecs.positions,
            origin=self.tilespecs.origin,
            tile_id=self.tilespecs.tile_id,
        )

    def mipmap_plan(self) -> MipmapPlan:
        """How mipmaps are made, and where."""
        return MipmapPlan(
            output_dir=self.mipmaps.output_dir,
            levels=self.mipmaps.levels,
            reduction=self.mipmaps.reduction(),
            encoding=self.mipmaps.encoding(),
            convert_to_8bit=self.mipmaps.convert_to_8bit,
            range_16bit=self.mipmaps.range_16bit,
            force=self.mipmaps.force,
        )

    def name_facts(self, metafile: Metafile) -> dict[str, object]:
        """The header's fields that a stack's name may hold, with `specimen` where the header names none."""
        header: Header = metafile.header
        facts = {field: getattr(header, field) for field in NAME_FIELDS}
        return {**facts, "specimen_id": header.specimen_id or self.specimen}


class Settings(BaseSettings):
    """All settings. Made directly it takes what it is given alone; `load_settings` reads file and environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    render: RenderSettings
    """The service."""
    journal: JournalSettings = JournalSettings()
    """What is remembered."""
    http: HttpSettings = HttpSettings()
    """Health and metrics."""
    workers: WorkerSettings = WorkerSettings()
    """Where mipmaps are made."""
    log: LogSettings = LogSettings()
    """What is logged."""
    watch: tuple[WatchSettings, ...] = Field(min_length=1)
    """What is watched: at least one table [[watch]]."""

    @model_validator(mode="before")
    @classmethod
    def _sections_left_out_are_empty(cls, value: Any) -> Any:
        return with_empty_sections(cls, value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone; the order of all sources stands in `load_settings`."""
        return (init_settings,)

    @model_validator(mode="after")
    def _watches_do_not_meet(self) -> Self:
        for index, watch in enumerate(self.watch):
            for other, before in enumerate(self.watch[:index]):
                _require_apart(index, watch, other, before)
        return self

    @model_validator(mode="after")
    def _nothing_is_written_where_is_watched(self) -> Self:
        written = {
            f"watch[{index}].mipmaps.output_dir": watch.mipmaps.output_dir for index, watch in enumerate(self.watch)
        }
        for key, path in {"journal.path": self.journal.path, **written}.items():
            for watch in self.watch:
                if path.is_relative_to(watch.directory):
                    raise RefusedKeyError(
                        key, f"{path} lies in the watched directory {watch.directory}; nothing is written there"
                    )
        for key, path in written.items():
            for watch in self.watch:
                if watch.directory.is_relative_to(path):
                    raise RefusedKeyError(
                        key, f"{path} holds the watched directory {watch.directory}; choose another place"
                    )
        return self


def _require_apart(index: int, watch: WatchSettings, other: int, before: WatchSettings) -> None:
    if watch.name == before.name:
        raise RefusedKeyError(f"watch[{index}].name", f"{watch.name!r} is the name of watch[{other}] too")
    if watch.directory.is_relative_to(before.directory) or before.directory.is_relative_to(watch.directory):
        raise RefusedKeyError(
            f"watch[{index}].directory",
            f"{watch.directory} overlaps {before.directory} of watch[{other}]; a metafile belongs to one watch",
        )


def http_url(host: str, port: int) -> str:
    """Address of the daemon's HTTP face.

    >>> http_url("127.0.0.1", 8787), http_url("::1", 8787)
    ('http://127.0.0.1:8787', 'http://[::1]:8787')
    """
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"
