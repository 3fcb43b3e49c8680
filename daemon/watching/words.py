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
