"""What of a metafile has arrived: its bytes, and its images by their headers."""

import asyncio
import errno
from dataclasses import dataclass
from pathlib import Path

from handlers.errors import Evidence, ImageFault, MetafileFault, StorageFault, storage_fault
from handlers.identity import FileIdentity
from handlers.imageheader import ImageDirectory, ImageInfo
from handlers.metafile import MAX_METAFILE_BYTES, Camera, Metafile, refuse_unsafe
from handlers.regularfile import NotRegular, read_regular


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """An image that is not there or not whole."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """Which images of a metafile are not there yet, and which are there but cannot be read."""

    missing: tuple[ImageProblem, ...]
    unreadable: tuple[ImageProblem, ...]

    newest_mtime_ns: int
    """Of the images that are whole, as is `fingerprint`."""
    fingerprint: int
    """Changes when any image changes its identity."""
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
    camera = metafile.header.camera
    missing, unreadable = [], []
    seen: list[FileIdentity] = []
    bits: set[int] = set()
    with ImageDirectory(directory) as images:
        for tile in metafile.tiles:
            refuse_unsafe(tile.img_path, directory)
            try:
                info, identity = images.inspect(tile.img_path)
            except (FileNotFoundError, NotADirectoryError):
                path = directory / tile.img_path
                missing.append(ImageProblem(path, f"{path.name} is missing"))
            except ImageFault as fault:
                path = directory / tile.img_path
                unreadable.append(ImageProblem(path, f"{path.name} {fault.problem}"))
            except OSError as error:
                raise _cannot_look(directory, tile.img_path, error) from error
            else:
                if info.width != camera.width or info.height != camera.height:
                    path = directory / tile.img_path
                    # As it was before it was read: one that is replaced meanwhile is another.
                    raise _other_size(path, info, camera).seen_on(Evidence(path, identity))
                seen.append(identity)
                bits.add(info.bits)
    newest_mtime_ns = max((identity.mtime_ns for identity in seen), default=0)
    return Arrival(tuple(missing), tuple(unreadable), newest_mtime_ns, hash(tuple(seen)), frozenset(bits))


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
