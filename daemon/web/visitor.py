"""Determine the origin of a request: proxies, users, the login cookie."""

import hmac
import ipaddress
from dataclasses import dataclass

from aiohttp import web

from daemon.config.files import read_token
from daemon.config.settings import HttpSettings
from handlers.errors import SettingsFault
from handlers.text import printable, shorten

MAX_NAME = 100
"""Longest user name that is recorded, characters."""
LOGIN_S = 30 * 24 * 3600
"""Duration of a login."""


@dataclass(frozen=True, slots=True)
class Access:
    """Rights and user of a request."""

    writes: str
    """"yes", "login" (after a login with the token) or "no" (writing is disabled)."""
    logged_in: bool
    user: str | None


def comes_from_proxy(request: web.Request, http: HttpSettings) -> bool:
    """Whether the request's peer is a trusted proxy."""
    try:
        peer = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    return any(peer in ipaddress.ip_network(each) for each in http.trusted_proxies)


def origin_of(request: web.Request, http: HttpSettings) -> str:
    """Return the origin under which the browser sees the pages, as in "https://em.example"."""
    scheme, host = request.scheme, request.host
    if comes_from_proxy(request, http):
        scheme = request.headers.get("X-Forwarded-Proto", scheme).rpartition(",")[2].strip()
        host = request.headers.get("X-Forwarded-Host", host).rpartition(",")[2].strip()
    return f"{scheme}://{host}"


def user_of(request: web.Request, http: HttpSettings) -> str | None:
    """Return the user's name from a trusted proxy, for the journal; None if there is none."""
    if http.user_header is None or not comes_from_proxy(request, http):
        return None
    return shorten(printable(request.headers.get(http.user_header, "").strip()), MAX_NAME) or None


def cookie_name(http: HttpSettings) -> str:
    """Return the name of the login cookie, with the port: browsers share cookies between ports of a host."""
    return f"temwatch_login_{http.port}"


def login_proof(token: str) -> str:
    """Return the value of the login cookie: a proof of the token that does not contain the token."""
    return hmac.new(token.encode(), b"temwatch login", "sha256").hexdigest()


def is_logged_in(request: web.Request, http: HttpSettings, token: str) -> bool:
    """Whether the request carries the cookie of a login with the present token."""
    given = request.cookies.get(cookie_name(http), "")
    return hmac.compare_digest(given.encode(errors="replace"), login_proof(token).encode())


def access_of(request: web.Request, http: HttpSettings) -> Access:
    """Return the rights and the user of a request. Reads the token's file."""
    user = user_of(request, http)
    try:
        token = read_token(http)
    except SettingsFault:
        return Access("no", logged_in=False, user=user)
    if token is None:
        return Access("yes" if http.loopback else "no", logged_in=False, user=user)
    logged_in = is_logged_in(request, http, token)
    return Access("yes" if logged_in else "login", logged_in=logged_in, user=user)
