"""The section [watch.mipmaps]. Pure."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.section import OptionalText, Section
from daemon.config.store_settings import LevelUrl, OutputPlace, StoreSettings
from daemon.config.text import example
from handlers.errors import SettingsFault
from handlers.images.encode import Encoding
from handlers.images.reduction import Reduction
from handlers.place import ObjectPlace, unreadable_by_render
from handlers.sharing import Sharing


def _octal(value: str) -> str:
    if not re.fullmatch("[0-7]{3,4}", value):
        raise ValueError(f'{quoted(value)} is not an octal mode of three or four digits, as in "0664"')
    return value


Mode = Annotated[str, AfterValidator(_octal)]


class MipmapSettings(Section):
    """The mipmaps: reduced images of each tile."""

    output_dir: OutputPlace = Field(**example("/data/mipmaps"))
    """Directory of the mipmaps, outside every watched directory, or a place in an object store: "s3://bucket/prefix",
    "gs://bucket/prefix" or "az://container/prefix" (extra object-store). The file of a level is
    {output_dir}/{level}/{absolute path of the image}.{extension}."""
    url: LevelUrl = Field("", **example("https://store.example.org:9000/bucket/prefix", off=True))
    """Address in tile specs in place of `output_dir`: an http or https URL at which render-ws reads the same files.
    Required with object stores, except s3 of AWS, since render-ws can read s3:// itself."""
    store: StoreSettings = StoreSettings()
    """How the object store is reached."""
    method: Literal["block_reduce", "PIL", "render"] = "block_reduce"
    """How a level is made. "block_reduce": each pixel is a function of the level-0 pixels that it covers. "PIL": a
    filter of Pillow resizes level 0. "render": level 0 is fetched from render-ws, for files that only render-ws can
    read, and reduced by the mean."""
    function: Literal["mean", "median", "min", "max", "mode"] = "mean"
    """Function of method "block_reduce". "mode", the most frequent value, is for label images. Masks use "min"."""
    filter: Literal["NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS"] | None = Field(
        None, **example("LANCZOS", off=True)
    )
    """Filter of method "PIL", by its name in Pillow. Required with method = "PIL", invalid with any other."""
    levels: int = Field(6, ge=1, le=12)
    """Highest mipmap level. Level n is reduced 2^n times in x and y."""
    format: Literal["tiff", "tif", "png", "jpg", "jpeg"] = "tiff"
    """File format of the levels. The extension is tif, png or jpg, as render-ws expects. jpg has 8 bits only. Masks of
    jpg levels are written as png."""
    quality: int | None = Field(None, ge=1, le=100, **example(95, off=True))
    """Quality of jpg. Not set: 95."""
    compression: str | int | None = Field(None, **example("lzw", off=True))
    """For tiff "none", "lzw", "deflate" or "packbits"; for png 0 (none) to 9 (smallest). Not set: none for tiff, fast
    compression for png. Compression does not change the pixels."""
    convert_to_8bit: bool = True
    """Whether levels of 16-bit images are written with 8 bits. 8-bit images keep their depth."""
    range_16bit: tuple[int, int] = (0, 65535)
    """The 16-bit values that become 0 and 255."""
    force: bool = True
    """Whether existing levels are made again. false keeps a level that decodes, has the right size and depth, and was
    made from the present image with the present settings."""
    file_mode: Mode | None = Field(None, **example("0664", off=True))
    """Permissions of the files, as an octal number in quotes, for a render-ws that runs as another user. They are set
    before a file gets its final name. The owner must be able to read and write. Not set: 0666 less the umask of the
    service."""
    directory_mode: Mode | None = Field(None, **example("2775", off=True))
    """Permissions of new directories, as for `file_mode`; existing directories keep theirs. The owner must be able to
    read, write and enter. Not set: 0777 less the umask."""
    group: OptionalText = Field(None, **example("em", off=True))
    """Group of new files and directories: a name, or a number in quotes. The service's user must be a member of it. Not
    set: the group that the system gives."""
    apply: Literal["tiles", "path_builder"] = "tiles"
    """"tiles": the levels are written into the tile specs. "path_builder": the stack gets a path builder, once."""
    min_free_bytes: int = Field(256 * 1024**2, ge=0)
    """Free bytes to keep on the disk of `output_dir`. With less, no mipmaps are made and the daemon is not ready.
    Invalid with an object store, which does not report its free space."""

    @field_validator("file_mode", "directory_mode")
    @classmethod
    def _owner_has_access(cls, value: str | None, info: ValidationInfo) -> str | None:
        needed = 0o600 if info.field_name == "file_mode" else 0o700
        if value is not None and int(value, 8) & needed != needed:
            raise ValueError(
                f"{quoted(value)} does not give the owner enough permissions: expected at least {needed:04o}"
            )
        return value

    @field_validator("range_16bit")
    @classmethod
    def _range_ascends(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1] <= 65535:
            raise ValueError(f"{list(value)} are not two ascending values from 0 to 65535")
        return value

    @model_validator(mode="after")
    def _keys_go_with_the_method(self) -> Self:
        for key, unset, method in (("function", "mean", "block_reduce"), ("filter", None, "PIL")):
            if getattr(self, key) != unset and self.method != method:
                raise RefusedKeyError(key, f'is only valid with method = "{method}", and method is "{self.method}"')
        if self.method == "PIL" and self.filter is None:
            raise RefusedKeyError("filter", 'is required with method = "PIL"')
        try:
            self.encoding()
        except SettingsFault as fault:
            raise RefusedKeyError(fault.subject.removeprefix("mipmaps."), fault.problem) from None
        return self

    @model_validator(mode="after")
    def _keys_go_with_the_store(self) -> Self:
        self.store.refuse_unused_keys(self.output_dir)
        if (self.url or isinstance(self.output_dir, ObjectPlace)) and self.apply == "path_builder":
            what = "url" if self.url else "an object store"
            raise RefusedKeyError("apply", f"'path_builder' cannot be used with {what}: use 'tiles'")
        if isinstance(self.output_dir, ObjectPlace):
            self._require_store_keys(self.output_dir)
            # The model is frozen for callers. The validated place carries the access to its store.
            self.__dict__["output_dir"] = self.output_dir.with_access(self.store.access())
        return self

    def _require_store_keys(self, place: ObjectPlace) -> None:
        for key in ("file_mode", "directory_mode", "group", "min_free_bytes"):
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise RefusedKeyError(key, f"has no effect where output_dir is {place.bucket}: leave it out")
        if not self.url and (problem := unreadable_by_render(place.bucket, has_endpoint=bool(self.store.endpoint))):
            raise RefusedKeyError("url", problem)

    def sharing(self) -> Sharing:
        """Return permissions and group of new files and directories."""
        file_mode = None if self.file_mode is None else int(self.file_mode, 8)
        directory_mode = None if self.directory_mode is None else int(self.directory_mode, 8)
        return Sharing(file_mode, directory_mode, self.group)

    def reduction(self) -> Reduction:
        """Return how levels are made from level 0."""
        return Reduction(self.method, self.filter or self.function)

    def encoding(self) -> Encoding:
        """Return the file format of a level. Raises SettingsFault, which names the key."""
        return Encoding(self.format, self.quality, self.compression)
