"""Section: a settled montage with its metafile, tile specs and stacks, for the steps."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daemon.config.watch_settings import WatchSettings
from daemon.montages.records import Montage
from daemon.pipeline.settling.metafile_cache import MetafileCache, content_digest
from daemon.pipeline.watch_root import watch_root
from daemon.system.threads import access_timeout
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.arrival import read_metafile, with_sizes
from handlers.acquisition.image_names import image_path
from handlers.acquisition.tilespec import TileSpec, shared_transform_for, tile_specs_for, translations_for
from handlers.container import Container, Containers
from handlers.errors import Evidence, ImagesMissing, MetafileFault, StorageFault, Waiting
from handlers.images.mrc_header import StackSection
from handlers.mipmaps.overlap import Neighbour
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.place import path_of
from handlers.quality.neighbours import neighbours_of
from handlers.render.names import StackId
from handlers.uris import extracted_path


class MetafileChanged(MetafileFault):
    """The file's content is not that of its montage. The next scan makes a new montage of it."""

    waiting_helps = Waiting.ALWAYS


class MetafileGone(MetafileFault):
    """The file is missing. It may reappear there or under another path."""

    waiting_helps = Waiting.ALWAYS


@dataclass(frozen=True, slots=True)
class Section:
    """A montage with the content of its metafile."""

    montage: Montage
    watch: WatchSettings
    acquisition: Acquisition
    specs: tuple[TileSpec, ...]
    transform: Mapping[str, Any] | None
    """Lens correction shared by the tiles; None if the metafile has none or the watch does not use it."""
    raw: StackId
    mipmapped: StackId

    @property
    def z(self) -> float:
        """Place of the section in the stack."""
        assert self.montage.z is not None
        return self.montage.z

    @property
    def resolution_nm(self) -> tuple[float, float, float]:
        """Pixel size in x and y from the calibration; section distance from the configuration, else from the format."""
        assert self.acquisition.pixel_size_nm is not None
        stacks, z_nm = self.watch.stacks, self.acquisition.thickness_nm
        if z_nm is None or "resolution_z" in stacks.model_fields_set:
            z_nm = stacks.resolution_z
        return *self.acquisition.pixel_size_nm, z_nm

    @property
    def image_directory(self) -> Path:
        """Directory to which the images' paths are relative."""
        return self.watch.reader.image_directory(self.montage.metafile)

    def level0(self) -> list[Level0]:
        """Return image, mask and size of every tile."""
        directory = self.image_directory
        mask = Path(self.watch.tilespecs.mask) if self.watch.tilespecs.mask else None
        brightest = self.watch.tilespecs.maximum_intensity
        return [
            self._placed(
                Level0(
                    spec["tileId"], image_path(directory, tile.img_path), mask, spec["width"], spec["height"], brightest
                ),
                tile.section,
            )
            for spec, tile in zip(self.specs, self.acquisition.tiles, strict=True)
        ]

    def _placed(self, tile: Level0, section: int | None) -> Level0:
        """Return a tile with the file that temwatch extracts, if its image is inside a stack file."""
        if section is None:
            return tile
        image = extracted_path(path_of(self.watch.mipmaps.output_dir), path_of(tile.image), section)
        return replace(tile, image=image, stack=StackSection(path_of(tile.image), section))

    def neighbours(self, plan: MipmapPlan) -> dict[str, tuple[Neighbour, ...]]:
        """Return the raster neighbours of every tile, by tile id, with their positions in the tile specs."""
        options, tiles = self.watch.tilespec_options(), self.acquisition.tiles
        return neighbours_of(tiles, self.level0(), translations_for(tiles, options.positions, options.origin), plan)


def section_from_content(montage: Montage, watch: WatchSettings, content: bytes) -> Section:
    """Return the section of a settled montage. Raises as `Reader.parse` and `section_from_metafile`."""
    return section_from_metafile(montage, watch, watch.reader.parse(content, montage.metafile))


def section_from_metafile(
    montage: Montage, watch: WatchSettings, acquisition: Acquisition, root: Container | None = None
) -> Section:
    """Return the section of a settled montage. Raises as `with_sizes`, `tile_specs_for` and `shared_transform_for`.

    Parameters
    ----------
    root : directory that must contain the images if their sizes are to be read; None: any.
    """
    assert montage.z is not None
    assert montage.raw_stack is not None
    assert montage.mipmapped_stack is not None
    subject = str(montage.metafile)
    acquisition = _completed(acquisition, montage, watch, root)
    transform = shared_transform_for(acquisition, subject) if watch.tilespecs.shared_transform else None
    specs = tile_specs_for(
        acquisition,
        montage.z,
        watch.reader.image_directory(montage.metafile),
        watch.tilespec_options(),
        shared_transform_id=transform["id"] if transform else None,
        subject=subject,
    )
    raw, mipmapped = StackId.parse(montage.raw_stack), StackId.parse(montage.mipmapped_stack)
    return Section(montage, watch, acquisition, specs, transform, raw, mipmapped)


def _completed(acquisition: Acquisition, montage: Montage, watch: WatchSettings, root: Container | None) -> Acquisition:
    """Return an acquisition with the image sizes and the pixel size that its format does not state.

    Raises
    ------
    ImagesMissing
        If no image can be read to determine the size.
    """
    directory = watch.reader.image_directory(montage.metafile)
    acquisition = with_sizes(acquisition, directory, root)
    if acquisition.tiles[0].width is None:
        first = directory / acquisition.tiles[0].img_path
        problem = f"no image of {montage.metafile} can be read, and only images contain the size of the tiles"
        fault = ImagesMissing(str(first), problem, "copy the images there again")
        raise fault.with_evidence(Evidence.of(first))
    size = watch.pixel_size_nm
    return acquisition if size is None else replace(acquisition, pixel_size_nm=(size, size))


class SectionReader:
    """Reads the metafiles of settled montages again, before each step.

    Parameters
    ----------
    containers : containers of the watched directories.
    """

    def __init__(self, containers: Containers | None = None) -> None:
        self._containers = containers or Containers()
        self.metafiles = MetafileCache()
        """Shared with settling, which parses the metafiles first."""
        self._missing_since: dict[int, float] = {}

    async def read(self, montage: Montage, watch: WatchSettings) -> Section:
        """Return the section; the metafile must still hold the content that settled.

        Raises
        ------
        MetafileChanged
            If the metafile holds another content.
        MetafileGone, MetafileFault
            If the metafile is missing: MetafileGone up to `arrival_timeout_s`, then MetafileFault.
        """
        try:
            async with access_timeout(montage.metafile):
                content = await read_metafile(montage.metafile)
        except StorageFault as fault:
            if isinstance(fault.__cause__, FileNotFoundError):
                raise self._missing(montage, watch) from None
            raise
        self._missing_since.pop(montage.id, None)
        digest = await content_digest(content)
        if digest != montage.digest:
            raise MetafileChanged(
                str(montage.metafile), "changed after it settled", "the next scan reads its present content"
            )
        acquisition = await self.metafiles.parse(content, digest, montage.metafile, watch.reader)
        return await asyncio.to_thread(self._section, montage, watch, acquisition)

    def _section(self, montage: Montage, watch: WatchSettings, acquisition: Acquisition) -> Section:
        return section_from_metafile(montage, watch, acquisition, watch_root(watch.directory, self._containers))

    def forget(self, section: Section) -> None:
        """Drop the parsed metafile of a section that needs no further step."""
        montage = section.montage
        if montage.digest is not None:
            self.metafiles.forget(montage.digest, montage.metafile, section.watch.reader)

    def _missing(self, montage: Montage, watch: WatchSettings) -> MetafileFault:
        missing_s = time.monotonic() - self._missing_since.setdefault(montage.id, time.monotonic())
        subject, problem = str(montage.metafile), "was moved, renamed or deleted after it settled"
        hint = "move it back to resume this montage; under another path it makes a new montage"
        if missing_s <= watch.arrival_timeout_s:
            return MetafileGone(subject, problem, hint)
        self._missing_since.pop(montage.id)
        problem += f", and has been missing for more than {watch.arrival_timeout_s:g} s"
        return MetafileFault(subject, problem, hint).with_evidence(Evidence(montage.metafile, None))
