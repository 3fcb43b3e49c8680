"""The section [pictures]. Pure."""

from pathlib import Path

from pydantic import Field

from daemon.config.section import OptionalPath, Section
from daemon.config.text import example


class PictureSettings(Section):
    """Mosaics and heatmaps that the daemon has drawn. They are drawn again when they are missing."""

    directory: OptionalPath = Field(None, **example(""))
    """Directory of the pictures, outside every watched directory. Empty: `pictures` beside the journal."""
    max_bytes: int = Field(500_000_000, ge=0)
    """Bytes of all pictures together. The pictures that nobody has requested for longest are deleted first."""

    def directory_beside(self, journal: Path) -> Path:
        """Return the directory."""
        return self.directory or journal.parent / "pictures"
