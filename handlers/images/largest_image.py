"""The largest image: a larger one is refused by the size in its metafile or header, before its pixels are read."""

from handlers.errors import ImageFault

LARGEST_IMAGE_PX = 1 << 28
"""Default for the pixels of the largest image: 16384 x 16384."""
LIMIT_NAME = "largest_image_megapixels"
"""The setting of the daemon (in [workers]) and the parameter of `generate_mipmaps`."""


def require_size(subject: str, width: int, height: int, largest_image_px: int) -> None:
    """Raise ImageFault if an image of this size is larger than the largest image."""
    if width * height > largest_image_px:
        raise ImageFault(
            subject,
            f"is expected to have {width}x{height} pixels, but workers have memory for images of up to "
            f"{largest_image_px / 1e6:g} megapixels",
            f"if such images are expected, raise {LIMIT_NAME}, which the daemon reads at its start",
        )
