"""Conformance suite of the readers of all formats: rules that hold for any bytes.

test_readers.py has a `Sample` of each format.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.reader import Reader
from handlers.acquisition.image_names import require_relative
from handlers.acquisition.tilespec import options_for, tile_ids_for, translations_for
from handlers.errors import Fault
from handlers.render.names import tile_segment

HOSTILE = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"NaN",
    b"Infinity",
    b"-1e999",
    b"1e308",
    b"9" * 400,
    b"-0",
    b"None",
    b"../../etc/passwd",
    b"..\\..\\windows",
    b"/etc/passwd",
    b"C:\\tiles\\a.tif",
    b"a\x1b[31mb",
    b"\xe2\x80\xaegpj.tif",
    b"\r\n",
    b"\t",
    b"'",
    b'"',
    b"{" * 2_000,
    b"[" * 2_000,
    b"__import__('os').abort()",
)
"""Byte strings that replace words of a valid file."""


@dataclass(frozen=True)
class Sample:
    """A valid file of a format."""

    content: bytes
    path: Path
    tiles: int
    names: Mapping[int, str] = field(default_factory=dict)
    """Index of a tile -> its name, for some tiles."""


def check_acquisition(reader: Reader, acquisition: Acquisition, path: Path) -> None:
    """Check the guarantees that the code after a reader relies on. Refusing the acquisition with a Fault is allowed."""
    assert acquisition.tiles
    options = options_for(reader)
    ids = tile_ids_for(acquisition, 7.0, options, str(path))
    assert len(set(ids)) == len(acquisition.tiles)
    for tile in acquisition.tiles:
        require_relative(tile.img_path, "image", str(path))
        assert all(map(math.isfinite, tile.position_px)), tile
        assert math.isfinite(tile.rotation_deg), tile
        assert all(map(math.isfinite, tile.numbers.values())), tile
    for tile_id in ids:
        tile_segment(tile_id)
    for point in translations_for(acquisition.tiles, options.positions, options.origin):
        assert all(map(math.isfinite, point))
    size = acquisition.pixel_size_nm
    assert size is None or min(size) > 0
    assert (size is None) <= (not reader.states_pixel_size)
    assert {type(finding.text) for finding in reader.check(acquisition, path)} <= {str}


def read_any(reader: Reader, content: bytes, path: Path) -> Acquisition | None:
    """Read any bytes; None if they are refused with a printable fault that names the file."""
    try:
        acquisition = reader.parse(content, path)
        check_acquisition(reader, acquisition, path)
    except Fault as caught:
        fault = caught
    else:
        return acquisition
    assert path.name in f"{fault.subject}: {fault.problem}", fault
    assert str(fault).isprintable()
    return None


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A valid file after one change: truncated, a piece repeated or removed, bytes inserted, or words replaced."""
    how = draw(st.sampled_from(["cut", "words", "repeat", "remove", "bytes"]))
    begin = draw(st.integers(0, len(content)))
    end = draw(st.integers(begin, min(len(content), begin + 400)))
    match how:
        case "cut":
            return content[:begin]
        case "repeat":
            return content[:end] + content[begin:]
        case "remove":
            return content[:begin] + content[end:]
        case "bytes":
            return content[:begin] + draw(st.binary(max_size=20)) + content[end:]
    words = list(re.finditer(rb"[A-Za-z0-9_.+-]+", content))
    for word in sorted(draw(st.sets(st.sampled_from(words), min_size=1, max_size=3)), key=lambda each: -each.start()):
        piece = draw(st.sampled_from(HOSTILE) | st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number))
        content = content[: word.start()] + piece + content[word.end() :]
    return content
