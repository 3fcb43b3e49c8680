"""Requests of broken, scanning and hostile programs. The same seed gives the same requests."""

import contextlib
import json
import random
import re
import socket

PATHS = (
    "/api/dismiss",
    "/api/reload",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/montages",
    "/api/montages/1",
    "/api/events",
    "/api/replay",
    "/api/journal/backup",
    "/",
    "/x",
)
KEYS = ("state", "z", "limit", "id", "metafile", "q", "")
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PATCH",
    "get",
    "G\0T",
    "X" * 9000,
    "",
)
VALUES = (
    *("", "-1", "0", "1", "1e400", "nan", "inf", "-inf", "1" * 5000, "%00", "%ff%fe", "%", "%zz", "a" * 3000),
    *(
        "complete",
        "failed,failed",
        "all",
        "none",
        "..%2f..%2fetc%2fpasswd",
        "'%20OR%201=1--",
        "%F0%9F%94%AC",
        "[]",
        "٣",
    ),
)
TRAVERSALS = (
    *("/../../../../etc/passwd", "/static/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"),
    *("/static/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/api/montages/../../healthz", "/..%c0%af..%c0%afetc/passwd"),
    *("/api/montages/" + "9" * 400, "/api/montages/-1", "/api/montages/1%00", "/api/montages/٣", "/" + "a/" * 3000),
)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTP/1.1", "")
BODIES = (
    *(b"", b"{}", b"[]", b"null", b"{", b"\xff" * 100, b'{"paths": ["/"]}', b'{"z": [1e400]}', b'{"z": "x"}'),
    *(b'{"state": 7}', b"[" * 50_000, b"x" * 1_000_000, json.dumps({"unknown": 1}).encode(), b'{"from": "nowhere"}'),
)


JOURNALS = ("", "/", "journal.sqlite", "/dev/zero", "a" * 100_000, "\0", "\ud800", 7, None, ["/"])


def backup_request(rng: random.Random, journal: str) -> bytes:
    """Return a request for a copy of a journal: of this one, of another one, or a damaged request."""
    named = journal if rng.random() < 0.4 else rng.choice(JOURNALS)
    body = json.dumps({"journal": named}).encode()
    if rng.random() < 0.3:
        where = rng.randrange(len(body))
        body = body[:where] + rng.randbytes(rng.randrange(3)) + body[where + 1 :]
    length = len(body) if rng.random() < 0.9 else rng.randrange(2 * len(body))
    head = b"POST /api/journal/backup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = rng.choice((b"close", b"keep-alive"))
    return head + b"Connection: %s\r\nContent-Length: %d\r\n\r\n" % (connection, length) + body


def request_line(rng: random.Random) -> bytes:
    path = rng.choice(PATHS)
    match rng.randrange(6):
        case 0:
            path = rng.choice(TRAVERSALS)
        case 1:
            path += f"?{rng.choice(KEYS)}={rng.choice(VALUES)}"
        case 2:
            path += "?" + "&".join(f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(5))
        case _:
            pass
    method = "GET" if rng.random() < 0.5 else rng.choice(METHODS)
    version = "HTTP/1.1" if rng.random() < 0.8 else rng.choice(VERSIONS)
    line = f"{method} {path} {version}".encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        where = rng.randrange(len(line))
        line = line[:where] + rng.randbytes(3) + line[where:]
    return line


def request(rng: random.Random) -> bytes:
    """Return a request of a broken, scanning or hostile program."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(1, 3000))
    body = rng.choice(BODIES) if rng.random() < 0.3 else b""
    lengths = (str(len(body)), str(len(body)), str(len(body)), "-1", "x", "99999999999999999999", "0", "1, 2")
    # Most requests have the right host and type: others are refused at once.
    headers = [rng.choice((*[b"Host: localhost"] * 9, b"Host: x")), b"Connection: close"]
    if body:
        headers += [b"Content-Type: application/json"] * rng.choice((1, 1, 0))
        headers.append(f"Content-Length: {rng.choice(lengths)}".encode())
    odd = (
        *(b"X: " + b"y" * 20_000, b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Upgrade: h2c", b"no colon"),
        *(
            b": empty",
            b"Host: y\0",
            b"Range: bytes=0-",
            b"Content-Type: \xff",
            b"Accept-Encoding: x",
            b"A:b\r\n folded",
        ),
        *(b"Authorization: Bearer " + b"z" * 5000, b"Cookie: a=\x00", b"\r\nSplit: 1"),
    )
    headers += rng.sample(odd, rng.choice((0, 0, 0, 0, 1, 2)))
    headers += [b"N%d: v" % n for n in range(500)] if rng.random() < 0.02 else []
    return request_line(rng) + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body


def ask(address: tuple[str, int], sent: bytes, timeout_s: float = 1.0) -> bytes:
    """Send bytes; return the answer, which is empty if the connection was closed or no answer came in time."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=timeout_s) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
        while part := connection.recv(65536):
            answer += part
            if len(answer) > 1_000_000:
                break
    return answer


def status_of(answer: bytes) -> int | None:
    match = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(match[1]) if match else None
