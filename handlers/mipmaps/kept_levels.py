"""Existing levels that are valid, so that a job keeps them."""

from collections.abc import Iterator

from handlers.errors import Fault
from handlers.images.decode import read_image
from handlers.images.digest import RunningDigest
from handlers.images.header import open_content
from handlers.images.level0 import OpenLevel0
from handlers.images.provenance import pixels_match, read_provenance, without_pixels
from handlers.images.reduction import level_size
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.level_text import LevelText
from handlers.mipmaps.report import MadeLevel
from handlers.place import Place


def valid_levels(job: MipmapJob, level0: OpenLevel0) -> Iterator[MadeLevel]:
    """Yield the levels whose files were made from the present level 0 with the job's settings, and decode.

    A level with any problem is made again. If a disk is the cause, that write reports it.
    """
    texts = LevelText(job, level0.bits)
    for level, path in job.outputs:
        text = _text_in(path)
        if text is None:
            continue
        said = without_pixels(text)
        # Level 0 is read only if the rest of the text matches.
        if not said.endswith(f" {texts.how(level)}") or not (digest := level0.known_digest()):
            continue
        if said == texts.provenance(level, digest) and (valid := _valid_level(job, level0.bits, level, path, text)):
            yield valid


def _text_in(path: Place) -> str | None:
    try:
        return read_provenance(path)
    except (Fault, OSError):
        return None


def _valid_level(job: MipmapJob, level0_bits: int, level: int, path: Place, text: str) -> MadeLevel | None:
    width, height = level_size(job.width, job.height, level)
    mode = "I;16" if job.level_bits(level0_bits) == 16 else "L"
    try:
        pixels, info = read_image(path, width, height)
    except (Fault, OSError):
        return None
    if (info.mode, info.format) != (mode, job.encoding.extension) or not pixels_match(text, pixels):
        return None
    digest = digest_of(path) if job.measure else None
    return MadeLevel(level, path, width, height, mode, info.file_bytes, digest=digest)


def digest_of(path: Place) -> bytes | None:
    """Return the digest of a file; None if it cannot be read."""
    try:
        with open_content(path) as image:
            return RunningDigest(image).digest()
    except (Fault, OSError):
        return None
