"""Target 6: the start and the answers of a daemon with 100,000 COMPLETE montages in its journal."""

import statistics
import time
import zlib
from contextlib import closing
from pathlib import Path

from benchmarks import processes
from benchmarks.common import Options, Outcome, Row, run_script
from daemon.journal.file import connect
from daemon.montages.states import Event, MontageState
from handlers.uris import path_to_uri

MONTAGES = 100_000
TILES = 200
READY_LIMIT_S = 2.0
ANSWER_LIMIT_MS = 50.0
ANSWERS = 15
EVENTS = (
    (Event.NOTICED, MontageState.NOTICED),
    (Event.SETTLED, MontageState.SETTLED),
    (Event.INGESTED, MontageState.INGESTED),
    (Event.MIPMAPPED, MontageState.MIPMAPPED),
    (Event.APPLIED, MontageState.APPLIED),
    (Event.COMPLETED, MontageState.COMPLETE),
)
STACKS = ("bench/bench/block_mips", "bench/bench/block_raw")
"""Events of a montage, and the states that they lead to."""
STEPS = ("settle", "ingest", "mipmaps", "apply")


def measure(options: Options) -> Outcome:
    """Start the daemon several times with a full and with an empty journal; request pages of the full one."""
    montages = 2_000 if options.quick else MONTAGES
    runs = 2 if options.quick else 3
    acquisition = options.directory / "acquisition"
    acquisition.mkdir()
    with processes.standin(options.directory) as (_, render_url):
        config = processes.write_config(options.directory, render_url, acquisition)
        ready_s: dict[str, list[float]] = {"empty": [], "full": []}
        journal = options.directory / "journal.sqlite"
        full, empty = options.directory / "full.sqlite", options.directory / "empty.sqlite"
        for path, count in ((full, montages), (empty, 0)):
            fill(path, count, acquisition)
        answers_ms: dict[str, list[float]] = {}
        memory_bytes = 0
        for _ in range(runs):
            for kind, path in (("empty", empty), ("full", full)):
                journal.unlink(missing_ok=True)
                journal.hardlink_to(path)
                began = time.monotonic()
                with processes.daemon(options.directory, config, name=f"{kind}{len(ready_s[kind])}") as (program, url):
                    ready_s[kind].append(time.monotonic() - began)
                    if kind == "full":
                        memory_bytes = program.memory_bytes()
                        for page in ("/api/montages", "/metrics", "/readyz"):
                            answers_ms.setdefault(page, []).extend(_answer_ms(url + page) for _ in range(ANSWERS))
                    program.stop()
    rows = [
        Row(
            6,
            f"start to ready with {montages:,} finished montages in the journal",
            statistics.median(ready_s["full"]),
            "s",
            limit=READY_LIMIT_S,
            floor=statistics.median(ready_s["empty"]),
            floor_is="with an empty journal",
            note=f"journal {full.stat().st_size / 2**20:.0f} MiB, daemon {memory_bytes / 2**20:.0f} MiB",
        )
    ]
    rows += [
        Row(
            6,
            f"answer to GET {page} with {montages:,} montages",
            statistics.median(found),
            "ms",
            limit=ANSWER_LIMIT_MS if page != "/readyz" else None,
            note=f"slowest of {len(found)}: {max(found):.0f} ms",
        )
        for page, found in answers_ms.items()
    ]
    return Outcome(rows, facts={"ready_s": ready_s, "answers_ms": answers_ms})


def _answer_ms(url: str) -> float:
    began = time.perf_counter()
    processes.fetch(url)
    return 1000 * (time.perf_counter() - began)


def fill(path: Path, montages: int, acquisition: Path) -> None:
    """Write a journal of COMPLETE montages with `TILES` tiles each."""
    numbers = range(1, montages + 1)
    root = path_to_uri(acquisition)
    tile_ids = "\n".join(f"{tile:017d}_block_000001_0_{tile % 15}_{tile // 15}.1.0" for tile in range(TILES))
    packed = zlib.compress(tile_ids.encode())
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO montages (id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, z, raw_stack,"
            " mipmapped_stack, tile_count, noticed_at, changed_at, complete_at)"
            " VALUES (?, 'bench', ?, ?, 170000, ?, ?, ?, 'complete', ?, 'bench/bench/block_raw',"
            f" 'bench/bench/block_mips', {TILES}, ?, ?, ?)",
            (_montage(number, root) for number in numbers),
        )
        for text, rows in (
            ("INSERT INTO tile_sets (montage_id, tile_ids) VALUES (?, ?)", ((number, packed) for number in numbers)),
            (
                "INSERT INTO events (montage_id, at, event, state) VALUES (?, ?, ?, ?)",
                (
                    (number, _at(number) + 10 * step, event, state)
                    for number in numbers
                    for step, (event, state) in enumerate(EVENTS)
                ),
            ),
            (
                "INSERT INTO attempts (montage_id, step, started_at, ended_at, outcome) VALUES (?, ?, ?, ?, 'done')",
                ((number, step, _at(number), _at(number) + 5) for number in numbers for step in STEPS),
            ),
            (
                "INSERT INTO closings VALUES (?, ?, ?)",
                ((number, stack, _at(number) + 300) for number in numbers for stack in STACKS),
            ),
        ):
            connection.executemany(text, rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _at(number: int) -> float:
    return 1.7e9 + 60.0 * number


def _montage(number: int, root: str) -> tuple[object, ...]:
    name = f"_metadata_2024{number:010d}_block_{number:06d}_0_.json"
    metafile = f"{root}/{number // 100:05d}/{number:06d}/0/{name}"
    at = _at(number)
    return (number, metafile, f"{number:064x}", int(at * 1e9), number, name, float(number), at, at + 300, at + 300)


if __name__ == "__main__":
    run_script("restart", measure)
