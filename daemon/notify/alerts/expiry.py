"""Expiry of certificates and tokens of render-ws and of temwatch as its client. Blocking; `ending` is pure."""

import base64
import json
import re
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from daemon.config.render_settings import RenderSettings
from daemon.montages.announcements import utc_text
from daemon.notify.alerts.rules import AlertKind, Condition
from handlers.errors import Fault
from handlers.render.http.certificate import certificate_end, describe_certificate, fetch_certificate
from handlers.render.http.environment_proxy import environment_proxy
from handlers.render.names import checked_base_url
from handlers.secret_file import read_named, read_secret_line

SOON_S = 14 * 86_400.0
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Expiry of one certificate or token."""

    what: str
    """Key of the configuration and name of the certificate. Contains no secret."""
    ends_at: float
    """Seconds since 1970 UTC."""
    is_authority: bool = False
    """Whether it is from the file of authorities. Then it is not reported after its end: the file may hold its
    successor."""


def ending(expiries: Iterable[Expiry], now: float) -> Iterator[Condition]:
    """Yield a condition for each certificate or token that has expired or expires within `SOON_S`.

    Parameters
    ----------
    now : seconds since 1970 UTC.
    """
    for each in expiries:
        left_s = each.ends_at - now
        if left_s < SOON_S and not (each.is_authority and left_s < 0):
            text = f"{each.what}: valid until {utc_text(each.ends_at)[:16].replace('T', ' ')} UTC"
            yield Condition(AlertKind.EXPIRES, "", each.what, text)


def expiries(render: RenderSettings) -> list[Expiry] | None:
    """Return when the certificates and the token of render-ws expire; None if that cannot be determined now.

    The render gate reports the reason: a file cannot be read, or the server does not respond.
    """
    if render.embedded:
        return []
    try:
        found = list(_of_file(render.client_certificate_file, "render.client_certificate_file"))[:1]
        found += [replace(each, is_authority=True) for each in _of_file(render.ca_file, "render.ca_file")]
        return [*found, *_of_server(render), *_of_token(render.token_file)]
    except (Fault, OSError, ValueError, IndexError):
        return None


def _of_file(path: Path | None, key: str) -> Iterator[Expiry]:
    if path is not None:
        text = read_named(path, key)[0].decode("ascii", "replace")
        for block in _PEM.findall(text):
            yield _of_certificate(ssl.PEM_cert_to_DER_cert(block), key)


def _of_server(render: RenderSettings) -> Iterator[Expiry]:
    parts = urlsplit(checked_base_url(render.url).url)
    if parts.scheme == "https" and not (render.use_environment_proxy and environment_proxy(render.url)):
        yield _of_certificate(fetch_certificate(parts.hostname or "", parts.port or 443), "render.url")


def _of_certificate(der: bytes, key: str) -> Expiry:
    return Expiry(f"{key}: the certificate {describe_certificate(der)}", certificate_end(der))


def _of_token(path: Path | None) -> Iterator[Expiry]:
    ends_at = None if path is None else token_end(read_secret_line(path, "render.token_file", "token"))
    if ends_at is not None:
        yield Expiry("render.token_file: the token", ends_at)


def token_end(token: str) -> float | None:
    """Return when a JSON Web Token expires, seconds since 1970 UTC; None for other tokens and without an expiry.

    Source: RFC 7519, section 4.1.4.

    >>> token_end("e30.eyJleHAiOjE3MDAwMDAwMDB9.x"), token_end("opaque")
    (1700000000.0, None)
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
