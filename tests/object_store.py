"""Servers of S3 for tests: moto and versitygw in their own processes, and a proxy that injects faults."""

import contextlib
import http.client
import importlib.util
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.simulator.demonstration.processes import free_port
from handlers.place import ObjectPlace, StoreAccess, parse_object

KEYS = {"AWS_ACCESS_KEY_ID": "temwatch", "AWS_SECRET_ACCESS_KEY": "not-secret", "AWS_REGION": "us-east-1"}
_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def require_moto() -> None:
    """Skip the test if moto or obstore is not installed."""
    for name in ("obstore", "moto"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Run moto's server until the end of the context; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, b"")
        port = next(line for line in lines if line.strip().isdigit())
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def make_bucket(url: str, name: str) -> None:
    """Make a bucket that can be read without a login."""
    headers = {"x-amz-acl": "public-read"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", headers=headers, method="PUT")):
        pass


def place_at(url: str, bucket: str, prefix: str = "", **access: object) -> ObjectPlace:
    """Return a place in a store of this URL."""
    return parse_object(f"s3://{bucket}/{prefix}", StoreAccess(endpoint=url, region="us-east-1", **access))


@dataclass
class Request:
    """A request that the layer received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, bytes] | str | None
"""Answer of the layer: status and body; "reset" (none), "cut" (half of the store's answer), "torn" (none, and the store
gets half of the request's body); None: the store's answer."""


@dataclass
class FaultLayer:
    """A proxy in front of a store that injects faults."""

    target: str
    rule: Callable[[Request], Answer] = lambda request: None
    """Decides how each request is answered."""
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    certificate: tuple[Path, Path] | None = None
    """Certificate and key; the layer speaks TLS if they are given."""
    translated: Callable[[Request], Request] = lambda request: request
    """Returns the request that the store gets in place of a client's request."""
    answered: Callable[[Request, dict[str, str], bytes], dict[str, str]] = lambda request, headers, body: headers
    """Returns the headers of the answer, from the translated request and the store's headers and body."""

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultLayer"]:
        """Serve in other threads until the end of the context."""
        server = _Server(("127.0.0.1", 0), _handler(self))
        scheme = "http"
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            server.socket, scheme = context.wrap_socket(server.socket, server_side=True), "https"
        self.url = f"{scheme}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="fault layer")
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            server.drop_connections()
            thread.join()

    def every(self, number: int, *answers: Answer) -> None:
        """Answer every `number`-th request with the next of these answers, which are repeated."""
        kinds = itertools.cycle([*([None] * (number - 1)), each] for each in answers)
        turn = itertools.chain.from_iterable(kinds)
        self.rule = lambda request: next(turn)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember a connection, and serve it in a thread."""
        self._open.add(request)
        super().process_request(request, client_address)

    def drop_connections(self) -> None:
        """End the connections that clients keep for later requests."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients may drop connections."""


def error(status: int, code: str, message: str = "injected") -> tuple[int, bytes]:
    """Return the answer of S3 for an error."""
    return status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


SERVER_ERROR = error(500, "InternalError")
SLOW_DOWN = error(503, "SlowDown", "Please reduce your request rate.")
EXPIRED = error(403, "ExpiredToken", "The provided token has expired.")
SKEWED = error(403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large.")
FULL = error(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.")


def _handler(layer: FaultLayer) -> type[BaseHTTPRequestHandler]:
    target = urlsplit(layer.target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers), body)
            layer.requests.append(request)
            answer = layer.rule(request)
            if answer == "reset":
                self._reset()
                return
            if isinstance(answer, tuple):
                self._send(answer[0], {}, answer[1])
                return
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
            with contextlib.closing(connection):
                if answer == "torn":
                    self._tear(connection, body)
                    return
                sent = layer.translated(Request(self.command, _path_of(self.path), dict(self.headers), body))
                connection.request(sent.method, sent.path, sent.body, sent.headers)
                found = connection.getresponse()
                content = found.read()
                headers = layer.answered(sent, dict(found.getheaders()), content)
            self._send(found.status, headers, content, is_cut=answer == "cut" and len(content) > 1)

        def _tear(self, connection: http.client.HTTPConnection, body: bytes) -> None:
            connection.putrequest(self.command, _path_of(self.path), skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            connection.send(body[: len(body) // 2])
            self._reset()

        def _send(self, status: int, headers: dict[str, str], body: bytes, *, is_cut: bool = False) -> None:
            self.send_response(status)
            length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
            for name, value in headers.items():
                if name.lower() not in ("connection", "date", "server", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if is_cut else body)
            if is_cut:
                self._reset()

        def _reset(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815  the names that the server calls

    return Handler


def _path_of(target: str) -> str:
    """Return path and query of a request. A client that uses a proxy sends a whole URL."""
    return target if target.startswith("/") else "/" + target.split("/", 3)[3]


@contextlib.contextmanager
def environment(values: Mapping[str, str] = KEYS) -> Iterator[None]:
    """Set environment variables, by default the login of the store, until the end of the context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def moto_with_keys() -> Iterator[str]:
    """Run moto's server with its keys in the environment; yields its URL. Skips the test if moto is not installed."""
    require_moto()
    with environment(), moto() as url:
        yield url


VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.0.14"


@contextlib.contextmanager
def versitygw(directory: Path) -> Iterator[str]:
    """Run versitygw, which keeps objects in a directory; yields its URL. Skips the test if it is not installed."""
    program = installed("versitygw", f"go install {VERSITYGW}")
    (directory / "objects").mkdir(exist_ok=True)
    login = ("--access", KEYS["AWS_ACCESS_KEY_ID"], "--secret", KEYS["AWS_SECRET_ACCESS_KEY"])
    port = free_port()
    with serving(program, *login, "--port", f"127.0.0.1:{port}", "posix", str(directory / "objects"), port=port) as url:
        yield url


def installed(program: str, how: str) -> str:
    """Return the path of a program; skip the test if it is not installed. `how` is the command that installs it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: {how}")
    return path


@contextlib.contextmanager
def serving(*command: str, port: int) -> Iterator[str]:
    """Run a server until the end of the context; yields its URL once it accepts connections."""
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=scratch)
        try:
            deadline = time.monotonic() + 180  # Azurite was seen to take a minute on a busy machine
            while True:
                assert process.poll() is None, f"{command[0]} has ended"
                assert time.monotonic() < deadline, f"{command[0]} does not accept connections"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()
