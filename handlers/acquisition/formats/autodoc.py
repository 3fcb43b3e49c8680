"""IMOD's autodoc, the text format in which SerialEM describes montages: `[Kind = name]` above `key = value`. Pure.

A montage is one numbered section of the file, or all frames of one supermontage, which share an item of the navigator.
SerialEM rewrites the file, so a montage is found by its number or item, never by an offset in the file.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

PIECES: Final = ("Image", "ZValue")
"""Kinds of the entries that describe an image."""
MAX_ENTRY_BYTES: Final = 1 << 16
"""A longer entry counts as malformed."""
MAX_HEAD_BYTES: Final = 1 << 20
"""Limit of the head; the rest of a longer head is not used."""
MAX_LABEL: Final = 60
"""Characters of an item's label in the name of a montage."""

_SECTION: Final = re.compile(rb"^PieceCoordinates[ \t]*=[ \t]*\S+[ \t]+\S+[ \t]+(\d{1,9})[ \t]*\r?$", re.MULTILINE)
_LABEL: Final = re.compile(rb"^NavigatorLabel[ \t]*=(.*)$", re.MULTILINE)
_SUPERMONTAGE: Final = re.compile(rb"^SuperMontCoords[ \t]*=", re.MULTILINE)
_FRAME: Final = re.compile(r"(.+?)-\d+-\d+")
_LINE: Final = re.compile(rb"[A-Za-z]\w{0,60}[ \t]*=|\[[ \t]*[A-Za-z]\w{0,60}[ \t]*=")


@dataclass(frozen=True, slots=True)
class Entry:
    """A header line in brackets, with the lines below it."""

    kind: str
    """Image, ZValue, MontSection, T, ...; empty if the header line is malformed."""
    name: str
    text: bytes
    """All lines of the entry."""
    line: int
    """Number of the header line, from 1."""

    def values(self) -> dict[str, str]:
        """Return the values by key; the last value of a key that occurs twice."""
        return values_in(self.text)


@dataclass(slots=True)
class Montage:
    """The entries of one montage."""

    pieces: list[Entry] = field(default_factory=list)
    sections: dict[int, bool] = field(default_factory=dict)
    """Number of each section of the montage -> whether the file has the section's entry MontSection."""
    records: list[Entry] = field(default_factory=list)
    """The entries MontSection."""


@dataclass(frozen=True, slots=True)
class Autodoc:
    """A file of SerialEM."""

    head: bytes
    """Lines before the first image, with the titles."""
    montages: dict[str, Montage]
    """Montages by name, as in `montage@00003` and `supermontage@7`."""
    firsts: dict[int, bytes]
    """Number of a section -> the lines of its first image that name the image and the section."""

    @property
    def last_section(self) -> int:
        """The highest number of a section."""
        return max(self.firsts, default=0)

    @property
    def is_of_montages(self) -> bool:
        """Whether the images belong to montages: those of a tilt series have no coordinates."""
        return bool(self.firsts) or values_in(self.head).get("Montage") == "1"

    def unclosed(self, name: str) -> list[int]:
        """Return the sections of a montage that may still grow: no entry MontSection, and no later section."""
        sections = self.montages[name].sections
        return [number for number, is_closed in sections.items() if not is_closed and number >= self.last_section]

    def content_of(self, name: str) -> bytes:
        """Return the head of the file and the lines of a montage.

        If only a later section shows that a section has ended, the first image of that later section follows.
        """
        montage = self.montages[name]
        texts = [entry.text for entry in sorted((*montage.pieces, *montage.records), key=lambda each: each.line)]
        unclosed = [number for number, is_closed in montage.sections.items() if not is_closed]
        later = [number for number in self.firsts if unclosed and number > max(unclosed)]
        if later:
            texts.append(self.firsts[min(later)])
        return self.head + b"".join(text.rstrip() + b"\n" for text in texts)


def read_autodoc(content: bytes) -> Autodoc:
    """Return the montages of a file. Any content is accepted; malformed entries are left to the reader."""
    head_end, entries = _entries(content)
    montages: dict[str, Montage] = {}
    of_section: dict[int, str] = {}
    firsts: dict[int, bytes] = {}
    section = 0
    for entry in entries:
        if entry.kind in PIECES:
            found = _SECTION.search(entry.text)
            section = int(found[1]) if found else section
            if found and section not in firsts:
                firsts[section] = entry.text.partition(b"\n")[0] + b"\n" + found[0].rstrip(b"\r") + b"\n"
            name = of_section.setdefault(section, _montage_of(entry, section))
            montage = montages.setdefault(name, Montage())
            montage.pieces.append(entry)
            montage.sections.setdefault(section, False)
        elif entry.kind == "MontSection" and entry.name.isascii() and entry.name.isdigit() and len(entry.name) < 10:
            closed = int(entry.name)
            if closed in of_section:
                montages[of_section[closed]].sections[closed] = True
                montages[of_section[closed]].records.append(entry)
        elif not entry.kind and montages:  # it may be a piece: as one of the last montage, the reader refuses it
            montages[of_section[section]].pieces.append(entry)
    return Autodoc(content[: min(head_end, MAX_HEAD_BYTES)], montages, firsts)


def _entries(content: bytes) -> tuple[int, list[Entry]]:
    """Return the offset at which the head ends, and the entries below the head."""
    starts = list(_starts(content))
    entries: list[Entry] = []
    line, counted, head_end = 1, 0, len(content)
    for start, end in itertools.pairwise([*starts, len(content)]):
        line += content.count(b"\n", counted, start)
        counted = start
        first, has_end, _ = content[start:end].partition(b"\n")
        kind, name = _header(first) if end - start <= MAX_ENTRY_BYTES else ("", "")
        is_cut = not kind and not has_end and end == len(content)
        if kind != "T" and head_end == len(content):
            head_end = start
        if kind != "T" and not is_cut:
            entries.append(Entry(kind, name, content[start : min(end, start + MAX_ENTRY_BYTES)], line))
    return head_end, entries


def _starts(content: bytes) -> Iterator[int]:
    """Yield the offset of each line that begins with a bracket. `find` holds the interpreter's lock only briefly."""
    at = 0 if content.startswith(b"[") else content.find(b"\n[") + 1
    while content.startswith(b"[", at):
        yield at
        at = content.find(b"\n[", at) + 1 or len(content)


def _header(line: bytes) -> tuple[str, str]:
    """Return kind and name in a header line; empty texts if the line is malformed.

    >>> _header(b"[Image =  test_0000.jpg]\\r"), _header(b"[Image = a.tif")
    (('Image', 'test_0000.jpg'), ('', ''))
    """
    text = line.strip()
    kind, equals, name = text[1:-1].partition(b"=")
    if not equals or not text.endswith(b"]"):
        return "", ""
    return text_of(kind).strip(), text_of(name).strip()


def text_of(raw: bytes) -> str:
    """Return bytes as text: UTF-8, or else Latin-1."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def values_in(text: bytes) -> dict[str, str]:
    """Return the values of lines `key = value`.

    >>> values_in(b"[Image = a.tif]\\r\\nPieceCoordinates = 1842 0 2\\r\\n")
    {'PieceCoordinates': '1842 0 2'}
    """
    pairs = (line.partition(b"=") for line in text.split(b"\n") if not line.startswith(b"["))
    return {text_of(key).strip(): text_of(value).strip() for key, equals, value in pairs if equals}


def titles_in(head: bytes) -> Iterator[str]:
    """Yield the titles of a file, the entries `[T = ...]`."""
    for line in head.split(b"\n"):
        kind, name = _header(line) if line.startswith(b"[") else ("", "")
        if kind == "T" and name:
            yield name


def _montage_of(piece: Entry, section: int) -> str:
    if _SUPERMONTAGE.search(piece.text) is None:
        return f"montage@{section:05d}"
    item = item_of(label_in(piece.text), is_frame=True) or ""
    return f"supermontage@{quote(item[:MAX_LABEL], safe='')[: 3 * MAX_LABEL]}"


def label_in(text: bytes) -> str:
    """Return the navigator's label in the lines of an image; empty if there is none."""
    found = _LABEL.search(text)
    return text_of(found[1]).strip() if found else ""


def item_of(label: str, *, is_frame: bool) -> str | None:
    """Return the item in a label; None if the label is empty. Labels of supermontage frames are item-column-row.

    >>> item_of("7-1-4", is_frame=True), item_of("109", is_frame=False), item_of("", is_frame=False)
    ('7', '109', None)
    """
    frame = _FRAME.fullmatch(label) if is_frame else None
    return (frame[1] if frame else label) or None


def looks_like_autodoc(content: bytes) -> bool:
    """Whether a file without images may still become an autodoc: it is empty, or begins with such a line.

    >>> looks_like_autodoc(b"\\0" * 9), looks_like_autodoc(b"PixelSpacing = 4"), looks_like_autodoc(b"Dear reader,\\n")
    (True, True, False)
    """
    begin = content[:4096].lstrip(b"\xef\xbb\xbf\0\r\n\t ")
    return not begin or _LINE.match(begin) is not None or (len(content) < 20 and b"\n" not in begin)
