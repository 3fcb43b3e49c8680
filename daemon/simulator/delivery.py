"""Write the files of a simulated microscope: whole, in pieces, or at full size from the start."""

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Arrival(StrEnum):
    """How a file is written."""

    RENAMED = "renamed"
    """Written under another name, then renamed."""
    DIRECT = "direct"
    """Opened, written, closed."""
    PIECES = "pieces"
    """Written in pieces with pauses, so that its size grows."""
    PREALLOCATED = "preallocated"
    """Like robocopy: at full size from the start, filled in pieces; the source's mtime is set at the end."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How and how fast files are written."""

    arrival: Arrival = Arrival.RENAMED
    piece_bytes: int = 1 << 16
    piece_pause_s: float = 0.0
    """Pause after each piece."""
    tile_pause_s: float = 0.0
    """Pause after each tile."""


AT_ONCE = Delivery()
"""Each file is written whole, without pauses."""


@dataclass(frozen=True, slots=True)
class Written:
    """The written files of a section."""

    directory: Path
    metafile: Path
    images: tuple[Path, ...]


def deliver(path: Path, content: bytes, delivery: Delivery) -> None:
    """Write a file as the delivery specifies. Blocking; raises OSError."""
    match delivery.arrival:
        case Arrival.RENAMED:
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(content)
            part.replace(path)
        case Arrival.DIRECT:
            path.write_bytes(content)
        case Arrival.PIECES:
            _write_pieces(path, content, delivery, full_size_at_once=False)
        case Arrival.PREALLOCATED:
            started_ns = time.time_ns()
            _write_pieces(path, content, delivery, full_size_at_once=True)
            os.utime(path, ns=(started_ns, started_ns))


def append(log: Path, text: str, delivery: Delivery) -> None:
    """Append to a log. If files are written in pieces, append two pieces that are cut within a line."""
    content = text.encode()
    cut = len(content) // 2 if delivery.arrival in (Arrival.PIECES, Arrival.PREALLOCATED) else 0
    for piece in (content[:cut], content[cut:]):
        with log.open("ab") as file:
            file.write(piece)
        time.sleep(delivery.piece_pause_s)


def _write_pieces(path: Path, content: bytes, delivery: Delivery, *, full_size_at_once: bool) -> None:
    with path.open("wb", buffering=0) as file:
        if full_size_at_once:
            file.truncate(len(content))
        for start in range(0, len(content), delivery.piece_bytes):
            file.write(content[start : start + delivery.piece_bytes])
            time.sleep(delivery.piece_pause_s)
