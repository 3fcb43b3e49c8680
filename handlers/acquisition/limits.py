"""Limits of the files of every format. Larger ones are refused before they are parsed."""

from typing import Final

from handlers.errors import MetafileFault

MAX_METAFILE_BYTES: Final = 96 * 2**20
"""A section of 20,000 tiles needs about 17 MB, one of 100,000 tiles 85 MB."""
MAX_TILES: Final = 100_000
TOO_LARGE_HINT: Final = "check which program wrote this file: the metafile of a full section has 2.3 MB"


def too_large_fault(subject: str, size: int | None = None) -> MetafileFault:
    """Return the fault of a metafile that is larger than MAX_METAFILE_BYTES; None: only this is known of its size."""
    found = "more" if size is None else f"{size / 2**20:.1f} MiB"
    return MetafileFault(
        subject, f"should have at most {MAX_METAFILE_BYTES / 2**20:g} MiB, has {found}", TOO_LARGE_HINT
    )
