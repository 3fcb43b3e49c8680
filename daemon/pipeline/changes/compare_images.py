"""Compare images on disk with the contents that were read when their mipmaps were made. Blocking."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.config.watch_settings import WatchSettings
from daemon.pipeline.watch_root import watch_root
from handlers.acquisition.arrival import metafile_content
from handlers.acquisition.image_names import image_path
from handlers.acquisition.tilespec import tile_ids_for
from handlers.container import Container, Containers
from handlers.errors import ImageChanging, ImageFault, ImagesMissing, reading_fault
from handlers.identity import FileIdentity
from handlers.images.digest import FileContent, content_of
from handlers.images.mrc_header import StackSection, inspect_section
from handlers.images.mrc_section import read_section
from handlers.regular_file import NotContained, NotRegular, open_regular


@dataclass(frozen=True, slots=True)
class ImageComparison:
    """Differences between the present images of a montage and the contents that were read."""

    changed: Mapping[str, str] = field(default_factory=dict)
    """Tile id -> name of its image, for images with another content."""
    touched: Mapping[str, FileContent] = field(default_factory=dict)
    """Tile id -> present content, for images with another identity and the same bytes."""


def compare_images(
    metafile: Path,
    digest: str | None,
    watch: WatchSettings,
    z: float,
    contents: Mapping[str, FileContent],
    containers: Containers,
) -> ImageComparison:
    """Return which images differ from the contents that were read.

    Each image is opened once. Only an image with another identity is read, and its digest decides. A missing image does
    not count as changed, since its mount may be gone. An image that is now outside the watched directory counts as
    changed and is not read.

    Parameters
    ----------
    contents : tile id -> identity and digest of the image that was read.
    containers : containers of the watched directories.

    Raises
    ------
    Fault
        If the metafile is missing, invalid or outside the watched directory, or an image cannot be accessed.
    """
    root = watch_root(watch.directory, containers)
    content = metafile_content(metafile, root=root)
    if hashlib.sha256(content).hexdigest() != digest:
        return ImageComparison()  # the new content becomes another montage
    parsed = watch.reader.parse(content, metafile)
    ids = tile_ids_for(parsed, z, watch.tilespec_options(), str(metafile))
    directory = watch.reader.image_directory(metafile)
    places = {
        tile_id: _Place(image_path(directory, tile.img_path), root, tile.section)
        for tile_id, tile in zip(ids, parsed.tiles, strict=True)
    }
    if mask := watch.tilespecs.mask:
        places[str(mask)] = _Place(Path(mask), None)
    return _compare(contents, places)


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    root: Container | None
    """Directory that must contain the file; None: any."""
    section: int | None = None
    """Index of the image in the file at that path; None: the file is the image."""


def _compare(contents: Mapping[str, FileContent], places: Mapping[str, _Place]) -> ImageComparison:
    changed: dict[str, str] = {}
    touched: dict[str, FileContent] = {}
    for tile_id, before in contents.items():
        place = places.get(tile_id)
        if place is None:
            continue  # the present settings give the tiles other ids
        path = place.path
        try:
            now = _content_now(place, before)
        except (FileNotFoundError, NotADirectoryError, ImagesMissing, ImageChanging):
            continue
        except (NotRegular, NotContained, ImageFault):
            changed[tile_id] = path.name
            continue
        except OSError as error:
            raise reading_fault(str(path), "access the image", error) from error
        if now is not None and now.digest == before.digest:
            touched[tile_id] = now
        elif now is not None:
            changed[tile_id] = path.name
    return ImageComparison(changed, touched)


def _content_now(place: _Place, before: FileContent) -> FileContent | None:
    """Return the content of an image; None without reading it if the file's identity is unchanged."""
    if place.section is None:
        return _content_unless_same(place.path, before, place.root)
    section = StackSection(place.path, place.section)
    _, identity = inspect_section(section, place.root)
    return None if identity.matches(before.identity) else read_section(section, root=place.root)[1]


def _content_unless_same(path: Path, before: FileContent, root: Container | None = None) -> FileContent | None:
    """Return the content of a file; None without reading it if its identity is unchanged.

    The digest is empty if the size has changed. The file is opened, so that the client of a network file system fetches
    its attributes from the server.

    Raises
    ------
    NotContained
        If it is outside `root`.
    """
    descriptor, status = open_regular(path, root=root)
    try:
        identity = FileIdentity.of(status)
        if identity.matches(before.identity):
            return None
        if identity.size != before.identity.size:  # changed for certain; a sparse file can have any length
            return FileContent(identity, b"")
        return content_of(descriptor)
    finally:
        os.close(descriptor)
