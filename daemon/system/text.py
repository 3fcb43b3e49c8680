"""Paths and lists as people read them. Pure."""

import os
from collections.abc import Sequence


def shown(path: str | os.PathLike[str]) -> str:
    """A path that can be printed: bytes that are no UTF-8 as escapes.

    >>> shown("/data/caf\\udce9")
    '/data/caf\\\\xe9'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def some(texts: Sequence[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are.

    >>> some(["a", "b", "c", "d", "e"], 2)
    'a, b and 3 more'
    """
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")


def size(count: int) -> str:
    """A number of bytes in the unit that shows it.

    >>> size(512), size(1_000_000), size(1_500_000_000)
    ('512 bytes', '1.00 MB', '1.50 GB')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"


def told_apart(count: int, other: int) -> tuple[str, str]:
    """Two numbers of bytes, in units that show which one is larger.

    >>> told_apart(5 * 10**8, 10**9), told_apart(1_000_000, 1_000_001)
    (('500.00 MB', '1.00 GB'), ('1,000,000 bytes', '1,000,001 bytes'))
    """
    if count != other and size(count) == size(other):
        return f"{count:,} bytes", f"{other:,} bytes"
    return size(count), size(other)
