"""Faults of connections to render-ws: no connection, TLS, a forward proxy, a connection that broke."""

import asyncio
import errno
import os
import ssl
from urllib.parse import urlsplit

import aiohttp

from handlers.errors import AccessRefused, AnswerLost, LoginRefused, RenderUnavailable
from handlers.render.foreign_answers import Service
from handlers.render.http.certificate import served_certificate
from handlers.render.http.environment_proxy import Proxy

_CLIENT_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_REVOKED",
)
"""OpenSSL's names of alerts that a server sends because of the client's certificate."""


async def connection_fault(
    subject: str, tried: str, error: Exception, service: Service, proxy: Proxy | None
) -> RenderUnavailable:
    """Return the fault for an exception of aiohttp other than a time-out of the answer."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return await _certificate_fault(subject, tried, error.certificate_error, service, proxy)
    if alert := _client_certificate_alert(error):
        problem = f"tried to {tried}, and {service.proxy} refuses the client certificate ({alert})"
        return LoginRefused(subject, problem, f"check {service.key('client_certificate_file')}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        problem = f"tried to {tried}, and the environment's proxy {proxy and proxy.url} answered {error.status}"
        return AccessRefused(subject, problem, "check HTTPS_PROXY, NO_PROXY and the login there")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        through = f" through the proxy {proxy.url}" if proxy else ""
        which = "it" if subject == service.url else service.url
        problem = f"tried to {tried}, and {which} cannot be reached{through} ({_reason(error)})"
        hint = f"check that render-ws runs and that its address, {service.setting}, is right"
        return RenderUnavailable(subject, problem, hint)
    problem = f"tried to {tried}, and the connection broke ({_text_of(error)})"
    return AnswerLost(subject, problem, "check whether render-ws was restarted")


async def _certificate_fault(
    subject: str, tried: str, error: Exception, service: Service, proxy: Proxy | None
) -> AccessRefused:
    """Return the fault of a certificate that does not verify, with its description and the reason."""
    parts = urlsplit(service.url)
    host, port = parts.hostname or "", parts.port or 443
    which = "" if proxy else await asyncio.to_thread(served_certificate, host, port)
    why = getattr(error, "verify_message", "") or _text_of(error)
    problem = f"tried to {tried}, and the certificate of {host}:{port} does not verify: {why}"
    hint = "trust its authority by {}, renew it, or correct the host in {}"
    if which:
        problem += f" (the certificate is {which})"
    return AccessRefused(subject, problem, hint.format(service.key("ca_file"), service.setting))


def _client_certificate_alert(error: BaseException | None) -> str:
    """Return the alert by which a server refused the client's certificate; empty if it sent none."""
    for _ in range(5):
        reason = str(getattr(error, "reason", None) or "") if isinstance(error, ssl.SSLError) else ""
        if any(alert in reason for alert in _CLIENT_CERTIFICATE_ALERTS):
            return reason.replace("_", " ").lower()
        error = error and (error.__cause__ or error.__context__ or getattr(error, "os_error", None))
    return ""


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def _reason(error: Exception) -> str:
    """Return the reason why no connection was made, without the address, which aiohttp repeats."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {(cause.reason or str(cause)).replace('_', ' ').lower()}"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno)
    return str(getattr(cause, "strerror", None) or _text_of(error))
