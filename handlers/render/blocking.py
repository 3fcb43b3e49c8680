"""A blocking connection to render-ws, for worker processes, which have no event loop."""

import http.client
import ssl
from urllib.parse import urlsplit

from handlers.render.http.access import Login
from handlers.render.http.environment_proxy import Proxy


def connection_to(
    url: str, login: Login, proxy: Proxy | None, timeout_s: float
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection that is not open yet, the target of the request, and the headers with the login."""
    parts, headers = urlsplit(url), dict(login.headers)
    assert parts.hostname is not None
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    through = urlsplit(proxy.url) if proxy else parts
    assert through.hostname is not None
    to_proxy = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
    if parts.scheme == "http":
        plain = http.client.HTTPConnection(through.hostname, through.port, timeout=timeout_s)
        return plain, (url if proxy else target), headers | to_proxy
    context = login.tls or ssl.create_default_context()
    secure = http.client.HTTPSConnection(through.hostname, through.port, timeout=timeout_s, context=context)
    if proxy:
        secure.set_tunnel(parts.hostname, parts.port or 443, to_proxy)
    return secure, target, headers
