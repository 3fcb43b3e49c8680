"""Requests of broken, curious and hostile programs; seeded, so that they are repeatable."""

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


def backup_request(chance: random.Random, journal: str) -> bytes:
    """Return a request for a copy of a journal: of the right one, of another one, or spoiled."""
    named = journal if chance.random() < 0.4 else chance.choice(JOURNALS)
    body = json.dumps({"journal": named}).encode()
    if chance.random() < 0.3:
        where = chance.randrange(len(body))
        body = body[:where] + chance.randbytes(chance.randrange(3)) + body[where + 1 :]
    length = len(body) if chance.random() < 0.9 else chance.randrange(2 * len(body))
    head = b"POST /api/journal/backup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = chance.choice((b"close", b"keep-alive"))
    return head + b"Connection: %s\r\nContent-Length: %d\r\n\r\n" % (connection, length) + body


def request_line(chance: random.Random) -> bytes:
    path = chance.choice(PATHS)
    match chance.randrange(6):
        case 0:
            path = chance.choice(TRAVERSALS)
        case 1:
            path += f"?{chance.choice(KEYS)}={chance.choice(VALUES)}"
        case 2:
            path += "?" + "&".join(f"{chance.choice(KEYS)}={chance.choice(VALUES)}" for _ in range(5))
        case _:
            pass
    method = "GET" if chance.random() < 0.5 else chance.choice(METHODS)
    version = "HTTP/1.1" if chance.random() < 0.8 else chance.choice(VERSIONS)
    line = f"{method} {path} {version}".encode("utf-8", "surrogatepass")
    if chance.random() < 0.1:
        where = chance.randrange(len(line))
        line = line[:where] + chance.randbytes(3) + line[where:]
    return line


def request(chance: random.Random) -> bytes:
    """Return a request of a broken, curious or hostile program."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(1, 3000))
    body = chance.choice(BODIES) if chance.random() < 0.3 else b""
    lengths = (str(len(body)), str(len(body)), str(len(body)), "-1", "x", "99999999999999999999", "0", "1, 2")
    # Requests for other hosts, and bodies of other types, are refused at once.
    headers = [chance.choice((*[b"Host: localhost"] * 9, b"Host: x")), b"Connection: close"]
    if body:
        headers += [b"Content-Type: application/json"] * chance.choice((1, 1, 0))
        headers.append(f"Content-Length: {chance.choice(lengths)}".encode())
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
    headers += chance.sample(odd, chance.choice((0, 0, 0, 0, 1, 2)))
    headers += [b"N%d: v" % n for n in range(500)] if chance.random() < 0.02 else []
    return request_line(chance) + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body


def ask(address: tuple[str, int], sent: bytes, patience_s: float = 1.0) -> bytes:
    """Return the answer to some bytes; nothing if the connection was closed or no answer came in time."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=patience_s) as connection:
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
