"""Paths, lists, values and numbers of bytes as people read them. Pure."""

import os
from collections.abc import Sequence


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path as printable text: bytes that are not UTF-8 become escapes.

    >>> printable("/data/caf\\udce9")
    '/data/caf\\\\xe9'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def abbreviate(texts: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """Return the first texts of a list and the number of the others.

    >>> abbreviate(["a", "b", "c", "d", "e"], 2)
    'a, b and 3 more'
    >>> abbreviate(["a b", "c, d", "e"], 2, "; ")
    'a b; c, d; and 1 more'
    """
    rest = len(texts) - most
    before_rest = "" if separator == ", " else separator.rstrip()
    return separator.join(texts[:most]) + (f"{before_rest} and {rest} more" if rest > 0 else "")


def excerpt(value: object) -> str:
    """Return a value of JSON as text that is short enough for a message.

    >>> excerpt([1, 2]), excerpt(None), excerpt("a")
    ('a list of 2', 'null', "'a'")
    """
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def byte_size(count: int) -> str:
    """Return a number of bytes with a suitable unit.

    >>> byte_size(512), byte_size(1_000_000), byte_size(1_500_000_000)
    ('512 bytes', '1.00 MB', '1.50 GB')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"


def distinct_byte_sizes(count: int, other: int) -> tuple[str, str]:
    """Return two numbers of bytes with units that show which is larger.

    >>> distinct_byte_sizes(5 * 10**8, 10**9), distinct_byte_sizes(1_000_000, 1_000_001)
    (('500.00 MB', '1.00 GB'), ('1,000,000 bytes', '1,000,001 bytes'))
    """
    if count != other and byte_size(count) == byte_size(other):
        return f"{count:,} bytes", f"{other:,} bytes"
    return byte_size(count), byte_size(other)
