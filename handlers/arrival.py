"""What of a metafile has arrived: its bytes, and its images by their headers."""

import errno
from dataclasses import dataclass
from pathlib import Path

import aiofiles

from handlers.errors import Evidence, ImageFault, MetafileFault, storage_fault
from handlers.imageheader import ImageInfo, inspect_image
from handlers.metafile import MAX_METAFILE_BYTES, Metafile, image_path


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
    fingerprint: int
    """Changes when any image changes its size or mtime."""
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
    seen: list[tuple[int, int]] = []
    bits: set[int] = set()
    for tile in metafile.tiles:
        path = image_path(directory, tile.img_path)
        try:
            found = path.stat()
            seen.append((found.st_size, found.st_mtime_ns))
            info = inspect_image(path, directory)
            bits.add(info.bits)
        except (FileNotFoundError, NotADirectoryError):
            missing.append(ImageProblem(path, f"{path.name} is missing"))
        except ImageFault as fault:
            unreadable.append(ImageProblem(path, f"{path.name} {fault.problem}"))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no waiting makes a disk take such a name
                problem = f"img_path {tile.img_path[:60]!r}... is a longer name than the disk takes"
                raise MetafileFault(str(directory), problem, "see what wrote the metafile") from error
            raise storage_fault(str(path), "look at the image", error) from error
        else:
            try:
                _require_size(path, info, camera.width, camera.height)
            except ImageFault as fault:
                # As it was before it was read: one that is replaced meanwhile is another.
                raise fault.seen_on(Evidence(path, (found.st_size, found.st_mtime_ns, found.st_ino))) from None
    newest_mtime_ns = max((mtime for _, mtime in seen), default=0)
    return Arrival(tuple(missing), tuple(unreadable), newest_mtime_ns, hash(tuple(seen)), frozenset(bits))


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


def _require_size(path: Path, info: ImageInfo, width: int, height: int) -> None:
    if (info.width, info.height) != (width, height):
        raise ImageFault(
            str(path),
            f"is {info.width}x{info.height} pixels, but its metafile's camera_info says {width}x{height}",
            "find out which of the two is wrong; nothing was ingested",
        )


async def read_metafile(path: Path) -> bytes:
    """Content of a file that is no longer than a metafile may be.

    Raises
    ------
    MetafileFault
        If it is longer.
    StorageFault
        If it cannot be read.
    """
    try:
        async with aiofiles.open(path, "rb") as file:
            content: bytes = await file.read(MAX_METAFILE_BYTES + 1)
    except OSError as error:
        raise storage_fault(str(path), "read the metafile", error) from error
    if len(content) > MAX_METAFILE_BYTES:
        raise too_large(path, f"over {MAX_METAFILE_BYTES}")
    return content


def too_large(path: Path, size: str) -> MetafileFault:
    """What is said of a metafile that is longer than one may be; `size` in bytes, in words."""
    return MetafileFault(
        str(path),
        f"is {size} bytes long; a metafile is read up to {MAX_METAFILE_BYTES} bytes",
        "a section of 20,000 tiles needs about 17 MB; see what wrote this file",
    )
