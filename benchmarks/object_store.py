"""Target 12: the levels of a tile put into an object store, compared with the same bytes by obstore alone."""

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import numpy as np

from benchmarks.common import Options, Outcome, Row, interleaved, median_cpu_s, median_ratio, median_wall_s, run_script
from handlers.images.encode import Encoding, Page
from handlers.images.reduction import level_size
from handlers.objects.connection import connection
from handlers.place import StoreAccess, parse_object
from handlers.stores.bucket import BucketStore

SIDE, LEVELS, RUNS = 5504, tuple(range(1, 7)), 15
URL_VARIABLE = "TEMWATCH_BENCH_S3"
"""URL of an S3 server with a bucket "bench"; not set: moto's, whose own time is in every figure."""
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def measure(options: Options) -> Outcome:
    """Put the levels of one tile again and again, by both ways in turn."""
    import obstore

    side, runs = (512, 3) if options.quick else (SIDE, RUNS)
    with s3_server() as (url, what):
        access = StoreAccess(endpoint=url, region="us-east-1")
        pages = pages_of(side)
        mine, floor = parse_object("s3://bench/temwatch", access), parse_object("s3://bench/obstore", access)
        store, client = BucketStore(mine.bucket), connection(floor.bucket)

        def by_temwatch() -> None:
            for level, page in pages.items():
                store.put(level, mine / str(level) / "a.tif", page, Encoding("tif"))

        def by_obstore() -> None:
            for level, page in pages.items():
                obstore.put(client, (floor / str(level) / "a.tif").key, page.content, use_multipart=False)

        taken = interleaved({"temwatch": by_temwatch, "floor": by_obstore}, runs)
    own, least = (median_wall_s(taken[name]) for name in ("temwatch", "floor"))
    ratio = median_ratio([each.wall_s for each in taken["temwatch"]], [each.wall_s for each in taken["floor"]])
    cpu_s = median_cpu_s(taken["temwatch"])
    put_mb = sum(len(page.content) for page in pages.values()) / 1e6
    row = Row(
        12,
        f"tiles of {side}x{side}, 8 bit, six levels, put by one worker",
        1 / own,
        "tiles/s",
        floor=1 / least,
        floor_is="the same bytes by obstore alone, unverified",
        ratio=ratio,
        ratio_is="time / time of the floor",
        note=(
            f"{put_mb / own:.0f} MB/s, {own / len(LEVELS) * 1e3:.1f} ms a level;"
            f" CPU of the worker {cpu_s * 1e3:.0f} ms a tile; {what}"
        ),
    )
    return Outcome([row], facts={"server": what, "temwatch_s": own, "temwatch_cpu_s": cpu_s, "floor_s": least})


def pages_of(side: int) -> dict[int, Page]:
    """Return the files of the levels of a tile."""
    random = np.random.default_rng(0)
    encoding = Encoding("tif")
    return {
        level: encoding.page(random.integers(0, 255, level_size(side, side, level), np.uint8), "") for level in LEVELS
    }


@contextlib.contextmanager
def s3_server() -> Iterator[tuple[str, str]]:
    """Yield the URL of an S3 server with a bucket "bench", and what it is."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "bench")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "bench")
    if url := os.environ.get(URL_VARIABLE):
        yield url, url
        return
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        port = next(line for line in iter(process.stdout.readline, b"") if line.strip().isdigit())
        url = f"http://127.0.0.1:{int(port)}"
        with urllib.request.urlopen(urllib.request.Request(f"{url}/bench", method="PUT")):
            pass
        yield url, "moto on the same machine"
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    run_script("object_store", measure)
