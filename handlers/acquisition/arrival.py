"""Whether a metafile and its images have arrived: reads the bytes of the metafile and the headers of the images."""

import asyncio
import errno
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.image_names import require_contained
from handlers.acquisition.limits import MAX_METAFILE_BYTES, too_large_fault
from handlers.acquisition.section_content import section_content
from handlers.acquisition.section_path import is_inside_file
from handlers.container import Container
from handlers.errors import Evidence, ImageFault, MetafileFault, StorageFault, reading_fault
from handlers.identity import FileIdentity
from handlers.images.header import ImageDirectory, ImageInfo
from handlers.images.largest_image import LARGEST_IMAGE_PX, require_size
from handlers.images.mrc_header import StackSection, inspect_section
from handlers.regular_file import NotContained, NotRegular, read_regular


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """An image that is missing or incomplete, or that has the placeholder time of a copy program."""

    path: Path
    why: str
    identity: FileIdentity | None = None
    """Identity of the file; None if there is none."""
    hint: str = "copy it there again"


@dataclass(frozen=True, slots=True)
class Arrival:
    """State of all images of an acquisition."""

    missing: tuple[ImageProblem, ...]
    unreadable: tuple[ImageProblem, ...]
    placeholders: tuple[ImageProblem, ...]
    """Images, readable or not, with a modification time that a copy program sets until the content is copied."""
    newest_ctime_ns: int
    """Latest change time of the complete images."""
    fingerprint: int
    """Hash of the identities of the complete images: it changes when any of them changes."""
    bits: frozenset[int] = frozenset()
    """Bits per pixel of the complete images."""


def check_images(
    acquisition: Acquisition, directory: Path, root: Container | None = None, largest_image_px: int = LARGEST_IMAGE_PX
) -> Arrival:
    """Check the header and length of every image without decoding it. No image may lie outside the directory. Blocking.

    Parameters
    ----------
    root : directory that must contain `directory` after all links are followed; None: any.
    largest_image_px : larger images are refused. Sizes that the acquisition states are checked before any file is read.

    Raises
    ------
    ImageFault
        If the directory or an image lies outside, or an image is too large or has another size than the acquisition
        states.
    MetafileFault
        If the name of an image is invalid.
    StorageFault
        If an image cannot be accessed.
    """
    for tile in acquisition.tiles:
        if (tile.width or 0) * (tile.height or 0) > largest_image_px:
            require_size(str(directory / tile.img_path), tile.width or 0, tile.height or 0, largest_image_px)
    check = _ImageCheck(directory, largest_image_px)
    with ImageDirectory(directory, root) as images:
        for tile in acquisition.tiles:
            require_contained(tile.img_path, directory)
            check.inspect(images, tile)
    return check.arrival()


_Size = tuple[int | None, int | None]
"""Width and height in pixels that the acquisition states."""


def with_sizes(acquisition: Acquisition, directory: Path, root: Container | None = None) -> Acquisition:
    """Return the acquisition with the size of every tile. Blocking.

    If the format states no sizes, all tiles get the size of the first image that can be read; if none can be read, the
    sizes stay None.

    Parameters
    ----------
    root : as for `check_images`.
    """
    if all(tile.width is not None for tile in acquisition.tiles):
        return acquisition
    with ImageDirectory(directory, root) as images:
        for tile in acquisition.tiles:
            with suppress(OSError, ImageFault):
                info, _ = _inspect(images, tile)
                tiles = (replace(each, width=info.width, height=info.height) for each in acquisition.tiles)
                findings = (*acquisition.findings, *_size_findings(acquisition.declared_size, info))
                return replace(acquisition, tiles=tuple(tiles), findings=findings)
    return acquisition


def _size_findings(declared: tuple[int, int] | None, info: ImageInfo) -> Iterator[Finding]:
    """Yield a warning if the images have another size than the metafile states."""
    if declared is not None and declared != (info.width, info.height):
        text = f"images have {info.width}x{info.height} pixels, the metafile says {declared[0]}x{declared[1]}"
        yield Finding(Severity.WARNING, text)


def _inspect(images: ImageDirectory, tile: Tile) -> tuple[ImageInfo, FileIdentity]:
    if tile.section is None:
        return images.inspect(tile.img_path)
    path, root = images.path_of(tile.img_path)
    return inspect_section(StackSection(path, tile.section), root)


class _ImageCheck:
    """Results of the images inspected so far."""

    def __init__(self, directory: Path, largest_image_px: int) -> None:
        self._directory = directory
        self._largest_image_px = largest_image_px
        self._missing: list[ImageProblem] = []
        self._unreadable: list[ImageProblem] = []
        self._placeholders: list[ImageProblem] = []
        self._identities: list[FileIdentity] = []
        self._bits: set[int] = set()

    def inspect(self, images: ImageDirectory, tile: Tile) -> None:
        try:
            info, identity = _inspect(images, tile)
        except (FileNotFoundError, NotADirectoryError):
            path = self._directory / tile.img_path
            self._missing.append(ImageProblem(path, f"{path.name} is missing"))
        except ImageFault as fault:
            path = self._directory / tile.img_path
            self._add_unreadable(path, fault, Evidence.of(path).identity)
        except OSError as error:
            raise _access_fault(self._directory, tile.img_path, error) from error
        else:
            self._add(info, identity, tile)

    def _add_unreadable(self, path: Path, fault: ImageFault, identity: FileIdentity | None) -> None:
        self._unreadable.append(ImageProblem(path, f"{path.name} {fault.problem}", identity, fault.hint))
        if identity is not None and identity.has_placeholder_time:
            self._placeholders.append(_placeholder(path, identity))

    def _add(self, info: ImageInfo, identity: FileIdentity, tile: Tile) -> None:
        size = tile.width, tile.height
        if None not in size and (info.width, info.height) != size:
            path = self._directory / tile.img_path
            fault = _size_fault(path, info, size)
            if not identity.has_placeholder_time:
                # The identity from before the file was read: a replacement made meanwhile counts as a change.
                raise fault.with_evidence(Evidence(path, identity))
            self._add_unreadable(path, fault, identity)
            return
        if info.width * info.height > self._largest_image_px:
            require_size(str(self._directory / tile.img_path), info.width, info.height, self._largest_image_px)
        if identity.has_placeholder_time:
            self._placeholders.append(_placeholder(self._directory / tile.img_path, identity))
        if tile.section is not None:  # an MRC file grows by later images, which do not change this one
            identity = FileIdentity(info.file_bytes, 0, None, identity.inode)
        self._identities.append(identity)
        self._bits.add(info.bits)

    def arrival(self) -> Arrival:
        return Arrival(
            tuple(self._missing),
            tuple(self._unreadable),
            tuple(self._placeholders),
            max((identity.ctime_ns or 0 for identity in self._identities), default=0),
            hash(tuple(self._identities)),
            frozenset(self._bits),
        )


def _placeholder(path: Path, identity: FileIdentity) -> ImageProblem:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=identity.mtime_ns // 10**9)
    time = f"{moment:%Y-%m-%d %H:%M:%S}"
    why = f"{path.name} has the time {time}, a placeholder that copy programs set until the content is there"
    return ImageProblem(path, why, identity)


def _access_fault(directory: Path, img_path: str, error: OSError) -> MetafileFault | StorageFault:
    if error.errno == errno.ENAMETOOLONG:  # waiting does not help
        problem = f"img_path {img_path[:60]!r}... is longer than the disk's limit for names"
        return MetafileFault(str(directory), problem, "check the program that wrote the metafile")
    return reading_fault(str(directory / img_path), "access the image", error)


def _size_fault(path: Path, info: ImageInfo, size: _Size) -> ImageFault:
    return ImageFault(
        str(path),
        f"should have {size[0]}x{size[1]} pixels by the metafile, has {info.width}x{info.height}",
        "correct the image or the metafile; nothing was ingested",
    )


def depth_warnings(bits: frozenset[int], maximum_intensity: float) -> list[str]:
    """Return warnings about the bits per pixel of a montage's images and the value that render displays white.

    >>> depth_warnings(frozenset({8}), 255)
    []
    """
    if len(bits) > 1:
        return [f"images have {' and '.join(map(str, sorted(bits)))} bits per pixel"]
    if bits == {16} and maximum_intensity <= 255:
        return [f"images have 16 bits per pixel, but render displays all values above {maximum_intensity:g} white"]
    if bits == {8} and maximum_intensity > 255:
        return [
            f"images have 8 bits per pixel, but render displays only {maximum_intensity:g} white: they will look dark"
        ]
    return []


async def read_metafile(path: Path, *, follow_links: bool = False, root: Container | None = None) -> bytes:
    """Call `metafile_content` in a thread."""
    return await asyncio.to_thread(metafile_content, path, follow_links=follow_links, root=root)


def metafile_content(path: Path, *, follow_links: bool = False, root: Container | None = None) -> bytes:
    """Return the content of a metafile of at most MAX_METAFILE_BYTES. Blocking.

    Parameters
    ----------
    follow_links : whether the file itself may be a link.
    root : directory that must contain the file after all links are followed; None: any.

    Raises
    ------
    MetafileFault
        If the file is longer, not a regular file, or outside root.
    StorageFault
        If it cannot be read.
    """
    try:
        if is_inside_file(path):
            content = section_content(path, root)
        else:
            content, _ = read_regular(path, MAX_METAFILE_BYTES + 1, follow_links=follow_links, root=root)
    except NotRegular as error:
        raise not_a_metafile_fault(path) from error
    except NotContained as error:
        raise outside_fault(path, error.root) from error
    except OSError as error:
        raise reading_fault(str(path), "read the metafile", error) from error
    if len(content) > MAX_METAFILE_BYTES:
        raise too_large_fault(str(path))
    return content


def not_a_metafile_fault(path: Path) -> MetafileFault:
    """Return the fault of a metafile that is a link, a directory, a pipe, a socket or a device."""
    hint = "put the file itself there: links and devices are not followed"
    return MetafileFault(str(path), NotRegular.problem, hint)


def outside_fault(path: Path, root: Path) -> MetafileFault:
    """Return the fault of a metafile that lies outside its watched directory."""
    problem = f"lies outside the watched directory {root} when links are followed"
    return MetafileFault(str(path), problem, "watch the directory that contains it")
