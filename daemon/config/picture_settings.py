"""The section [pictures]. Pure."""

from pathlib import Path

from pydantic import Field

from daemon.config.section import OptionalPath, Section
from daemon.config.text import example


class PictureSettings(Section):
    """Cache of the mosaics and heatmaps that the daemon draws. Missing pictures are drawn again."""

    directory: OptionalPath = Field(None, **example(""))
    """Directory of the pictures, outside every watched directory. Empty: `pictures` beside the journal."""
    max_bytes: int = Field(500_000_000, ge=0)
    """Largest size of all pictures together, bytes. The least recently requested pictures are deleted first."""

    def directory_beside(self, journal: Path) -> Path:
        """Return the directory of the pictures.

        Parameters
        ----------
        journal : path of the journal's file.
        """
        return self.directory or journal.parent / "pictures"
