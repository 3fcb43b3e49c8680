"""Access rules for requests that change something. Blocking: the token's file is read."""

import hmac

from aiohttp import web

from daemon.config.files import read_token
from daemon.config.settings import HttpSettings
from daemon.web.visitor import is_logged_in, origin_of
from handlers.errors import SettingsFault


def post_refusal(request: web.Request, http: HttpSettings) -> tuple[int, str] | None:
    """Return status and reason if the request may not change anything, otherwise None. Reads the token's file.

    A foreign page in an operator's browser can send requests to this machine, too. So a POST must be JSON, which such a
    page cannot send without a CORS preflight; it must not come from another site; and if a token is configured, it must
    carry the token in a header or the cookie of a login.
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
    """Return the configured token if it equals the given text; None if it differs or none is configured.

    Reads the token's file.

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
