"""Fuzzer of answers for the method `render`: each one must give a report of levels or of a fault."""

import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from handlers.errors import WorkerFault
from handlers.images.reduction import Reduction
from handlers.images.render_source import RenderSource
from handlers.images.source import CANVAS_PX
from handlers.mipmaps.make import make_mipmaps
from tests.acceptance.faults.mutations import damage_metafile
from tests.fuzz.answers import CHANNELS, SPEC
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.fuzz.images import FRAMES, GREY, damage_png, encoded, job_for

URL = "/render-ws/v1/owner/em/project/v1/stack/raw/tile/a/source/png-image"
SERVED = [
    encoded(FRAMES[0], "PNG"),
    encoded(Image.fromarray(np.dstack([GREY] * 3)), "PNG"),
    encoded(Image.fromarray(np.dstack([GREY] * 4)), "PNG"),
    encoded(FRAMES[0], "JPEG"),
]
CANVAS = encoded(Image.new("RGBA", (CANVAS_PX, CANVAS_PX)), "PNG")
PARAMETERS = [{"tileSpecs": [spec], "x": 0.0, "width": 64.0} for spec in (SPEC, CHANNELS)]
STATUSES = (b"404 Not Found", b"500 No", b"200", b"999 x", b"20x OK", b"302 Found", b"100 Continue")
ANSWERS = 3
"""Number of answers: the image, the parameters, the picture under a mask."""


def draw_answers(rng: random.Random) -> bytes:
    """Return the bytes of three answers, each after its length; at least one is damaged."""
    parameters = rng.choice(PARAMETERS)
    bodies = [rng.choice(SERVED), json.dumps(parameters).encode(), CANVAS]
    damaged = rng.randrange(ANSWERS)
    bodies[damaged] = damage_metafile(rng, parameters) if damaged == 1 else damage_png(rng, _a_png(bodies[damaged]))
    answers = [_answer(rng, body) for body in bodies]
    return b"".join(struct.pack("<I", len(each)) + each for each in answers)


def _a_png(content: bytes) -> bytes:
    return content if content.startswith(b"\x89PNG") else SERVED[0]


def _answer(rng: random.Random, body: bytes) -> bytes:
    status, length = b"200 OK", b"%d" % len(body)
    headers = [b"Content-Type: image/png"]
    if rng.random() < 0.2:
        status = rng.choice(STATUSES)
    if rng.random() < 0.2:
        length = rng.choice((b"-1", b"x", b"0", b"99999999999", b"%d" % (len(body) + 7), b"1, 2"))
    if rng.random() < 0.1:
        headers.append(rng.choice((b"Transfer-Encoding: chunked", b"Location: /x", b"X: " + b"y" * 99_999, b"no")))
    head = b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"Content-Length: " + length])
    whole = head + b"\r\n\r\n" + body
    return whole if rng.random() < 0.95 else whole[: rng.randrange(len(whole))]


class _Server(threading.Thread):
    """Answers with the bytes in `answers`."""

    def __init__(self) -> None:
        super().__init__(name="served images", daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.answers = (b"", b"", b"")

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5)
                request = b""
                while b"\r\n\r\n" not in request and (piece := connection.recv(65536)):
                    request += piece
                connection.sendall(self.answers[self._kind(request)])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # closing with unread data would reset the connection
                    pass

    @staticmethod
    def _kind(request: bytes) -> int:
        """Return the index of the answer to a request."""
        return 2 if request.startswith(b"PUT") else int(b"render-parameters" in request)


@contextmanager
def open_check(place: Path) -> Iterator[Check]:
    """Yield the check of three answers."""
    server = _Server()
    server.start()
    port = server.listening.getsockname()[1]
    source = RenderSource(f"http://127.0.0.1:{port}{URL}")
    absent, present = place / "absent.tif", place / "present.tif"
    Image.fromarray(GREY).save(present)

    def check(content: bytes) -> None:
        server.answers = tuple(_parts(content))
        for path, bits in ((absent, 8), (present, 8), (present, 16)):
            job = replace(job_for(path), source=replace(source, bits=bits), reduction=Reduction("render"))
            report = make_mipmaps(job)
            if report.fault is None:
                assert [made.level for made in report.made] == [1, 2], report
            else:
                assert report.fault.problem, report
                assert not isinstance(report.fault.to_fault(), WorkerFault), report
        assert not list(place.rglob("*.tmp"))

    try:
        yield check
    finally:
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        server.join()


def _parts(content: bytes) -> Iterator[bytes]:
    """Yield the three answers; they are shorter if the file of an input is truncated."""
    for _ in range(ANSWERS):
        (length,) = struct.unpack("<I", content[:4].ljust(4, b"\0"))
        yield content[4 : 4 + length]
        content = content[4 + length :]


SERVED_IMAGES = Fuzzer("served", draw_answers, open_check)
