"""The section [[watch]] and the sections below it. Pure, except for the reader of z tables."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, StringConstraints, field_validator, model_validator

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.mipmap_settings import MipmapSettings
from daemon.config.quality_settings import QualitySettings
from daemon.config.section import AbsolutePath, Glob, OptionalPath, OptionalText, Section, Text, check_with
from daemon.config.stack_settings import NAME_FIELDS, StackSettings
from daemon.config.text import example
from daemon.watching.roots import WatchMode, WatchRoot
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.reader import Reader
from handlers.acquisition.formats.readers import READERS
from handlers.acquisition.tilespec import Origin, Positions, TileSpecOptions
from handlers.acquisition.z import DEFAULT_NAME_PATTERN, ZRule, ZRuleKind, read_z_table
from handlers.errors import Fault
from handlers.mipmaps.plan import MipmapPlan
from handlers.path_map import NO_MAP, PathMap
from handlers.render.names import template_fields
from handlers.text import z_text


class ZSettings(Section):
    """Rule that derives z, a section's place in the stack, from its metafile."""

    rule: ZRuleKind = Field(**example("grid"))
    """Source of z. "header": z_index in the header. "grid": grid in the header, as a number. "name": the metafile's
    name, by `name_pattern`. "table": the file `table`. "depth": the recorded depth over `stacks.resolution_z`, or, if
    that is not set, over the section's own thickness; only with format = "sbemimage". "fixed": always `z`."""
    offset: float = 0
    """Offset that is added to the z of the rule, in sections."""
    offsets_by_media: dict[str, float] = Field(default_factory=dict, **example({"0151": 130000}, off=True))
    """Offset of each tape (media_id in the header), in place of `offset`. Other tapes have `offset`."""
    name_pattern: OptionalText = Field(None, **example(DEFAULT_NAME_PATTERN, off=True))
    """Regular expression with a group named z. It is searched in the metafile's name, or in its whole path if the
    expression contains a "/". Only valid with rule = "name". Not set: an expression that finds the grid."""
    table: OptionalPath = Field(None, **example("/etc/temwatch/z.csv", off=True))
    """CSV file with a header row, a column z, and at least one of the columns grid, roi_index, session_id, specimen_id,
    media_id and metafile, which select the row. Only valid with rule = "table"."""
    z: float | None = Field(None, **example(1, off=True))
    """The z of every section. Only valid with rule = "fixed"."""

    @field_validator("name_pattern")
    @classmethod
    def _pattern_finds_z(cls, value: str | None) -> str | None:
        if value is not None:
            check_with(ZRule, ZRuleKind.NAME, 0.0, {}, value)
        return value

    @model_validator(mode="after")
    def _keys_go_with_the_rule(self) -> Self:
        for key, rule in _Z_KEYS.items():
            given = getattr(self, key) is not None
            if given and self.rule is not rule:
                raise RefusedKeyError(key, f'is only valid with rule = "{rule}", and rule is "{self.rule}"')
            if not given and self.rule is rule and rule is not ZRuleKind.NAME:
                raise RefusedKeyError(key, f'is required with rule = "{rule}"')
        return self

    @property
    def description(self) -> str:
        """The whole rule in words, with its offsets."""
        return f"{self._source}; {self._offsets}"

    @property
    def _source(self) -> str:
        match self.rule:
            case ZRuleKind.HEADER:
                return "z_index of the header"
            case ZRuleKind.GRID:
                return "grid of the header"
            case ZRuleKind.NAME:
                return f"group z of {self.name_pattern or DEFAULT_NAME_PATTERN} in the metafile's name"
            case ZRuleKind.TABLE:
                return f"table {self.table}"
            case ZRuleKind.DEPTH:
                return "depth over thickness of the section"
            case ZRuleKind.FIXED:
                return f"always {z_text(self.z)}"

    @property
    def _offsets(self) -> str:
        if not self.offsets_by_media:
            return f"offset {self.offset:+g}" if self.offset else "no offset"
        by_tape = [f"{offset:+g} on tape {media}" for media, offset in self.offsets_by_media.items()]
        return ", ".join(["offset " + by_tape[0], *by_tape[1:], f"{self.offset:+g} on other tapes"])


_Z_KEYS = {"name_pattern": ZRuleKind.NAME, "table": ZRuleKind.TABLE, "z": ZRuleKind.FIXED}
"""Keys of one rule only."""


class TilespecSettings(Section):
    """Contents of a tile spec besides the position."""

    minimum_intensity: int = Field(0, ge=0, le=65535)
    """Intensity that is displayed as black."""
    maximum_intensity: int = Field(255, ge=0, le=65535)
    """Intensity that is displayed as white."""
    mask: OptionalPath = Field(None, **example(""))
    """Mask image of every tile, of the same size as the tiles. It gets mipmaps too. Empty: no mask."""
    positions: Positions = Field(Positions.INTEGER, **example("integer", off=True))
    """"integer": whole pixels, as in asap-modules. "exact": the unrounded positions of the stage. Not set: the
    default of the format."""
    origin: Origin = Field(Origin.ROI, **example("roi", off=True))
    """"roi": each region starts at (0, 0). "stage": all regions of a z share the origin of the stage. Not set: the
    default of the format."""
    tile_id: Text = Field("{basename}.{z}", **example("{basename}.{z}", off=True))
    """Template of the tile ids. {basename} is the image's file name without its extension, {z} is z as a decimal. Also
    {section_id}, {session_id}, {grid}, {roi_index}, {specimen_id}, {raster_col}, {raster_row} and {raster_index}."""
    section_id: OptionalText = Field(None, **example("", off=True))
    """Section id of the tiles. Not set: z."""
    shared_transform: bool = False
    """Whether a lens-correction transform of the metafile is put into the stack and referenced by the tiles."""

    @field_validator("tile_id")
    @classmethod
    def _template_is_known(cls, value: str) -> str:
        check_with(lambda: TileSpecOptions(tile_id=value))
        return value

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.minimum_intensity >= self.maximum_intensity:
            raise RefusedKeyError(
                "minimum_intensity",
                f"{self.minimum_intensity} is not below maximum_intensity, which is {self.maximum_intensity}",
            )
        return self


class WatchSettings(Section):
    """A watched directory; one table for each. Each metafile below the directory becomes a montage."""

    name: Annotated[str, StringConstraints(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")] = Field(**example("temca2"))
    """Name of the watch in logs, metrics and the journal: letters, digits, '.', '_' and '-'. Do not rename a watch: the
    journal identifies its montages by this name."""
    directory: AbsolutePath = Field(**example("/data/temca2"))
    """Top of the directory tree to watch. The daemon never writes there."""
    format: Text = "pytemca"
    """Format of the microscope's files; docs/formats.md lists the formats."""
    pattern: Glob = Field("_metadata_*.json", **example("_metadata_*.json", off=True))
    """Pattern of the file names of metafiles. Not set: that of the format."""
    pixel_size_nm: float | None = Field(None, gt=0, le=1e6, **example(8.0, off=True))
    """Pixel size in nanometres. Required with formats whose files do not state it ("multisem"), invalid with others."""
    ignore: tuple[Glob, ...] = ("*_reference_*",)
    """Patterns of metafiles that are recorded as ignored."""
    mode: WatchMode = WatchMode.AUTO
    """"events": file-system events start a scan at once. "poll": scans at intervals only. "auto": "poll" on network
    mounts and where events miss files, else "events"."""
    scan_interval_s: float = Field(60, gt=0)
    """Seconds between two scans of the directories that changed."""
    full_scan_interval_s: float = Field(600, gt=0)
    """Seconds between two scans of all directories, for mounts whose directory times are unreliable."""
    settle_s: float = Field(2, ge=0)
    """Seconds that a metafile, and the images that changed after it, must stay unchanged before they are read."""
    arrival_timeout_s: float = Field(3600, ge=0)
    """Seconds to wait for images that are missing or have a placeholder as their time (1970, 1980). Then the montage
    fails and lists them."""
    recheck_images_for_s: float = Field(3600, ge=0)
    """Seconds for which the images of a COMPLETE montage are checked for changes, at growing intervals, since a stalled
    copy may continue. Mipmaps of changed images are made again. 0: no check after COMPLETE."""
    strict: bool = False
    """Whether a warning (tiles off their own grid) fails a montage."""
    reference_sets: Literal["ignore", "ingest"] = "ignore"
    """"ignore": lens-correction sets, recognized by their header, are recorded as ignored. "ingest": they are processed
    as montages, and no pattern of `ignore` may match them."""
    specimen: OptionalText = Field(None, **example("unknown", off=True))
    """Value for a missing specimen_id in a header. Not set: a metafile without it fails if a stack's name needs it."""
    z: ZSettings
    """How z follows from a metafile."""
    stacks: StackSettings = StackSettings()
    """The stacks that receive a montage."""
    tilespecs: TilespecSettings = TilespecSettings()
    """Contents of a tile spec."""
    mipmaps: MipmapSettings
    """The mipmaps."""
    qc: QualitySettings = QualitySettings()
    """Quality control."""
    _paths: PathMap = PrivateAttr(NO_MAP)

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, value: str) -> str:
        if value not in READERS:
            raise ValueError(f"{quoted(value)} is not one of {', '.join(READERS)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_format(cls, value: Any) -> Any:
        """Add the format's defaults for keys that the configuration does not set."""
        reader = READERS.get(str(value.get("format"))) if isinstance(value, dict) else None
        if reader is None:
            return value
        value = {"pattern": reader.pattern, **value}
        tilespecs = value.get("tilespecs", {})
        if isinstance(tilespecs, dict) and reader.tilespecs:
            value["tilespecs"] = {**reader.tilespecs, **tilespecs}
        return value

    @model_validator(mode="after")
    def _names_are_those_of_the_format(self) -> Self:
        for key in ("owner", "project", "raw", "mipmapped"):
            for field in template_fields(getattr(self.stacks, key) or ""):
                if field not in self.reader.fields:
                    known = ", ".join(self.reader.fields)
                    problem = f"{{{field}}} is not a field of format = {quoted(self.format)}, which has {known}"
                    raise RefusedKeyError(f"stacks.{key}", problem)
        return self

    @model_validator(mode="after")
    def _pixel_size_is_known_once(self) -> Self:
        if self.reader.states_pixel_size and self.pixel_size_nm is not None:
            raise RefusedKeyError(
                "pixel_size_nm", f"is invalid with format = {quoted(self.format)}, whose files state it"
            )
        if not self.reader.states_pixel_size and self.pixel_size_nm is None:
            raise RefusedKeyError("pixel_size_nm", f"is required with format = {quoted(self.format)}")
        return self

    def set_path_map(self, paths: PathMap) -> None:
        """Set `render.path_map` for the tile-spec options and the mipmap plan. `Settings` calls this once.

        Raises
        ------
        RefusedKeyError
            If the path map cannot translate a path of this watch, or a path builder would alter its URL.
        """
        self._paths = paths
        named = {"directory": self.directory, "tilespecs.mask": self.tilespecs.mask}
        output_dir = self.mipmaps.output_dir if not self.mipmaps.url else None
        written = {"mipmaps.output_dir": output_dir} if isinstance(output_dir, Path) else {}
        for key, path in {**named, **written}.items():
            try:
                url = paths.to_url(path) if path else ""
            except Fault as fault:
                raise RefusedKeyError(key, f"{fault.subject} {fault.problem} ({fault.hint})") from None
            if self.mipmaps.apply == "path_builder" and (":" in url[len("file:") :] or ("%" in url and key in named)):
                raise RefusedKeyError(
                    "mipmaps.apply",
                    f"'path_builder' cannot be used with {path}: its URL {url} has an escape or a second colon, so "
                    "render-ws would look for files that do not exist; use 'tiles'",
                )

    @model_validator(mode="after")
    def _masks_suit_the_path_builder(self) -> Self:
        masked = self.tilespecs.mask is not None and not self.mipmaps.encoding().lossless
        if self.mipmaps.apply == "path_builder" and masked:
            raise RefusedKeyError(
                "mipmaps.apply",
                "'path_builder' has one extension for images and masks, but masks are not written as jpg; use 'tiles'",
            )
        return self

    @model_validator(mode="after")
    def _ignore_lets_reference_sets_pass(self) -> Self:
        matching = [glob for glob in self.ignore if fnmatchcase("_metadata_1_s_20170502174047_reference_0_.json", glob)]
        if self.reference_sets == "ingest" and matching:
            raise RefusedKeyError(
                "reference_sets", f"'ingest' contradicts {matching[0]!r} in ignore, which matches them"
            )
        return self

    @property
    def reader(self) -> Reader:
        """Reader of the format."""
        return READERS[self.format]

    def watch_root(self) -> WatchRoot:
        """Return the watcher's part of the settings. It lacks `ignore`, since ignored metafiles are recorded, too."""
        return WatchRoot(
            name=self.name,
            directory=self.directory,
            pattern=self.pattern,
            follow=self.reader.follower,
            mode=self.mode,
            scan_interval_s=self.scan_interval_s,
            full_scan_interval_s=self.full_scan_interval_s,
        )

    def to_z_rule(self) -> ZRule:
        """Return the rule for z. Reads the table, if the rule has one. Blocking.

        Raises
        ------
        SettingsFault
            If the table is invalid.
        StorageFault
            If the table cannot be read.
        """
        return ZRule(
            rule=self.z.rule,
            offset=self.z.offset,
            offsets_by_media=self.z.offsets_by_media,
            name_pattern=self.z.name_pattern,
            table=read_z_table(self.z.table) if self.z.table else None,
            fixed=self.z.z,
            spacing_nm=self.stacks.resolution_z if "resolution_z" in self.stacks.model_fields_set else None,
        )

    def tilespec_options(self) -> TileSpecOptions:
        """Return the options for making tile specs from a metafile."""
        output_dir = self.mipmaps.output_dir
        return TileSpecOptions(
            minimum_intensity=self.tilespecs.minimum_intensity,
            maximum_intensity=self.tilespecs.maximum_intensity,
            section_id=self.tilespecs.section_id,
            mask=self.tilespecs.mask,
            positions=self.tilespecs.positions,
            origin=self.tilespecs.origin,
            tile_id=self.tilespecs.tile_id,
            output_dir=output_dir if isinstance(output_dir, Path) and not self.mipmaps.url else None,
            path_map=self._paths,
        )

    def mipmap_plan(self) -> MipmapPlan:
        """Return how and where mipmaps are made."""
        return MipmapPlan(
            output_dir=self.mipmaps.output_dir,
            levels=self.mipmaps.levels,
            reduction=self.mipmaps.reduction(),
            encoding=self.mipmaps.encoding(),
            convert_to_8bit=self.mipmaps.convert_to_8bit,
            range_16bit=self.mipmaps.range_16bit,
            force=self.mipmaps.force,
            sharing=self.mipmaps.sharing(),
            path_map=self._paths,
            url=self.mipmaps.url,
            is_derived=self.mipmaps.apply == "path_builder",
        )

    def name_facts(self, acquisition: Acquisition) -> dict[str, object]:
        """Return the field values for a stack's name; `specimen` replaces a missing specimen_id."""
        facts = {field: acquisition.fact(field) for field in NAME_FIELDS}
        return {**facts, "specimen_id": facts["specimen_id"] or self.specimen}
