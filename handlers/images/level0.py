"""Level 0 in a file: header, pixels and digest of the same content of the file.

A file that changes while it is read is reported as changing, never as a bad image, and no levels are made from it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from handlers.container import Container
from handlers.errors import ImageChanging, ImageFault
from handlers.file_status import status_of
from handlers.identity import FileIdentity
from handlers.images.decode import read_hashed, read_image, require_size, translate_errors
from handlers.images.digest import FileContent, RunningDigest, settled_identity
from handlers.images.header import KnownHeader, open_content, open_descriptor, read_header
from handlers.images.opened import Opened, Run
from handlers.images.pixels import Grey
from handlers.images.read_ahead import announce
from handlers.images.rows import decoded_rows
from handlers.place import Place, path_of

T = TypeVar("T")

DISTANT_S: Final = 0.001
"""If opening a file took longer, a thread opens it the second time. Starting a thread takes a tenth of this time."""


_known: Final = KnownHeader()
"""Header of the image that this process read last; the next one is usually of the same camera."""


@dataclass(frozen=True, slots=True)
class Level0File:
    """File of level 0, and its expected size."""

    path: Place
    width: int
    height: int
    root: Container | None = None
    """Directory that must contain the file after all links are followed; None: any."""
    is_mask: bool = False


class OpenLevel0(Protocol):
    """Level 0 of a job, as a worker reads it."""

    @property
    def bits(self) -> int:
        """Bits per pixel."""

    @property
    def has_more_pages(self) -> bool:
        """Whether the file has further images; the first is used."""

    @property
    def runs(self) -> Sequence[Run]:
        """Runs of rows that can be read without decoding the whole image; empty if there are none."""

    @property
    def digest(self) -> bytes | None:
        """The digest of the file's bytes; None if they were not read."""

    @property
    def content(self) -> FileContent | None:
        """Identity and digest of the file; None if it was not read, or is an object."""

    def known_digest(self) -> bytes | None:
        """Return the digest of the file's bytes, which are read if necessary; None if only render-ws can read them."""

    def pixels(self) -> Grey:
        """Return the decoded pixels, (H, W)."""

    def stream(self, read: Callable[[Opened, RunningDigest], T]) -> T:
        """Return the result of `read`, which is called with the open file and a running digest.

        It passes each piece that it reads to the digest. Can be called once, and only if there are runs.
        """

    def begin_comparing(self) -> None:
        """Begin the comparison of `require_unchanged` in a thread, if it takes long. The caller works meanwhile."""

    def require_unchanged(self) -> None:
        """Raise ImageChanging if the file has changed since it was first opened.

        If the comparison has begun already, wait for its result.
        """

    def close(self) -> None:
        """Close the file, if it is still open."""


class FileLevel0:
    """Level 0 in a file or an object that this machine reads.

    The file stays open until its rows have been streamed or decoded: each opening costs a request to a distant file
    server.

    Raises
    ------
    ImageFault
        If the file is not a supported image, or has another size.
    ImageChanging
        If it changes while it is read.
    ImagesMissing, StorageFault
        If it cannot be read.
    """

    def __init__(self, file: Level0File) -> None:
        self._file = file
        self.digest: bytes | None = None
        self._comparison: Future[None] | None = None
        began = time.perf_counter()
        with translate_errors(file.path), ExitStack() as opening:
            self._image = opening.enter_context(open_content(file.path, file.root))
            self._is_distant = isinstance(file.path, Path) and time.perf_counter() - began > DISTANT_S
            self._identity: FileIdentity | None = None
            """None: an object, whose ranges are all of one version."""
            file_bytes = None
            if isinstance(self._image, int):
                self._identity = settled_identity(self._image)
                file_bytes = self._identity.size
                announce(self._image, min(file_bytes, 2 * file.width * file.height))
            with self._unless_changing():
                info = read_header(
                    *(self._image, file.path), mask=file.is_mask, with_layout=True, file_bytes=file_bytes, known=_known
                )
                require_size(info, file.path, file.width, file.height)
            self._opening = opening.pop_all()
        self.bits = info.bits
        self.has_more_pages = info.has_more_pages
        self.runs = info.runs
        self._rows: Opened = self._image
        """What the runs are read from."""
        if not self.runs and (rows := decoded_rows(self._image, info)):
            self._rows, self.runs = rows, (Run(0, info.height),)

    def pixels(self) -> Grey:
        """Return the decoded pixels, (H, W). The first call also computes the digest of the decoded bytes."""
        file = self._file
        with self._unless_changing():
            if self.digest is not None:
                return read_image(file.path, file.width, file.height, root=file.root, mask=file.is_mask)[0]
            with self._opening:
                image, self.digest = read_hashed(self._image, file.path, file.width, file.height, mask=file.is_mask)
        return image

    def stream(self, read: Callable[[Opened, RunningDigest], T]) -> T:
        """Return the result of `read`, and keep the digest of the file's bytes."""
        file = self._file
        with self._unless_changing(), translate_errors(file.path), self._opening:
            digest = RunningDigest(self._rows)
            result = read(self._rows, digest)
            self.digest = digest.digest()
        return result

    def known_digest(self) -> bytes | None:
        """Return the digest of the file's bytes; the first call reads them."""
        if self.digest is None:
            with translate_errors(self._file.path):
                self.digest = RunningDigest(self._image).digest()
            self.require_unchanged()
        return self.digest

    def begin_comparing(self) -> None:
        """Begin the comparison of `require_unchanged` in a thread, if the file's server is distant."""
        if self._is_distant and self._identity is not None:
            comparison: Future[None] = Future()
            arguments = (comparison, self._file, self._identity)
            with suppress(RuntimeError):  # too many threads, or too little memory: `require_unchanged` compares
                threading.Thread(target=_compare, args=arguments, name="compare level 0", daemon=True).start()
                self._comparison = comparison

    def require_unchanged(self) -> None:
        """Raise ImageChanging if the file has changed since it was first opened.

        If the comparison has begun already, wait for its result.
        """
        comparison, self._comparison = self._comparison, None
        if comparison is not None:
            comparison.result()
        elif self._identity is not None:
            require_same_file(self._file, self._identity)

    def close(self) -> None:
        """Close the file, if it is still open."""
        self._opening.close()

    @contextmanager
    def _unless_changing(self) -> Iterator[None]:
        """Context for reading the file: turns an ImageFault into ImageChanging if the file has changed meanwhile."""
        try:
            yield
        except ImageFault:
            self.require_unchanged()
            raise

    @property
    def content(self) -> FileContent | None:
        """Identity and digest of the file; None if it was not read completely, or is an object."""
        return FileContent(self._identity, self.digest) if self._identity and self.digest else None


def _compare(result: Future[None], file: Level0File, before: FileIdentity) -> None:
    try:
        require_same_file(file, before)
    except BaseException as error:  # noqa: BLE001  raised where the result is asked for
        result.set_exception(error)
    else:
        result.set_result(None)


def require_same_file(file: Level0File, before: FileIdentity) -> None:
    """Raise ImageChanging if the file has another identity now.

    Opens the path again, so that the client of a file server asks for new attributes and sees a replaced file.
    """
    with translate_errors(file.path), open_descriptor(path_of(file.path), file.root) as descriptor:
        now = FileIdentity.of(status_of(descriptor))
    if now != before:
        hint = "find the program that writes it; temwatch reads it again by itself"
        raise ImageChanging(str(file.path), "changed while it was read", hint)
