"""Refuse requests for unknown host names."""

import asyncio
import functools
import ipaddress
import re
import socket
from collections.abc import Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from daemon.config.settings import HttpSettings

_NOT_LOOPBACK = "Host: not a loopback name of this machine, and not in http.allowed_hosts"
_NOT_THIS_MACHINE = "Host: not an address or the name of this machine, and not in http.allowed_hosts"


def host_check(http: Callable[[], HttpSettings]) -> Middleware:
    """Return a middleware that refuses unknown host names.

    A web page can point its own name to this machine (DNS rebinding) and read the daemon's responses through a browser.
    An IP address cannot be rebound, so it is accepted unless the daemon listens on loopback only. Source: Syncthing,
    lib/api `localhostMiddleware`, which checks on loopback only.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host")  # optional in HTTP/1.0, which no browser uses
        if host is not None and not is_known_host(host, http().allowed_hosts) and not await _is_own(host, http()):
            raise web.HTTPForbidden(reason=_NOT_LOOPBACK if http().loopback else _NOT_THIS_MACHINE)
        return await handler(request)

    return check


async def _is_own(authority: str, http: HttpSettings) -> bool:
    """Whether this is an IP address or a name of a machine whose daemon does not listen on loopback only."""
    if http.loopback:
        return False
    name = _name_of(authority)
    return _address_of(name) is not None or name in {http.host.lower(), *await asyncio.to_thread(own_names)}


@functools.cache
def own_names() -> frozenset[str]:
    """Return the names of this machine. Blocks while a name server does not answer."""
    return frozenset(each.lower() for each in (socket.gethostname(), socket.getfqdn()))


def is_known_host(authority: str, allowed: Collection[str]) -> bool:
    """Whether the Host of a request is a loopback name of this machine or an allowed name.

    >>> is_known_host("localhost:8787", ()), is_known_host("[::1]", ()), is_known_host("rebound.example", ())
    (True, True, False)
    """
    name = _name_of(authority)
    if name == "localhost" or name in (each.lower() for each in allowed):
        return True
    address = _address_of(name)
    return address is not None and address.is_loopback


def _name_of(authority: str) -> str:
    """Return the host of a Host header, without port and final dot."""
    return re.sub(r":\d*$", "", authority.strip().lower()).removesuffix(".")


def _address_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    bracketed = re.fullmatch(r"\[(.*)\]", name)
    try:
        return ipaddress.ip_address(bracketed[1] if bracketed else name)
    except ValueError:
        return None
