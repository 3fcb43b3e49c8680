"""Access rules: under which names the daemon answers, and which requests may change something."""

import hmac
import ipaddress
import re
from collections.abc import Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from daemon.config.files import read_token
from daemon.config.settings import HttpSettings
from daemon.web.visitor import is_logged_in, origin_of
from handlers.errors import SettingsFault

_UNKNOWN_HOST = "Host: not a loopback name of this machine, and not in http.allowed_hosts"


def host_check(http: Callable[[], HttpSettings]) -> Middleware:
    """Return a middleware that refuses unknown host names while the daemon listens on loopback only.

    A page in a browser on this machine can point its own name to 127.0.0.1 (DNS rebinding) and would then read the
    daemon's answers. Source: Syncthing, lib/api `localhostMiddleware`.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host")  # optional in HTTP/1.0, which no browser uses
        if host is not None and http().loopback and not is_known_host(host, http().allowed_hosts):
            raise web.HTTPForbidden(reason=_UNKNOWN_HOST)
        return await handler(request)

    return check


def is_known_host(authority: str, allowed: Collection[str]) -> bool:
    """Whether the Host of a request is a loopback name of this machine or an allowed name.

    >>> is_known_host("localhost:8787", ()), is_known_host("[::1]", ()), is_known_host("rebound.example", ())
    (True, True, False)
    """
    name = re.sub(r":\d*$", "", authority.strip().lower())
    if name.removesuffix(".") == "localhost" or name in (each.lower() for each in allowed):
        return True
    bracketed = re.fullmatch(r"\[(.*)\]", name)
    try:
        return ipaddress.ip_address(bracketed[1] if bracketed else name).is_loopback
    except ValueError:
        return False


def post_refusal(request: web.Request, http: HttpSettings) -> tuple[int, str] | None:
    """Return status and reason if the request may not change anything, otherwise None. Reads the token's file.

    A page in an operator's browser can send requests to this machine, too. So a POST must be JSON (another site's page
    cannot send that without asking first), must not come from another site, and must carry the token if there is one:
    in a header, or as the cookie of a login.
    """
    try:
        token = read_token(http)
    except SettingsFault as fault:
        return 503, str(fault)
    if token is None and not http.loopback:
        return 403, "http.token_file: not set, but http.host is open to other machines: POST is disabled"
    if token is not None and not ("Authorization" not in request.headers and is_logged_in(request, http, token)):
        given = request.headers.get("Authorization")
        if given is None:
            return 401, "Authorization: Bearer TOKEN is required"
        if not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {token}".encode()):
            return 403, "Authorization: wrong token"
    if request.content_type != "application/json":
        return site_refusal(request, http) or (415, "Content-Type: must be application/json")
    return site_refusal(request, http)


def token_matches(http: HttpSettings, given: str) -> str | None:
    """Return the token if a person gave it; None if it is another one, or if none is set. Reads the token's file.

    Raises
    ------
    SettingsFault
        If the file cannot be used.
    """
    token = read_token(http)
    return token if token and hmac.compare_digest(given.encode(errors="replace"), token.encode()) else None


def site_refusal(request: web.Request, http: HttpSettings) -> tuple[int, str] | None:
    """Return status and reason if a page of another site sent the request, otherwise None."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return 403, "Sec-Fetch-Site: requests of other sites are refused"
    own = origin_of(request, http)
    if request.headers.get("Origin", own) != own:
        return 403, f"Origin: requests of other sites are refused; this one is {own}"
    return None
