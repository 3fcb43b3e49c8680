"""Target 12: the levels of a tile put into an object store, compared with the same bytes put by obstore alone.

Both put all levels of a tile at the same time, with as many threads as a worker.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.common import Options, Outcome, Row, interleaved, median_cpu_s, median_ratio, median_wall_s, run_script
from daemon.simulator.demonstration.processes import free_port
from handlers.images.encode import Encoding, Page
from handlers.images.reduction import level_size
from handlers.place import StoreAccess, parse_object
from handlers.stores.bucket import BucketStore

SIDE, LEVELS, RUNS = 5504, tuple(range(1, 7)), 15
URL_VARIABLE = "TEMWATCH_BENCH_S3"
"""URL of an S3 server with a bucket "bench". If it is not set: versitygw on this machine, or moto if versitygw is not
installed. All figures include the time of the server."""
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def measure(options: Options) -> Outcome:
    """Put the levels of one tile several times, with temwatch and with obstore alone in turn."""
    import obstore
    from obstore.store import S3Store

    side, runs = (512, 3) if options.quick else (SIDE, RUNS)
    with s3_server() as (url, what):
        access = StoreAccess(endpoint=url, region="us-east-1")
        pages = pages_of(side)
        mine = parse_object("s3://bench/temwatch", access)
        store = BucketStore(mine.bucket)
        client = S3Store("bench", endpoint=url, region="us-east-1", client_options={"allow_http": True})

        def put(level: int) -> None:
            store.put(level, mine / str(level) / "a.tif", pages[level], Encoding("tif"))

        def put_alone(level: int) -> None:
            obstore.put(client, f"obstore/{level}/a.tif", pages[level].content, use_multipart=False)

        def at_once(one: Callable[[int], None]) -> None:
            with ThreadPoolExecutor(store.puts_at_once) as threads:
                list(threads.map(one, LEVELS))

        timings = interleaved({"temwatch": lambda: at_once(put), "floor": lambda: at_once(put_alone)}, runs)
    own, least = (median_wall_s(timings[name]) for name in ("temwatch", "floor"))
    ratio = median_ratio([each.wall_s for each in timings["temwatch"]], [each.wall_s for each in timings["floor"]])
    cpu_s, floor_cpu_s = (median_cpu_s(timings[name]) for name in ("temwatch", "floor"))
    put_mb = sum(len(page.content) for page in pages.values()) / 1e6
    row = Row(
        12,
        f"tiles of {side}x{side}, 8 bit, whose six levels one worker puts into an object store",
        1 / own,
        "tiles/s",
        floor=1 / least,
        floor_is="the same bytes by obstore alone, without checksum and comparison",
        ratio=ratio,
        ratio_is="time / time of the floor",
        note=(
            f"{put_mb / own:.0f} MB/s, {own * 1e3:.0f} ms a tile, {cpu_s * 1e3:.0f} ms of the worker's CPU"
            f" (floor {floor_cpu_s * 1e3:.0f} ms); {what}"
        ),
    )
    taken_s = {"temwatch_s": own, "temwatch_cpu_s": cpu_s, "floor_s": least, "floor_cpu_s": floor_cpu_s}
    return Outcome([row], facts={"server": what, **taken_s})


def pages_of(side: int) -> dict[int, Page]:
    """Return the files of the levels of a tile."""
    random = np.random.default_rng(0)
    encoding = Encoding("tif")
    return {
        level: encoding.page(random.integers(0, 255, level_size(side, side, level), np.uint8), "") for level in LEVELS
    }


@contextlib.contextmanager
def s3_server() -> Iterator[tuple[str, str]]:
    """Yield the URL of an S3 server with a bucket "bench", and its name."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "bench")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "bench")
    if url := os.environ.get(URL_VARIABLE):
        yield url, url
        return
    with _versitygw() if shutil.which("versitygw") else _moto() as (url, what):
        yield url, f"{what} on the same machine"


@contextlib.contextmanager
def _versitygw() -> Iterator[tuple[str, str]]:
    login = ("--access", os.environ["AWS_ACCESS_KEY_ID"], "--secret", os.environ["AWS_SECRET_ACCESS_KEY"])
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "bench").mkdir()
        command = ("versitygw", *login, "--port", f"127.0.0.1:{port}", "posix", directory)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not _accepts(port):
                if process.poll() is not None:
                    raise SystemExit(f"versitygw ended with {process.returncode}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", "versitygw"
        finally:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _moto() -> Iterator[tuple[str, str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        port = next(line for line in iter(process.stdout.readline, b"") if line.strip().isdigit())
        url = f"http://127.0.0.1:{int(port)}"
        with urllib.request.urlopen(urllib.request.Request(f"{url}/bench", method="PUT")):
            pass
        yield url, "moto"
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    run_script("object_store", measure)
