"""The job of a worker: making the levels of one image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from handlers.container import Container
from handlers.errors import ImageFault, SettingsFault
from handlers.images.encode import PLAIN_TIFF, Encoding
from handlers.images.mrc_header import StackSection
from handlers.images.read_ahead import UpcomingImage
from handlers.images.reduction import FULL_RANGE, MEAN, IntensityRange, Reduction, level_size
from handlers.parcel import Parcel
from handlers.place import Place
from handlers.sharing import AS_MADE, Sharing

if TYPE_CHECKING:  # most modules that import this one only describe jobs
    from handlers.images.render_source import RenderSource
    from handlers.mipmaps.overlap import Neighbour


@dataclass(frozen=True, slots=True)
class MipmapJob(Parcel):
    """The levels to make from one image, and how."""

    tile_id: str
    level0: Place
    outputs: tuple[tuple[int, Place], ...]
    """(level, its file), in any order. Missing directories are made."""
    width: int
    """Width of level 0, from its metafile. An image of another size is refused before it is decoded."""
    height: int
    reduction: Reduction = MEAN
    encoding: Encoding = PLAIN_TIFF
    convert_to_8bit: bool = True
    """Whether levels of a 16-bit image have 8 bits. 8-bit images stay as they are."""
    intensity_range: IntensityRange | None = None
    """The 16-bit values that become 0 and 255; None: 0 and 65535."""
    root: Container | None = None
    """Directory that must contain the image, or its MRC file, after all links are followed; None: any."""
    stack: StackSection | None = None
    """Section of an MRC file from which level 0 is extracted first; None: level 0 exists."""
    container: Container | None = None
    """Directory of all outputs, below which no link is followed; None: links are followed."""
    output_dir: Place | None = None
    """Directory of all outputs, as configured; None: not known."""
    sharing: Sharing = AS_MADE
    """Modes and group of new files and directories."""
    is_mask: bool = False
    """Whether the image is a mask. A mask may have 1 bit per pixel, and must not have 16."""
    force: bool = True
    """Whether to make valid existing levels again. A level is valid if it decodes, has the right size, mode and format,
    and its text has the digest of the present level 0 and the settings of this job."""
    maximum_intensity: float | None = None
    """The value that the tile spec shows white. The report has a note if it does not match the bits of the image."""
    measure: bool = False
    """Whether the report contains numbers of the image and digests of the levels."""
    neighbours: "tuple[Neighbour, ...]" = ()
    """Tiles whose overlap with this tile is compared, if `measure` is set and level 3 is made."""
    source: "RenderSource | None" = None
    """Address of level 0 at render-ws; None: the file is read. Method "render" requires it."""
    upcoming: tuple[UpcomingImage, ...] = ()
    """Images of later jobs, which the kernel of the worker's machine is to fetch meanwhile."""

    @property
    def to_8bit(self) -> IntensityRange | None:
        """The range from which 16-bit values are scaled to 8 bits; None: they are not scaled."""
        return (self.intensity_range or FULL_RANGE) if self.convert_to_8bit else None

    def level_bits(self, level0_bits: int) -> int:
        """Return the bits per pixel of the levels, given those of level 0.

        Raises
        ------
        SettingsFault
            If the format cannot store them.
        """
        bits = 16 if level0_bits == 16 and not self.convert_to_8bit else 8
        if bits not in self.encoding.depths:
            raise SettingsFault(
                "mipmaps.format",
                f"{self.encoding.extension} cannot hold the 16 bits of {self.level0}",
                "set mipmaps.convert_to_8bit = true, or another format",
            )
        return bits

    def require_possible(self) -> None:
        """Raise a Fault if the job contradicts itself. Checks everything that can be checked without the image."""
        levels = [level for level, _ in self.outputs]
        if self.is_mask and not self.encoding.lossless:
            raise SettingsFault("mipmaps.format", f"{self.encoding.extension} blurs the masks", "use tif or png")
        if self.reduction.method == "render" and self.source is None:
            raise SettingsFault(
                "mipmaps.method", "method 'render' requires the address at which render-ws serves the image"
            )
        if len(set(levels)) < len(levels) or min(levels, default=1) < 1:
            raise SettingsFault("mipmaps.levels", f"expected different levels from 1 on, found {levels}")
        if any(path == self.level0 for _, path in self.outputs):
            raise SettingsFault("mipmaps.output_dir", f"a level would replace the image {self.level0}")
        low, high = self.intensity_range or FULL_RANGE
        if not 0 <= low < high <= 65535:
            problem = f"expected two ascending values from 0 to 65535, found {low}, {high}"
            raise SettingsFault("mipmaps.range_16bit", problem)
        if 0 in level_size(self.width, self.height, max(levels, default=0)):
            raise ImageFault(
                str(self.level0),
                f"is {self.width}x{self.height} pixels: level {max(levels)} is empty",
                "make fewer levels",
            )
