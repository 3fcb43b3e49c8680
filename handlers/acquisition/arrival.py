"""What of a metafile has arrived: its bytes, and its images by their headers."""

import asyncio
import errno
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handlers.acquisition.image_names import require_contained
from handlers.acquisition.metafile import Camera, Metafile
from handlers.acquisition.parse import MAX_METAFILE_BYTES
from handlers.errors import Evidence, ImageFault, MetafileFault, StorageFault, storage_fault
from handlers.identity import FileIdentity
from handlers.images.header import ImageDirectory, ImageInfo
from handlers.regular_file import NotRegular, read_regular


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """An image that is not there or not whole."""

    path: Path
    why: str
    identity: FileIdentity | None = None
    """Of the file; None if it is not there."""
    hint: str = "copy it there again"


@dataclass(frozen=True, slots=True)
class Arrival:
    """Which images of a metafile are not there yet, and which are there but cannot be read."""

    missing: tuple[ImageProblem, ...]
    unreadable: tuple[ImageProblem, ...]

    placeholders: tuple[ImageProblem, ...]
    """Images whose time is one that a copy program sets until the content is there, readable or not."""

    newest_ctime_ns: int
    """Youngest change time of the images that are whole."""
    fingerprint: int
    """Changes when any of the images that are whole changes its identity."""
    bits: frozenset[int] = frozenset()
    """Bits per pixel of the images that are whole."""

    @property
    def whole(self) -> bool:
        """Whether every image is there and whole."""
        return not self.missing and not self.unreadable


def check_images(metafile: Metafile, directory: Path) -> Arrival:
    """Looks at the header and length of every image; decodes none. None may lead out of the directory.

    Raises
    ------
    ImageFault
        If an image has another size than the metafile's header says: that cannot be meant.
    MetafileFault
        If it names an image as no disk can.
    StorageFault
        If the directory cannot be looked at.
    """
    seen = _Seen(directory, metafile.header.camera)
    with ImageDirectory(directory) as images:
        for tile in metafile.tiles:
            require_contained(tile.img_path, directory)
            seen.look_at(images, tile.img_path)
    return seen.arrival()


class _Seen:
    """What was seen of the images so far."""

    def __init__(self, directory: Path, camera: Camera) -> None:
        self._directory = directory
        self._camera = camera
        self._missing: list[ImageProblem] = []
        self._unreadable: list[ImageProblem] = []
        self._placeholders: list[ImageProblem] = []
        self._identities: list[FileIdentity] = []
        self._bits: set[int] = set()

    def look_at(self, images: ImageDirectory, img_path: str) -> None:
        path = self._directory / img_path
        try:
            info, identity = images.inspect(img_path)
        except (FileNotFoundError, NotADirectoryError):
            self._missing.append(ImageProblem(path, f"{path.name} is missing"))
        except ImageFault as fault:
            self._cannot_read(path, fault, Evidence.of(path).identity)
        except OSError as error:
            raise _cannot_look(self._directory, img_path, error) from error
        else:
            self._read(path, info, identity)

    def _cannot_read(self, path: Path, fault: ImageFault, identity: FileIdentity | None) -> None:
        self._unreadable.append(ImageProblem(path, f"{path.name} {fault.problem}", identity, fault.hint))
        if identity is not None and identity.has_placeholder_time:
            self._placeholders.append(_placeholder(path, identity))

    def _read(self, path: Path, info: ImageInfo, identity: FileIdentity) -> None:
        if (info.width, info.height) != (self._camera.width, self._camera.height):
            fault = _other_size(path, info, self._camera)
            if not identity.has_placeholder_time:
                # As it was before it was read: one that is replaced meanwhile is another.
                raise fault.with_evidence(Evidence(path, identity))
            self._cannot_read(path, fault, identity)
            return
        if identity.has_placeholder_time:
            self._placeholders.append(_placeholder(path, identity))
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
    why = f"{path.name} has the time {moment:%Y-%m-%d %H:%M:%S}, a placeholder until its content is there"
    return ImageProblem(path, why, identity)


def _cannot_look(directory: Path, img_path: str, error: OSError) -> MetafileFault | StorageFault:
    if error.errno == errno.ENAMETOOLONG:  # no waiting makes a disk take such a name
        problem = f"img_path {img_path[:60]!r}... is a longer name than the disk takes"
        return MetafileFault(str(directory), problem, "see what wrote the metafile")
    return storage_fault(str(directory / img_path), "look at the image", error)


def _other_size(path: Path, info: ImageInfo, camera: Camera) -> ImageFault:
    return ImageFault(
        str(path),
        f"is {info.width}x{info.height} pixels, but its metafile's camera_info says {camera.width}x{camera.height}",
        "find out which of the two is wrong; nothing was ingested",
    )


def depth_warnings(bits: frozenset[int], maximum_intensity: float) -> list[str]:
    """What is odd about the bits per pixel of a montage's images, and the value that render is to show white.

    >>> depth_warnings(frozenset({8}), 255)
    []
    """
    if len(bits) > 1:
        return [f"images have {' and '.join(map(str, sorted(bits)))} bits per pixel"]
    if bits == {16} and maximum_intensity <= 255:
        return [f"images have 16 bits per pixel, but render shows everything above {maximum_intensity:g} white"]
    if bits == {8} and maximum_intensity > 255:
        return [f"images have 8 bits per pixel, but only {maximum_intensity:g} is shown white: they will look dark"]
    return []


async def read_metafile(path: Path, *, follow_links: bool = False) -> bytes:
    """`metafile_content`, in a thread."""
    return await asyncio.to_thread(metafile_content, path, follow_links=follow_links)


def metafile_content(path: Path, *, follow_links: bool = False) -> bytes:
    """Return the content of a file that is no longer than a metafile may be. Blocking.

    Raises
    ------
    MetafileFault
        If it is longer, or not a regular file.
    StorageFault
        If it cannot be read.
    """
    try:
        content, _ = read_regular(path, MAX_METAFILE_BYTES + 1, follow_links=follow_links)
    except NotRegular as error:
        raise not_a_metafile(path) from error
    except OSError as error:
        raise storage_fault(str(path), "read the metafile", error) from error
    if len(content) > MAX_METAFILE_BYTES:
        raise too_large(path, f"over {MAX_METAFILE_BYTES}")
    return content


def not_a_metafile(path: Path) -> MetafileFault:
    """Return the fault of a metafile that is a link, a directory, a pipe, a socket or a device."""
    hint = "links and devices are not followed; put the file itself there"
    return MetafileFault(str(path), NotRegular.problem, hint)


def too_large(path: Path, size: str) -> MetafileFault:
    """What is said of a metafile that is longer than one may be; `size` in bytes, in words."""
    return MetafileFault(
        str(path),
        f"is {size} bytes long; a metafile is read up to {MAX_METAFILE_BYTES} bytes",
        "a section of 20,000 tiles needs about 17 MB; see what wrote this file",
    )
