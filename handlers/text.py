"""Texts for people: paths, lists, values and numbers of bytes. Pure.

Names of files and texts of render-ws may contain escape sequences that move the cursor, newlines that forge a log line,
or characters that reverse the rest of a line. Every text passes `printable` or `printable_lines` before it goes to a
terminal, a log, a page or systemd.
"""

import os
import re
from collections.abc import Sequence

_VALUE = re.compile(r"\S*[\d/]\S*")


def printable(text: str | os.PathLike[str]) -> str:
    """Return a text or path on one line: unprintable characters and bytes that are not UTF-8 become escapes.

    >>> printable("/data/caf\\udce9"), printable("a\\x1b[31m\\nb\\u202e"), printable("µ 3.9 nm")
    ('/data/caf\\\\xe9', 'a\\\\x1b[31m\\\\nb\\\\u202e', 'µ 3.9 nm')
    """
    shown = os.fspath(text)
    return shown if shown.isprintable() else "".join(each if each.isprintable() else _escape(each) for each in shown)


def printable_lines(text: str) -> str:
    """Return a text with its own line breaks, each line printable.

    >>> printable_lines("a\\x07\\nb")
    'a\\\\x07\\nb'
    """
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """Return JSON with unprintable characters as JSON's own escapes; its meaning stays the same.

    >>> printable_json('{"a": "\\u202e"}')
    '{"a": "\\\\u202e"}'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in " \n" else _json_escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return repr(character)[1:-1]
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's form of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def fitted(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Return a text as lines of at most `width` characters. A word longer than a line is broken after a slash.

    Parameters
    ----------
    first : prefix of the first line.
    rest : prefix of all other lines; shorter than the width.

    >>> fitted("at /data/temca2/20260105 it failed", 16, rest="  ")
    ['at /data/temca2/', '  20260105 it', '  failed']
    """
    lines, line, begun = list[str](), first, len(first) >= width
    for word in text.split(" "):
        blank = " " if begun else ""
        if len(line) + len(blank) + len(word) > width:
            is_long = len(rest) + len(word) > width
            if not is_long or not _head_of(word, width - len(line) - len(blank)):
                lines, line, blank = [*lines, line] if begun else lines, rest if begun else line, ""
            while len(line) + len(blank) + len(word) > width:
                room = max(width - len(line) - len(blank), 1)
                head = _head_of(word, room) or word[:room]
                lines.append(line + blank + head)
                line, blank, word = rest, "", word[len(head) :]  # noqa: PLW2901  the rest of the word
        line, begun = line + blank + word, True
    return [*lines, line] if begun else lines


def _head_of(word: str, room: int) -> str:
    """Return the part of a word up to the last slash that fits; empty if none does.

    >>> _head_of("/data/temca2/a", 12), _head_of("/data/temca2/a", 13), _head_of("/d", 1)
    ('/data/', '/data/temca2/', '')
    """
    return word[: word.rfind("/", 1, max(room, 0)) + 1]


def without_values(text: str) -> str:
    """Return a text whose words with a digit or a slash are masked: numbers, paths, names of files.

    Two faults with the same masked text have the same cause.

    >>> without_values("lacks /data/7.tif: 3 of 4 are there")
    'lacks * * of * are there'
    """
    return _VALUE.sub("*", text)


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


def shorten(text: str, most: int) -> str:
    """Return the text, without its middle if it has more than `most` characters.

    >>> shorten("0123456789", 10), shorten("0123456789", 7)
    ('0123456789', '01 … 89')
    """
    kept = (most - 3) // 2
    return text if len(text) <= most else f"{text[:kept]} … {text[-kept:]}"


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


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    Parameters
    ----------
    plural : plural of the noun; by default the noun with an s.

    >>> counted(1, "montage"), counted(2_772, "tile"), counted(0, "process", "processes")
    ('1 montage', '2,772 tiles', '0 processes')
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def z_text(z: float | None) -> str:
    """Return a z with all its digits, and without needless decimals.

    >>> z_text(1050.0), z_text(26500.25), z_text(1234567.0), z_text(None)
    ('1050', '26500.25', '1234567', 'unknown')
    """
    return "unknown" if z is None else repr(float(z)).removesuffix(".0")


def byte_size(count: int) -> str:
    """Return a number of bytes with a suitable unit.

    >>> byte_size(1), byte_size(512), byte_size(1_000_000), byte_size(1_500_000_000)
    ('1 byte', '512 bytes', '1.00 MB', '1.50 GB')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return counted(count, "byte")


def distinct_byte_sizes(count: int, other: int) -> tuple[str, str]:
    """Return two numbers of bytes with units that show which is larger.

    >>> distinct_byte_sizes(5 * 10**8, 10**9), distinct_byte_sizes(1_000_000, 1_000_001)
    (('500.00 MB', '1.00 GB'), ('1,000,000 bytes', '1,000,001 bytes'))
    """
    if count != other and byte_size(count) == byte_size(other):
        return f"{count:,} bytes", f"{other:,} bytes"
    return byte_size(count), byte_size(other)
