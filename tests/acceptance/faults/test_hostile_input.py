"""Hostile input: its montages fail with a problem that names it, time and memory stay within limits, and the other
montages become COMPLETE."""

import contextlib
import gzip
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.cost import Cost, costs
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, fetch, require_seen_files, temwatch, wait_for
from tests.hostile_images import GIB, HOSTILE_IMAGES, encoded, png_chunk, sparse

pytestmark = pytest.mark.slow

Enter = Callable[[FaultRun], None]
SIZE = (64, 48)


def section(
    rig: Rig, number: int, change: Callable[[Written], object] = lambda written: None, **options: Any
) -> Written:
    """Write a section outside the watched directory, change it, and move it into the watched directory."""
    plan = section_plan(2000 + number, size=SIZE, **options)
    staging, watched = rig.root / "staging", rig.acquisition / "hostile"
    written = write_section(plan, staging, pixels="flat")
    change(written)

    def moved(path: Path) -> Path:
        return watched / path.relative_to(staging)

    moved(written.directory).parent.mkdir(parents=True, exist_ok=True)
    written.directory.rename(moved(written.directory))
    return Written(moved(written.directory), moved(written.metafile), tuple(moved(image) for image in written.images))


def header_changed(**values: Any) -> Callable[[Written], object]:
    def change(written: Written) -> None:
        content = json.loads(written.metafile.read_text())
        content[0]["metadata"] |= values
        written.metafile.write_text(json.dumps(content))

    return change


def extended_by(extra: str) -> Callable[[Written], object]:
    def change(written: Written) -> None:
        text = written.metafile.read_text().rstrip()[:-1]
        written.metafile.write_text(f'{text},{{"x":{extra}}}]')

    return change


def started(rig: Rig) -> None:
    rig.settings |= {"watch.settle_s": 0.1, "watch.arrival_timeout_s": 3, "watch.mipmaps.levels": 2}
    rig.start_standin()
    rig.start()


def report(
    rig: Rig,
    enter: Enter,
    name: str,
    cost: Cost,
    failed: Mapping[Path, str],
    complete: Sequence[Path],
    problems: Sequence[str] = (),
) -> None:
    """Enter the row: the numbers of montages, the cost, and the montages that ended otherwise than expected.

    Parameters
    ----------
    failed : montages that must be FAILED, and a text that their problem must contain.
    complete : montages that must be COMPLETE.
    problems : other problems, which count as lost montages.
    """
    wrong = [*problems, *cost.problems]
    for metafile, words in failed.items():
        row = rig.montage_of(metafile) or {"state": "unknown", "fault": None}
        said = row["fault"]["problem"] if row["fault"] else ""
        if row["state"] != "failed" or words not in said:
            wrong.append(f"{metafile}: {row['state']}: {said}")
    states = {metafile: (rig.montage_of(metafile) or {"state": "unknown"})["state"] for metafile in complete}
    wrong += [f"{metafile}: {state}" for metafile, state in states.items() if state != "complete"]
    enter(
        FaultRun(
            f"hostile input: {name}",
            injected=max(len(failed), 1),
            montages=len(failed) + len(complete),
            complete=len(complete),
            failed=len(failed),
            lost=len(wrong),
            note="; ".join([str(cost), *wrong]),
        )
    )


def have_ended(rig: Rig, *metafiles: Path) -> bool:
    rows = [rig.montage_of(metafile) for metafile in metafiles]
    return all(row is not None and row["state"] in ("failed", "complete") for row in rows)


def wait_until_all_ended(rig: Rig, *metafiles: Path) -> None:
    wait_for(lambda: have_ended(rig, *metafiles), 180, "the end of every montage")


# --- images


def test_images_with_false_headers_fail_their_montages_only(rig: Rig, enter: Enter) -> None:
    started(rig)
    failed = {}
    with costs(rig) as cost:
        for number, make in enumerate([*HOSTILE_IMAGES, *HOSTILE_IMAGES]):
            hostile = section(rig, number, lambda written, make=make: make(written.images[0]))
            failed[hostile.metafile] = "should have"
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, *failed, good)
    report(rig, enter, "images with false headers", cost, failed, [good])


def jpeg_with_repeated_scans(path: Path) -> None:
    whole = encoded("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    path.write_bytes(whole[:-2] + whole[last:-2] * 5_000 + b"\xff\xd9")


def png_with_chunks_after_its_pixels(path: Path) -> None:
    whole = encoded("PNG")
    path.write_bytes(whole[:-12] + png_chunk(b"tEXt") * 1_000_000 + whole[-12:])


def with_a_large_camera(written: Written) -> None:
    content = json.loads(written.metafile.read_text())
    content[0]["metadata"]["camera_info"] |= {"width": 60_000, "height": 60_000}
    written.metafile.write_text(json.dumps(content))


def test_images_that_need_much_time_or_memory_fail_their_montages_only(rig: Rig, enter: Enter) -> None:
    started(rig)
    bombs: list[Callable[[Path], None]] = [jpeg_with_repeated_scans, png_with_chunks_after_its_pixels]
    failed = {}
    with costs(rig) as cost:
        for number, make in enumerate(bombs * 3):
            hostile = section(rig, number, lambda written, make=make: make(written.images[0]))
            failed[hostile.metafile] = ""
        failed[section(rig, 800, with_a_large_camera).metafile] = "megapixels"
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, *failed, good)
    report(rig, enter, "images that need much time or memory of a worker", cost, failed, [good])


def tiff(path: Path, width: int, height: int, tags: Sequence[tuple[int, int, int, int]], end: int) -> None:
    """Write a sparse file of `end` bytes with the header of a TIFF of 8 bits and more tags."""
    grey = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    every = sorted([*grey, *tags])
    directory = b"".join(struct.pack("<HHII", *tag) for tag in every)
    head = struct.pack("<4sIH", b"II*\0", 8, len(every)) + directory + bytes(4)
    sparse(path, {0: head, end - 1: b"\0"})


def tiff_of_one_huge_tile(path: Path) -> None:
    side = 46_320
    tiff(path, *SIZE, [(259, 3, 1, 8), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 512), (325, 4, 1, 4096)], 8192)


def tiff_of_one_huge_tile_without_compression(path: Path) -> None:
    side = 46_320
    tiles = [(259, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 512), (325, 4, 1, side * side)]
    tiff(path, *SIZE, tiles, 512 + side * side)


def tiff_with_tags_of_4_gib(path: Path) -> None:
    pixels = SIZE[0] * SIZE[1]
    strip = [(259, 3, 1, 1), (273, 4, 1, 512), (278, 4, 1, SIZE[1]), (279, 4, 1, pixels)]
    tiff(path, *SIZE, [*strip, *((tag, 7, 2**32 - 8192, 8192) for tag in (270, 700, 33723, 34675))], 4 * GIB)


def test_tiffs_that_need_gigabytes_fail_their_montages_only(rig: Rig, enter: Enter) -> None:
    started(rig)
    bombs = {
        tiff_of_one_huge_tile: "has tiles of 46320x46320 pixels",
        tiff_of_one_huge_tile_without_compression: "has tiles of 46320x46320 pixels",
        tiff_with_tags_of_4_gib: "should have at most",
    }
    failed = {}
    with costs(rig) as cost:
        for number, (make, words) in enumerate([*bombs.items(), *bombs.items()]):
            hostile = section(rig, number, lambda written, make=make: make(written.images[0]))
            failed[hostile.metafile] = words
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, *failed, good)
    report(rig, enter, "TIFFs of one tile of 2 GiB, and with four tags of 4 GiB", cost, failed, [good])


def test_an_endless_answer_for_an_image_of_16384_by_16384_pixels_is_refused(rig: Rig, enter: Enter) -> None:
    """render-ws makes the image. Its answer may have five bytes for each pixel, 1.3 GB.

    The buffer of the answer grows and briefly takes twice that. By default images of more than 100 megapixels are
    refused.
    """
    side = 16_384
    rig.settings |= {"watch.mipmaps.method": "render", "workers.count": 1, "workers.largest_image_megapixels": 300}
    rig.start_standin()
    require_seen_files(rig.render_url)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 8, 6, 0, 0, 0)

    def enlarge(written: Written) -> None:
        content = json.loads(written.metafile.read_text())
        content[0]["metadata"]["camera_info"] |= {"width": side, "height": side}
        written.metafile.write_text(json.dumps(content))
        strip = [(259, 3, 1, 1), (273, 4, 1, 512), (278, 4, 1, side), (279, 4, 1, side * side)]
        for image in written.images:
            tiff(image, side, side, strip, 512 + side * side)

    rig.settings |= {"watch.settle_s": 0.1, "watch.mipmaps.levels": 2}
    rig.start()
    wrong = []
    answers = (("[[],", "is not the PNG"), (header.decode("latin-1"), "should answer with at most"))
    for number, (text, words) in enumerate(answers):
        rig.tell_standin()
        rig.tell_standin(match="GET .*/png-image", kind="endless", text=text)
        with costs(rig, max_worker_mib=3_000) as cost:
            hostile = section(rig, number, enlarge, tiles=1)
            wait_for(lambda at=hostile: (rig.montage_of(at.metafile) or {}).get("fault"), 300, "a fault")
        said = rig.montage_of(hostile.metafile)["fault"]["problem"]
        wrong += [] if words in said else [said]
        name = ("endless lists", "an endless PNG")[number]
        report(rig, enter, f"method render: {name} for 16384 x 16384 pixels", cost, {}, [], wrong)


# --- the working directory


def test_modules_in_the_working_directory_are_not_imported(rig: Rig, enter: Enter) -> None:
    planted, ran = rig.root / "planted", rig.root / "ran"
    planted.mkdir()
    names = ("selectors", "socket", "numpy", "handlers", "signal", "resource", "PIL", "multiprocessing", "tempfile")
    for name in names:
        (planted / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\n")
    script = Path(sys.executable).with_name("temwatch")  # `python -m` would import from the working directory
    rig.prefix = ("sh", "-c", f'cd "$0" && shift 3 && exec {script} "$@"', str(planted))
    started(rig)
    with costs(rig) as cost:
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, good)
    wrong = [f"ran {ran.read_text()}"] if ran.exists() else []
    report(rig, enter, "modules in the working directory", cost, {}, [good], wrong)


# --- links and names that lead out of the watched directory


def test_nothing_outside_the_watched_directory_is_read(rig: Rig, enter: Enter) -> None:
    private = rig.root / "private"
    shutil.copytree(section(rig, 700).metafile.parent, private / "section")
    shutil.rmtree(rig.acquisition / "hostile")
    started(rig)
    failed = {}
    with costs(rig) as cost:
        outside, moved = private / "image.tif", private / "moved"

        def link_an_image(written: Written) -> None:
            written.images[0].rename(outside)
            written.images[0].symlink_to(outside)

        def link_the_directory(written: Written) -> None:
            written.directory.rename(moved)
            written.directory.symlink_to(moved)

        def name_an_image_outside(written: Written) -> None:
            content = json.loads(written.metafile.read_text())
            content[1]["data"][0]["img_path"] = f"../../../../../../{outside.relative_to(rig.root)}"
            written.metafile.write_text(json.dumps(content))

        failed[section(rig, 0, link_an_image).metafile] = "lies outside"
        directory = section(rig, 1, link_the_directory)
        failed[section(rig, 2, name_an_image_outside).metafile] = "img_path"
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, *failed, good)
    levels = [path for path in rig.mipmaps.rglob("*") if "private" in str(path) or moved.name in path.parts]
    row = rig.montage_of(directory.metafile)
    wrong = [f"levels of files outside: {levels}"] if levels else []
    wrong += ["a directory behind a link was processed"] if row is not None and row["state"] == "complete" else []
    report(rig, enter, "links and names that lead out of the watched directory", cost, failed, [good], wrong)


def test_nothing_is_written_through_links_in_the_mipmap_directory(rig: Rig, enter: Enter) -> None:
    private = rig.root / "private"
    (private / "levels").mkdir(parents=True)
    rig.mipmaps.mkdir()
    (rig.mipmaps / "1").symlink_to(private / "levels")
    (rig.mipmaps / ".temwatch").symlink_to(private / "marker")
    started(rig)
    with costs(rig) as cost:
        section(rig, 0)
        time.sleep(5)
    wrong = [f"written outside: {path}" for path in private.rglob("*") if path != private / "levels"]
    report(rig, enter, "links instead of levels and the marker file", cost, {}, [], wrong)


# --- tiles of another montage


def test_copies_of_sections_and_colliding_names_fail_and_change_no_tile(rig: Rig, enter: Enter) -> None:
    started(rig)
    first = section(rig, 0)
    rig.wait_until("complete", first.metafile)
    before = rig.tiles("20314_2L_mips", 2000.0)
    failed = {}
    with costs(rig) as cost:
        for number in range(5):
            copy = rig.acquisition / f"copy{number}"
            shutil.copytree(first.metafile.parent, copy)
            failed[copy / first.metafile.name] = str(first.metafile)
        for number, specimen in enumerate(("___", "é", "..")):
            failed[section(rig, 10 + number, header_changed(specimen_id=specimen)).metafile] = ""
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, *failed, good)
    wrong = [] if rig.tiles("20314_2L_mips", 2000.0) == before else ["the tiles of the first montage have changed"]
    report(
        rig,
        enter,
        "copies of sections, and names that give the same stack",
        cost,
        failed,
        [good, first.metafile],
        wrong,
    )


# --- render-ws


class Endless(BaseHTTPRequestHandler):
    """Answers every request with a body of 4,000 pieces, about 300 MB, which never ends as JSON or HTML."""

    protocol_version = "HTTP/1.1"
    piece = b"[]," * 20_000
    status = 200

    def _answer(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json" if self.status == 200 else "text/html")
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"[")
            for _ in range(4_000):
                self.wfile.write(self.piece)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815  the library's names

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def endless(piece: bytes, status: int) -> Iterator[str]:
    """Serve endless answers within the context; return the URL."""
    handler = type("Endless", (Endless,), {"piece": piece, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/render-ws/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("name", "piece", "status"),
    [("lists", b"[]," * 20_000, 200), ("numbers", b"0," * 30_000, 200), ("markup", b"<" * 60_000, 500)],
)
def test_montages_wait_for_a_render_ws_that_gives_endless_answers(
    rig: Rig, enter: Enter, name: str, piece: bytes, status: int
) -> None:
    with endless(piece, status) as url:
        rig.settings |= {"watch.settle_s": 0.1}
        rig.render_url = url
        rig.start()
        with costs(rig) as cost:
            waiting = section(rig, 0).metafile
            wait_for(lambda: (rig.montage_of(waiting) or {}).get("state") == "settled", 60, "settled")
            time.sleep(8)
        row = rig.montage_of(waiting)
        wrong = [] if row is not None and row["state"] == "settled" else [f"{row}"]
        report(rig, enter, f"a render-ws that answers with endless {name}", cost, {}, [], wrong)


# --- requests


def hostile_requests() -> Iterator[bytes]:
    bomb = gzip.compress(bytes(64 * 2**20), 9)
    head = b"POST /api/replay HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    yield head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    yield head + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"
    yield head + b"Content-Length: 999999999\r\n\r\n" + bytes(3 * 2**20)
    yield head + b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + bytes(2**20) + b"\r\n"
    yield b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"
    yield b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000
    yield b"\0\xff\x16\x03\x01" * 1000
    yield b"GET /healthz HTTP/1.1\r\nHost: local"


def test_the_daemon_survives_a_flood_of_hostile_requests(rig: Rig, enter: Enter) -> None:
    rig.prefix = ("prlimit", "--nofile=256")
    started(rig)
    address = urlsplit(rig.url)
    place = (str(address.hostname), int(address.port or 0))
    lines = len(rig.daemon.lines()) if rig.daemon else 0
    requests, sent = list(hostile_requests()), 0
    with contextlib.ExitStack() as stack, costs(rig) as cost:
        for _ in range(60):
            for content in requests:
                with contextlib.suppress(OSError):
                    connection = stack.enter_context(socket.create_connection(place, timeout=5))
                    connection.sendall(content)
                sent += 1
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, good)
    said = rig.daemon.lines()[lines:] if rig.daemon else []
    events = Counter(found[1] for line in said if (found := re.search(r'"event": "([^"]+)"', line)))
    wrong = [f"{len(said)} lines of the log: {events.most_common(4)}"] if len(said) > 100 else []
    wrong += [line for line in said if "Traceback" in line][:1]
    report(rig, enter, f"{sent} requests that stay open, have false lengths or are compressed", cost, {}, [good], wrong)


# --- metafiles


def test_huge_metafiles_fail_unless_they_are_within_the_limits(rig: Rig, enter: Enter) -> None:
    started(rig)
    failed, complete = {}, []
    with costs(rig) as cost:
        for number in range(8):  # all at once
            written = section(rig, number)
            text = written.metafile.read_text().rstrip()[:-1]
            many = ",".join(["[]"] * 2_500_000)
            written.metafile.write_text(
                f'{text},{{"x":[{many}]}}]' if number % 2 else f'{text},{{"x":"{"a" * 28 * 2**20}"}}]'
            )
            complete.append(written.metafile)
        too_many = "[" + ",".join(["[]"] * 6_500_000) + "]"
        failed[section(rig, 20, extended_by(too_many)).metafile] = "at most 6,000,000 values"
        failed[section(rig, 21, extended_by('"' + "a" * (120 * 2**20) + '"')).metafile] = "at most 96 MiB"
        sparse_one = section(rig, 22, lambda written: sparse(written.metafile, {0: b"[", 2 * GIB: b"]"}))
        failed[sparse_one.metafile] = "at most 96 MiB"
        wait_until_all_ended(rig, *failed, *complete)
    report(rig, enter, "metafiles of up to 2 GiB, eight at once", cost, failed, complete)


# --- names


def test_names_with_escape_sequences_are_shown_escaped(rig: Rig, enter: Enter) -> None:
    started(rig)
    hostile = rig.acquisition / "hostile" / "a\x1b[2Jb\u202ec\nd\x07"
    hostile.mkdir(parents=True)
    shown = []
    with costs(rig) as cost:
        written = section(rig, 0)
        broken = hostile / written.metafile.name
        broken.write_text('[{"metadata": {"\x1b[31m": 1}}')
        good = section(rig, 900).metafile
        wait_until_all_ended(rig, good, written.metafile)
        wait_for(lambda: len(rig.montages()) >= 3, 60, "the hostile metafile has been seen")
        rig.wait_until("failed", broken)
        config = ("--config", str(rig.config()))
        for command in (("status",), ("status", "--failed"), ("log", str(rig.montage_of(broken)["id"])), ("verify",)):
            done = temwatch(*command, *config)
            shown.append(done.stdout + done.stderr)
        shown += rig.daemon.lines()
        shown.append(fetch(f"{rig.url}/metrics"))
    wrong = [repr(text)[:200] for text in shown if any(each in text for each in ("\x1b", "\u202e", "\x07"))]
    report(rig, enter, "names with escape sequences", cost, {broken: ""}, [good, written.metafile], wrong)


# --- locks and modes


LOCK = "import fcntl, sys, time; fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX); print(flush=True); time.sleep(600)"
NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_lock_of_another_user_delays_nothing_and_the_journal_is_not_public(rig: Rig, enter: Enter) -> None:
    watched = os.open(rig.acquisition, os.O_RDONLY)
    command = [shutil.which("python3", path="/usr/bin") or sys.executable, "-c", LOCK, str(watched)]
    other = subprocess.Popen(command, pass_fds=[watched], stdout=subprocess.PIPE, user=NOBODY, cwd="/")
    os.close(watched)
    try:
        assert other.stdout is not None
        assert other.stdout.readline()
        started(rig)
        with costs(rig) as cost:
            good = section(rig, 900).metafile
            wait_until_all_ended(rig, good)
    finally:
        other.kill()
        other.communicate()
    own = [path for path in rig.root.glob("daemon.sqlite*") if path.is_file()]
    wrong = [f"{path}: {stat.filemode(path.stat().st_mode)}" for path in own if path.stat().st_mode & 0o027]
    report(rig, enter, "a lock on the watched directory; modes of the journal", cost, {}, [good], wrong)
