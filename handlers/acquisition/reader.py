"""Interface of the readers of formats. Its values are constants: one reader serves all watches and threads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.findings import Finding
from handlers.identity import FileIdentity


class Follower(Protocol):
    """Finds the sections in files that hold many. For one thread at a time."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return path and identity of the sections that are new or changed since the last call. Raises OSError."""

    def is_due(self, path: str) -> bool:
        """Whether an unchanged file may have new sections, because of another file."""

    def identity(self, path: str) -> FileIdentity | None:
        """Return the identity of a section now; None if there is none. Raises OSError."""


class Reader(Protocol):
    """Reads one format.

    The settings name it by `format`. `parse` and `check` are pure. Whatever bytes a file holds, they raise a Fault or
    return values: every tile lies in the image directory, positions are finite, names are unique.
    """

    @property
    def format(self) -> str:
        """Name in the settings."""

    @property
    def pattern(self) -> str:
        """Default pattern of the names of the files that it begins with."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Facts that names of stacks may contain."""

    @property
    def tilespecs(self) -> Mapping[str, str]:
        """Defaults of the settings of [watch.tilespecs] that differ from those of pyTEMCA."""

    @property
    def states_pixel_size(self) -> bool:
        """Whether the files state the pixel size; if not, the watch has to."""

    @property
    def follower(self) -> Callable[[], Follower] | None:
        """Makes what finds the sections in files that hold many; None: each file is one acquisition."""

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the acquisition in the content of a file.

        Raises
        ------
        MetafilePartial
            If it is cut off, or not there yet: it may still be being written.
        MetafileFault
            If it is invalid. The fault names the place.
        """

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return every contradiction inside an acquisition and with its name, errors first."""

    def image_directory(self, path: Path) -> Path:
        """Return the directory that the images' paths start from."""
