"""The proxy that the environment names for an address: HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""

import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from handlers.errors import SettingsFault
from handlers.render.names import checked_base_url


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy."""

    url: str
    """Address of the proxy, without user and password."""
    authorization: str | None = field(default=None, repr=False)
    """Value of the header Proxy-Authorization; None without a login."""


def environment_proxy(url: str) -> Proxy | None:
    """Return the proxy for the address of a service; None if the environment names none, or excludes its host.

    Raises
    ------
    SettingsFault
        If the variable is not an http address.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    named = proxies.get(parts.scheme)
    if not named or urllib.request.proxy_bypass(parts.netloc, proxies):
        return None
    try:
        address = checked_base_url(named if "://" in named else f"http://{named}")
    except SettingsFault:
        address = None
    if address is None or not address.url.startswith("http://"):
        expected = "is not the address of a proxy, expected the form http://proxy:3128"
        raise SettingsFault(f"{parts.scheme.upper()}_PROXY", expected, "correct it, or set NO_PROXY for this host")
    return Proxy(address.url, address.authorization)
