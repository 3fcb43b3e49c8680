"""Test the rights of the service's user in a directory, and those of other users. Blocking."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from daemon.config.writable import user_name
from daemon.pipeline.gates.output_disks import shortage
from handlers.errors import StorageFault, StoreFault
from handlers.images.encode import Encoding
from handlers.images.pixels import Grey
from handlers.place import ObjectPlace, Place
from handlers.sharing import Sharing, make_directories
from handlers.stores.choose import store_of
from handlers.text import printable

SIDE_PX = 64
_HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota of this user",
    errno.EROFS: "remount it writable; a service must have it below a path of ReadWritePaths= of its unit",
    errno.EACCES: "give this user write permission",
    errno.EPERM: "give this user write permission; a file server may squash root",
}


@dataclass(frozen=True, slots=True)
class ProbeTile:
    """A small image in its own directory below `output_dir`."""

    path: Place
    pixels: Grey
    made: tuple[Path, ...]
    """Directories that did not exist before, innermost first."""


def write_object_probe(output_dir: ObjectPlace) -> ProbeTile:
    """Write, read back and list a small image in an object store, with the same calls as for mipmaps.

    Raises
    ------
    StorageFault
        For the first step that fails. The image is deleted then, if the store allows it.
    SettingsFault
        If no connection can be made.
    """
    directory = output_dir / f"temwatch-probe-{uuid.uuid4().hex[:12]}"
    tile = ProbeTile(directory / "probe+1.tif", _random_pixels(), ())
    encoding, store = Encoding("tif"), store_of(directory)
    try:
        store.put(1, tile.path, encoding.page(tile.pixels, ""), encoding)
        with store.open(tile.path) as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)), tile.pixels)
        if tile.path.name not in dict(store.list(directory)):
            raise StoreFault(str(directory), "does not list what was written", "allow these credentials to list there")
    except StorageFault:
        with contextlib.suppress(StorageFault):
            store.delete(tile.path)
        raise
    return tile


def _random_pixels() -> Grey:
    # Below 255, because an image that contains 255 needs a second request to render-ws.
    return np.random.default_rng().integers(0, 255, (SIDE_PX, SIDE_PX), np.uint8)


def write_probe(output_dir: Path, sharing: Sharing) -> ProbeTile:
    """Create, write, sync, rename and chmod a small image below a directory, with the same calls as for mipmaps.

    Parameters
    ----------
    sharing : permissions and group of the mipmaps.

    Raises
    ------
    StorageFault
        For the first step that fails. Everything that was made is deleted then.
    """
    directory = output_dir / f"temwatch-probe-{uuid.uuid4().hex[:12]}"
    made = (directory, *(each for each in (output_dir, *output_dir.parents) if not each.exists()))
    path = directory / "probe.tif"
    tile = ProbeTile(path, _random_pixels(), made)
    temporary = path.with_suffix(".new")
    try:
        with _step(output_dir, "make a directory in"):
            make_directories(directory, sharing)
        with _step(output_dir, "write a file in"):
            _write(temporary, tile.pixels, sharing)
        with _step(output_dir, "rename a file in"):
            temporary.rename(path)
        with _step(output_dir, "sync a directory in"):
            _sync(directory)
        with _step(output_dir, "change the mode of a file in"):
            path.chmod(stat.S_IMODE(path.stat().st_mode))
    except StorageFault:
        with contextlib.suppress(StorageFault):
            remove_probe(tile)
        raise
    return tile


def _write(path: Path, pixels: Grey, sharing: Sharing) -> None:
    with path.open("xb") as file:
        sharing.share_file(file.fileno(), str(path))
        Image.fromarray(pixels).save(file, "TIFF")
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_probe(tile: ProbeTile) -> None:
    """Delete the image and the directories that were made for it. Raises StorageFault."""
    if isinstance(tile.path, ObjectPlace):
        store_of(tile.path).delete(tile.path)
        return
    with _step(tile.path.parent, "delete a file in"):
        for path in (tile.path, tile.path.with_suffix(".new")):
            path.unlink(missing_ok=True)
        for directory in tile.made:
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()


@contextlib.contextmanager
def _step(directory: Path, tried: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"user {user_name()} cannot {tried} it: {error.strerror or error}"
        raise StorageFault(str(directory), problem, _HINTS.get(error.errno or 0, "")) from error


def low_space(output_dir: Path, min_free_bytes: int) -> str:
    """Return why the disk is too full for mipmaps; empty if it is not. Raises OSError."""
    found = os.statvfs(output_dir)
    problem = shortage(found.f_bavail * found.f_frsize, min_free_bytes)
    return problem and f"{output_dir} {problem}"


def closed_part(path: Path) -> Path | None:
    """Return the first part of a file's path that other users cannot access; None if they can read the file."""
    for directory in reversed(path.parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None if path.stat().st_mode & stat.S_IROTH else path


def described(path: Path) -> str:
    """Return a path with its mode, user id and group id."""
    found = path.stat()
    return f"{printable(path)} (mode {stat.S_IMODE(found.st_mode):04o}, user {found.st_uid}, group {found.st_gid})"


def readers_of(tile: ProbeTile) -> Iterator[str]:
    """Yield sentences about the access of other users. Raises OSError."""
    if isinstance(tile.path, ObjectPlace):
        yield f"{tile.path.bucket} accepts, returns and lists objects"
        return
    owner = tile.path.stat().st_uid
    if owner != os.geteuid():
        yield f"the file server changed the file's owner to user {owner} (root_squash or all_squash)"
    closed = closed_part(tile.path)
    if closed is None:
        yield f"every user can read new files (mode {stat.S_IMODE(tile.path.stat().st_mode):04o})"
    else:
        yield f"other users cannot read new files: they have no access to {described(closed)}"
