"""Interface of the readers of formats. A reader has no state, so one serves all watches and threads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.findings import Finding
from handlers.identity import FileIdentity


class Follower(Protocol):
    """Finds the sections in files that contain many. Used by one thread at a time."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return path and identity of each section that is new or changed since the last call. Raises OSError."""

    def is_due(self, path: str) -> bool:
        """Whether an unchanged file may have new sections, because of another file."""

    def identity(self, path: str) -> FileIdentity | None:
        """Return the identity of a section now; None if there is none. Raises OSError."""


class Reader(Protocol):
    """Reads one format.

    `parse` and `check` are pure. For any bytes, `parse` raises a Fault or returns a valid acquisition: every tile lies
    in the image directory, positions are finite, names are unique.
    """

    @property
    def format(self) -> str:
        """Name of the format in the settings."""

    @property
    def pattern(self) -> str:
        """Default pattern for the file names of metafiles."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Facts that names of stacks may contain."""

    @property
    def tilespecs(self) -> Mapping[str, str]:
        """Defaults of [watch.tilespecs] that differ from those of pyTEMCA, by key."""

    @property
    def states_pixel_size(self) -> bool:
        """Whether the files state the pixel size; if not, the watch must."""

    @property
    def follower(self) -> Callable[[], Follower] | None:
        """Factory of the follower for files that contain many sections; None: each file is one acquisition."""

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the acquisition in the content of a file.

        Raises
        ------
        MetafilePartial
            If the content is empty or truncated: it may still be being written.
        MetafileFault
            If it is invalid. The fault names the line or key.
        """

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return every contradiction inside an acquisition, and with the name of its file, errors first."""

    def image_directory(self, path: Path) -> Path:
        """Return the directory to which the images' paths are relative."""
