"""The text in the file of a level: the digest of level 0 and the settings. No input or output."""

from dataclasses import dataclass

from handlers.images.pixels import Grey
from handlers.images.provenance import provenance, recipe_of, with_pixels
from handlers.mipmaps.job import MipmapJob


@dataclass(frozen=True, slots=True)
class LevelText:
    """Texts of the levels of one job.

    Parameters
    ----------
    level0_bits : bits per pixel of level 0.
    """

    job: MipmapJob
    level0_bits: int

    def how(self, level: int) -> str:
        """Return the settings with which a level is made, as text."""
        return recipe_of(
            level,
            self.job.reduction,
            self.job.level_bits(self.level0_bits),
            scaled_from=self.job.to_8bit if self.level0_bits == 16 else None,
            quality=self.job.encoding.jpeg_quality,
            is_mask=self.job.is_mask,
        )

    def provenance(self, level: int, digest: bytes | None) -> str:
        """Return the settings of a level and the digest of level 0; empty if the digest is not known."""
        return provenance(digest, self.how(level)) if digest else ""

    def of_pixels(self, level: int, digest: bytes | None, pixels: Grey) -> str:
        """Return the text for the file of a level, with the digest of its pixels if the format is lossless."""
        text = self.provenance(level, digest)
        return with_pixels(text, pixels) if self.job.encoding.lossless else text
