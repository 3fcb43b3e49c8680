"""Sections in the logs of SBEMimage, which grow for days: found when they are closed, and read one by one. Blocking.

A log has a line for each tile. A section is closed by

- a line `SLICE COMPLETE`;
- a tile of another slice (in array mode: of another region);
- at the end of a log, a later log that continues with another slice;
- at the end of a log, the end of the run, if every active tile is listed.

An interrupted slice is continued in the next log: its lines in both logs are one section, which belongs to the later
log. The cost of a section does not depend on the length of its log.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handlers.acquisition.formats.sbemimage_run import has_ended, is_imaged
from handlers.acquisition.limits import MAX_METAFILE_BYTES
from handlers.acquisition.section_path import Key, Part, Region, part_of
from handlers.container import Container
from handlers.identity import FileIdentity
from handlers.regular_file import NotRegular, open_regular

MAX_LINE_BYTES: Final = 1 << 16
_PIECE_BYTES: Final = 1 << 20
_LOGS: Final = "metadata_*.txt"
_SLICE: Final = re.compile(rb"'slice_counter': *(\d{1,9})\b")
_REGION: Final = re.compile(rb"'filename': *['\"]tiles[/\\]{1,2}a(\d{1,6})[/\\]{1,2}r(\d{1,6})[/\\]")
"""Array mode has directories of arrays and regions. A backslash is escaped in a literal."""
_TIME: Final = re.compile(rb"'timestamp': *(\d{1,11})\b")
_MAX_SECONDS: Final = 9_000_000_000
"""Largest time: in nanoseconds it still fits an integer of the journal."""
_TILE, _COMPLETE, _SESSION = b"TILE:", b"SLICE COMPLETE:", b"SESSION:"


class NoSection(FileNotFoundError):  # noqa: N818  the section may be closed later
    """No section begins at this offset of the log, or it is not closed yet."""


def section_identity(path: Path) -> FileIdentity | None:
    """Return the identity of a section, which does not change while its log grows; None if the log has no such section.

    Raises OSError.
    """
    try:
        content = section_content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    times = _TIME.findall(content)
    return FileIdentity.of_content(content, min(int(times[-1]), _MAX_SECONDS) if times else 0)


def section_content(path: Path, root: Container | None = None) -> bytes:
    """Return the line of the session and the lines of a section; for an interrupted section, those of both logs.

    Parameters
    ----------
    root : directory that must contain the log; None: any.

    Raises
    ------
    NoSection
        If no section begins there, or it is not closed yet.
    NotRegular, NotContained, OSError
        If the log cannot be read.
    """
    part = part_of(path)
    if part is None:
        raise NoSection(str(path))
    with _opened(part.file, root) as descriptor:
        session = _session(descriptor)
        lines, is_closed = _lines_of(descriptor, part)
        is_first = part.offset <= len(session) + MAX_LINE_BYTES and not _has_record(descriptor, part.offset)
    before = _tail(part.file, part.key, root) if is_first else b""
    if not is_closed and not _is_closed_elsewhere(part, before + lines, root):
        raise NoSection(str(path))
    return before + session + lines


def _is_closed_elsewhere(part: Part, lines: bytes, root: Container | None) -> bool:
    """Whether a later log or the end of the run closes a section at the end of its log."""
    after = _after(part.file, root)
    return after != part.key if after else has_ended(part.file, root) and is_imaged(part.file, part.key, lines, root)


@contextmanager
def _opened(log: Path, root: Container | None = None) -> Iterator[int]:
    descriptor, _ = open_regular(log, follow_links=False, root=root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _session(descriptor: int) -> bytes:
    """Return the first line if it describes the session; else no bytes."""
    line = os.pread(descriptor, MAX_LINE_BYTES, 0).partition(b"\n")
    return line[0] + line[1] if line[0].startswith(_SESSION) and line[1] else b""


def _has_record(descriptor: int, end: int) -> bool:
    return any(line.startswith((_TILE, _COMPLETE)) for _, line in _lines(descriptor, 0, end))


def _lines(descriptor: int, start: int, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield offset and text of each line that ends with a line break."""
    kept, at = b"", start
    while True:
        wanted = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - at - len(kept))
        piece = os.pread(descriptor, wanted, at + len(kept)) if wanted > 0 else b""
        if not piece:
            return
        *lines, kept = (kept + piece).split(b"\n")
        for line in lines:
            yield at, line + b"\n"
            at += len(line) + 1
        if len(kept) > MAX_LINE_BYTES:  # not a line of SBEMimage: yielded in pieces, which bounds the memory
            yield at, kept
            at, kept = at + len(kept), b""


def key_in(line: bytes) -> Key | None:
    """Return the section's key in the line of a tile; None for any other line."""
    found = _SLICE.search(line) if line.startswith(_TILE) else None
    return (int(found[1]), _region_in(line)) if found else None


def _region_in(line: bytes) -> Region | None:
    found = _REGION.search(line)
    return (int(found[1]), int(found[2])) if found else None


def _lines_of(descriptor: int, part: Part) -> tuple[bytes, bool]:
    """Return the lines of a section, and whether a later line closes it."""
    if part.offset and os.pread(descriptor, 1, part.offset - 1) != b"\n":
        raise NoSection(str(part.path))
    lines: list[bytes] = []
    length = 0
    for _, line in _lines(descriptor, part.offset):
        key = key_in(line)
        if not lines and key != part.key:
            raise NoSection(str(part.path))
        if line.startswith(_COMPLETE) or (key is not None and key != part.key):
            return b"".join(lines), True
        lines.append(line)
        length += len(line)
        if length > MAX_METAFILE_BYTES:
            return b"".join(lines), True  # the reader refuses it
    if not lines:
        raise NoSection(str(part.path))
    return b"".join(lines), False


# --- earlier and later logs


def _logs(log: Path) -> list[Path]:
    """Return the regular files among the logs of a directory, in order of time."""
    found = (each for each in log.parent.glob(_LOGS) if not each.is_symlink() and each.is_file())
    return sorted(found, key=lambda each: each.name)


_CLOSING: Final[Key] = (-1, None)
"""Stands for a later log that begins with a closing line."""


def _after(log: Path, root: Container | None) -> Key | None:
    """Return the key of the first tile in a later log, _CLOSING if a closing line comes first, or None."""
    for later in _logs(log):
        if later.name > log.name:
            with _opened(later, root) as descriptor:
                for _, line in _lines(descriptor, 0):
                    if line.startswith(_COMPLETE):
                        return _CLOSING
                    if (key := key_in(line)) is not None:
                        return key
    return None


def _tail(log: Path, key: Key, root: Container | None) -> bytes:
    """Return the session and the last lines of the log before, if these are tiles of this section and unclosed."""
    before = [each for each in _logs(log) if each.name < log.name]
    for earlier in reversed(before):
        with _opened(earlier, root) as descriptor:
            tail, has_tiles = _unclosed(descriptor, key)
            if has_tiles:
                return _session(descriptor) + tail if tail else b""
    return b""


def _unclosed(descriptor: int, key: Key) -> tuple[bytes, bool]:
    """Return the last lines of a log that belong to an unclosed section, and whether it has a tile or closing line."""
    end = os.fstat(descriptor).st_size
    size = _PIECE_BYTES
    while True:
        start = max(0, end - size)
        lines = [line for _, line in _lines(descriptor, start)]
        if start:
            lines = lines[1:]
        kept: list[bytes] = []
        for line in reversed(lines):
            found = key_in(line)
            if line.startswith(_COMPLETE) or (found is not None and found != key):
                return b"".join(reversed(kept)), True
            if found is not None or kept:
                kept.append(line)
        if not start or size > MAX_METAFILE_BYTES:
            kept = [line for line in kept if not line.startswith(_SESSION)]
            return b"".join(reversed(kept)), bool(kept)
        size *= 4


# --- following


@dataclass(slots=True)
class _Log:
    """State of a log that is followed."""

    head: bytes
    """Line of the session: if it differs, the log was replaced."""
    inode: int
    at: int = 0
    """First byte that was not read yet, at the beginning of a line."""
    open: Part | None = None
    """The section that is not closed yet."""
    first: Part | None = None
    """The first section, which may continue a section of the log before."""
    ended_with: Part | None = None
    """The section that was open when the run had ended."""


class LogFollower:
    """Finds the sections that are closed in growing logs. Used by one thread at a time."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._reported: dict[str, FileIdentity] = {}
        """Last reported identity of each section that another log may complete or close."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return the sections that were closed in a log since the last call; all sections if the log was replaced.

        Raises
        ------
        OSError
            If the log cannot be read.
        """
        try:
            return self._sections(path)
        except NotRegular:  # replaced since it was listed
            return []

    def _sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        log = Path(path)
        with _opened(log) as descriptor:
            status = os.fstat(descriptor)
            session = _session(descriptor)
            known = self._logs.get(path)
            is_same = known is not None and (known.head, known.inode) == (session, status.st_ino)
            if known is None or not is_same or status.st_size < known.at:
                known = self._logs[path] = _Log(session, status.st_ino)
            closed = list(_read(descriptor, log, known))
        if known.open and has_ended(log):
            known.ended_with = known.open
            closed.append(known.open)
        if known.first in (None, known.open, *closed) or max(self._logs) != path:
            closed += self._at_the_ends(log)
        return [(str(part.path), identity) for part in closed if (identity := self._unreported(part))]

    def is_due(self, path: str) -> bool:
        """Whether the run of a log has ended since the last call of `sections`. This does not change the log itself."""
        known = self._logs.get(path)
        return known is not None and known.open is not None and known.open != known.ended_with and has_ended(Path(path))

    def identity(self, path: str) -> FileIdentity | None:
        """Return the identity of a section now; None if there is none. Raises OSError."""
        try:
            return section_identity(Path(path))
        except NotRegular:
            return None

    def _at_the_ends(self, log: Path) -> list[Part]:
        """Return the sections that another log may complete or close: the first and the open section of each log."""
        beside = [known for path, known in sorted(self._logs.items()) if Path(path).parent == log.parent]
        return [part for known in beside for part in (known.first, known.open) if part]

    def _unreported(self, part: Part) -> FileIdentity | None:
        """Return the identity of a section; None if the section does not exist, or was reported with this identity."""
        identity = section_identity(part.path)
        key = str(part.path)
        if identity is None or self._reported.get(key) == identity:
            return None
        known = self._logs[str(part.file)]
        if part in (known.first, known.open):
            self._reported[key] = identity
        return identity


def _read(descriptor: int, log: Path, known: _Log) -> Iterator[Part]:
    """Read the new lines of a log, and yield the sections that they close."""
    for at, line in _lines(descriptor, known.at):
        key = key_in(line)
        is_other = key is not None and known.open is not None and key != known.open.key
        if known.open and (line.startswith(_COMPLETE) or is_other):
            yield known.open
            known.open = None
        if key is not None and known.open is None:
            known.open = Part(log, key[0], at, key[1])
            known.first = known.first or known.open
        known.at = at + len(line)
