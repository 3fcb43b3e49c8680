"""Subject, issuer and expiry of a server's certificate. For faults only: nothing is verified here."""

import contextlib
import hashlib
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

TIMEOUT_S = 5.0
_TIMES = (0x17, 0x18)
"""Tags of UTCTime and GeneralizedTime."""
_COMMON_NAME, _ORGANIZATION = b"\x55\x04\x03", b"\x55\x04\x0a"
_MAX_BYTES = 2**16

Element = tuple[int, bytes]
"""Tag and content of an element of DER."""


def served_certificate(host: str, port: int) -> str:
    """Describe the certificate of a server, for a fault about it; return "" if it cannot be fetched. Blocking.

    Makes a separate connection without verification, and sends nothing over it.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        return describe_certificate(fetch_certificate(host, port))
    return ""


def fetch_certificate(host: str, port: int) -> bytes:
    """Return the certificate of a server in DER, without verifying it. Blocking. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def describe_certificate(der: bytes) -> str:
    """Return subject, issuer and expiry of a certificate, and the beginning of its SHA-256, as text.

    Raises ValueError or IndexError if `der` is not a certificate.

    Source: RFC 5280, section 4.1.
    """
    issuer, validity, subject = _named_fields(der)
    digest = hashlib.sha256(der).hexdigest()[:16]
    end = _end(validity).date().isoformat()
    return f"for {_name(subject)}, issued by {_name(issuer)}, valid until {end}, SHA-256 {digest}…"


def certificate_end(der: bytes) -> float:
    """Return the expiry of a certificate in seconds since 1970 UTC. Raises ValueError, IndexError if `der` is invalid.

    Source: RFC 5280, section 4.1.
    """
    return _end(_named_fields(der)[1]).timestamp()


def _named_fields(der: bytes) -> tuple[bytes, bytes, bytes]:
    """Return issuer, validity and subject of a certificate."""
    if len(der) > _MAX_BYTES:
        raise ValueError("too long")
    (_, certificate), *_ = _elements(der)
    (_, to_be_signed), *_ = _elements(certificate)
    fields = [content for tag, content in _elements(to_be_signed) if tag != 0xA0]  # without the version
    return fields[2], fields[3], fields[4]


def _end(validity: bytes) -> datetime:
    return [_time(tag, content) for tag, content in _elements(validity) if tag in _TIMES][1]


def _elements(content: bytes) -> Iterator[Element]:
    place = 0
    while place < len(content):
        tag, length, place = content[place], content[place + 1], place + 2
        if length & 0x80:
            count = length & 0x7F
            length, place = int.from_bytes(content[place : place + count], "big"), place + count
        if place + length > len(content):
            raise ValueError("truncated")
        yield tag, content[place : place + length]
        place += length


def _name(content: bytes) -> str:
    """Return the common name; if there is none, the organization; else a placeholder."""
    found: dict[bytes, str] = {}
    for _, parts in _elements(content):
        for _, pair in _elements(parts):
            (_, kind), (_, value) = _elements(pair)
            found.setdefault(kind, value.decode("utf-8", "replace")[:100])
    return repr(found.get(_COMMON_NAME) or found.get(_ORGANIZATION) or "no name")


def _time(tag: int, content: bytes) -> datetime:
    """Return the time of a UTCTime or GeneralizedTime.

    >>> _time(0x17, b"261126010203Z").isoformat(), _time(0x18, b"20511126010203Z").isoformat()
    ('2026-11-26T01:02:03+00:00', '2051-11-26T01:02:03+00:00')
    """
    text = content.decode("ascii")
    if tag == _TIMES[0]:
        text = ("20" if text[:2] < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
