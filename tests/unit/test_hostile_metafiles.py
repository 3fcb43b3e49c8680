"""Metafiles that are made to cost time and memory are refused; metafiles of 100,000 tiles are read."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from sections import NAME, section

from handlers.acquisition.formats.pytemca_parse import MAX_HEADER_BYTES, MAX_TILE_BYTES, MAX_VALUES, parse_metafile
from handlers.acquisition.limits import MAX_METAFILE_BYTES, MAX_TILES
from handlers.errors import MetafileFault

HEAD, DATA = (json.dumps(element)[1:-1] for element in section())
OPEN, CLOSE = "[{" + HEAD + "},{" + DATA + "}", "]"
ROW = json.dumps(section()[1]["data"][0])


def many(count: int, value: str) -> str:
    return ",".join([value] * count)


Hostile = Callable[[], tuple[str, str]]
HOSTILE: dict[str, Hostile] = {
    "bytes": lambda: (OPEN + ',{"x":"' + "a" * MAX_METAFILE_BYTES + '"}' + CLOSE, "at most 96 MiB"),
    "lists": lambda: (OPEN + ',{"x":[' + many(MAX_VALUES, "[]") + "]}" + CLOSE, "at most 6,000,000 values"),
    "elements": lambda: (OPEN + "," + many(MAX_VALUES, "{}") + CLOSE, "at most 6,000,000 values"),
    "many elements": lambda: (OPEN + "," + many(1_000, "{}") + CLOSE, "at most 1,000 elements"),
    "numbers for tiles": lambda: (
        "[{" + HEAD + '},{"data":[' + many(MAX_TILES + 1, "1") + "]}]",
        "at most 100,000 tiles",
    ),
    "a long tile": lambda: (
        "[{" + HEAD + '},{"data":[' + ROW[:-1] + ',"x":"' + "a" * MAX_TILE_BYTES + '"}]}]',
        r"data\[0\]: should have at most 262144 bytes",
    ),
    "a long header": lambda: (
        "[{" + HEAD[:-1] + ',"x":[' + many(MAX_HEADER_BYTES // 2, "1") + "]}},{" + DATA + "}]",
        "metadata: should have at most 1048576 bytes",
    ),
    "a long transform": lambda: (
        OPEN + ',{"sharedTransform":"' + "a" * MAX_HEADER_BYTES + '"}' + CLOSE,
        "sharedTransform: should have at most 1048576 bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_metafile_beyond_a_limit_is_refused(name: str) -> None:
    text, problem = HOSTILE[name]()
    with pytest.raises(MetafileFault, match=problem):
        parse_metafile(text.encode(), NAME)


PRINT_MEMORY = """
import json, resource, sys
from handlers.acquisition.formats.pytemca_parse import parse_metafile
kind, element = sys.argv[1], json.loads(sys.stdin.read())
head, data = (json.dumps(each)[1:-1] for each in element)
start = "[{" + head + "},{" + data + "}"
if kind == "values of unknown keys":
    raw = (start + ',{"x":[' + ",".join(["[]"] * 2_900_000) + "]}]").encode()
else:
    row = {**element[1]["data"][0], "x": "a" * 150}
    rows = [json.dumps({**row, "img_path": f"{number}.tif"}) for number in range(100_000)]
    raw = ("[{" + head + '},{"data":[' + ",".join(rows) + "]}]").encode()
    del rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tiles = len(parse_metafile(raw, "m").tiles)
print(tiles, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("kind", "tiles", "max_mib"),
    [("values of unknown keys", 11, 100), pytest.param("100,000 tiles", 100_000, 400, marks=pytest.mark.slow)],
)
def test_the_largest_metafiles_need_bounded_memory(kind: str, tiles: int, max_mib: int) -> None:
    command = [sys.executable, "-c", PRINT_MEMORY, kind]
    done = subprocess.run(command, input=json.dumps(section()), capture_output=True, text=True, check=True)
    found, mib = map(int, done.stdout.split())
    assert found == tiles
    assert mib < max_mib
