"""Sections in the logs of SBEMimage, which grow for days: found as they are closed, and read one at a time. Blocking.

A log has a line for each tile. A section is closed by a line `SLICE COMPLETE`, by a tile of another slice (in array
mode: of another region), or, at the end of a log, by a later log that goes on with another slice, or by the end of the
run if every active tile is listed. A slice that was interrupted is continued in the next log: its lines in both logs
are one section, which belongs to the later log. The cost of a section does not depend on the length of its log.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from handlers.acquisition.parse import MAX_METAFILE_BYTES
from handlers.acquisition.parts import Key, Part, Region, part_of
from handlers.acquisition.sbemimage_run import has_ended, is_imaged
from handlers.container import Container
from handlers.identity import FileIdentity
from handlers.regular_file import NotRegular, open_regular

MOST_LINE_BYTES: Final = 1 << 16
_PIECE_BYTES: Final = 1 << 20
_LOGS: Final = "metadata_*.txt"
_SLICE: Final = re.compile(rb"'slice_counter': *(\d{1,9})\b")
_REGION: Final = re.compile(rb"'filename': *['\"]tiles[/\\]{1,2}a(\d{1,6})[/\\]{1,2}r(\d{1,6})[/\\]")
"""Array mode has directories of arrays and regions. A backslash is escaped in a literal."""
_TIME: Final = re.compile(rb"'timestamp': *(\d{1,11})\b")
_MOST_SECONDS: Final = 9_000_000_000
"""In nanoseconds the journal can hold it."""
_TILE, _COMPLETE, _SESSION = b"TILE:", b"SLICE COMPLETE:", b"SESSION:"


class NoSection(FileNotFoundError):  # noqa: N818  the section may be there later
    """The log has no closed section there."""


def identity_of(content: bytes) -> FileIdentity:
    """Return the identity of a section: it follows from its content, and does not change while its log grows."""
    times = _TIME.findall(content)
    digest = int.from_bytes(sha256(content).digest()[:8], "big") >> 1
    seconds = min(int(times[-1]), _MOST_SECONDS) if times else 0
    return FileIdentity(len(content), seconds * 10**9, None, digest)


def section_identity(path: Path) -> FileIdentity | None:
    """Return the identity of a section; None if its log has no such section now. Raises OSError."""
    try:
        return identity_of(section_content(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def section_content(path: Path, root: Container | None = None) -> bytes:
    """Return the lines of a section, below those of the session; of an interrupted one those of both logs.

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
        is_first = part.offset <= len(session) + MOST_LINE_BYTES and not _has_record(descriptor, part.offset)
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
    """Return the first line, if it describes the session."""
    line = os.pread(descriptor, MOST_LINE_BYTES, 0).partition(b"\n")
    return line[0] + line[1] if line[0].startswith(_SESSION) and line[1] else b""


def _has_record(descriptor: int, end: int) -> bool:
    return any(line.startswith((_TILE, _COMPLETE)) for _, line in _lines(descriptor, 0, end))


def _lines(descriptor: int, start: int, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield offset and text of each line that has an end."""
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
        if len(kept) > MOST_LINE_BYTES:  # no line of SBEMimage; in pieces it takes no memory
            yield at, kept
            at, kept = at + len(kept), b""


def key_in(line: bytes) -> Key | None:
    """Return what the lines of one section have in common, from that of a tile; None for all other lines."""
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


# --- logs before and after


def _logs(log: Path) -> list[Path]:
    """Return the logs of a directory in order of time, without links, pipes and directories of such names."""
    found = (each for each in log.parent.glob(_LOGS) if not each.is_symlink() and each.is_file())
    return sorted(found, key=lambda each: each.name)


_CLOSING: Final[Key] = (-1, None)
"""Stands for a later log that begins with the closing of a slice."""


def _after(log: Path, root: Container | None) -> Key | None:
    """Return what the first tile in a later log belongs to; None if there is none."""
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
    """Return the session and the last lines of the log before, if they are tiles of this slice that nothing closed."""
    before = [each for each in _logs(log) if each.name < log.name]
    for earlier in reversed(before):
        with _opened(earlier, root) as descriptor:
            tail, has_tiles = _unclosed(descriptor, key)
            if has_tiles:
                return _session(descriptor) + tail if tail else b""
    return b""


def _unclosed(descriptor: int, key: Key) -> tuple[bytes, bool]:
    """Return the last lines of a log that belong to an unclosed slice, and whether the log has any tile or closing."""
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
    """Position up to which a log was read."""

    head: bytes
    """Its first line: a log that begins differently is another one."""
    inode: int
    at: int = 0
    """First byte that was not read, at the beginning of a line."""
    open: Part | None = None
    """The section that nothing has closed yet."""
    first: Part | None = None
    """Its first section, which may continue one of the log before."""
    ended_with: Part | None = None
    """The open section when the run had ended."""


class LogFollower:
    """Finds the sections that are closed in growing logs. For one thread at a time."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._told: dict[str, FileIdentity] = {}
        """Sections at the ends of logs, which another log may complete or close."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return the sections that were closed in a log since the last call; all of a log that was replaced.

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
        return [(str(part.path), identity) for part in closed if (identity := self._untold(part))]

    def is_due(self, path: str) -> bool:
        """Whether the run of a log has ended since its sections were asked for: the log itself does not change then."""
        known = self._logs.get(path)
        return known is not None and known.open is not None and known.open != known.ended_with and has_ended(Path(path))

    def identity(self, path: str) -> FileIdentity | None:
        """Return the identity of a section now; None if there is none. Raises OSError."""
        try:
            return section_identity(Path(path))
        except NotRegular:
            return None

    def _at_the_ends(self, log: Path) -> list[Part]:
        """Return the sections that another log than their own may complete or close: the first and last ones."""
        beside = [known for path, known in sorted(self._logs.items()) if Path(path).parent == log.parent]
        return [part for known in beside for part in (known.first, known.open) if part]

    def _untold(self, part: Part) -> FileIdentity | None:
        """Return the identity of a section; None if there is none, or if it was returned before."""
        identity = section_identity(part.path)
        key = str(part.path)
        if identity is None or self._told.get(key) == identity:
            return None
        known = self._logs[str(part.file)]
        if part in (known.first, known.open):
            self._told[key] = identity
        return identity


def _read(descriptor: int, log: Path, known: _Log) -> Iterator[Part]:
    """Read the lines that are new in a log, and yield the sections that they close."""
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
