"""Faults of answers that render-ws never gives: they come from a proxy in front of it or another server. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from handlers.errors import (
    AnswerLost,
    LoginRefused,
    NotRender,
    ProxyTimedOut,
    RenderBroken,
    RenderFault,
    RenderUnavailable,
    RequestForbidden,
    UploadTooLarge,
)

_WRONG_URL = (
    "check that {setting} is the address of a render-ws, as in http://HOST:PORT/render-ws/v1; "
    "if it is, report a bug of temwatch"
)
_CLIENT_CERTIFICATE = re.compile(r"No required SSL certificate was sent|The SSL certificate error", re.IGNORECASE)
"""nginx's texts with status 400 if the client certificate is missing or refused."""
_NEEDS_HTTPS = re.compile(r"plain HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL", re.IGNORECASE)
"""Texts of nginx and Apache with status 400 if https is required."""


@dataclass(frozen=True, slots=True)
class Service:
    """Names of a render-ws and of its login, for faults."""

    setting: str = "render.url"
    """Name of the setting of the address."""
    url: str = ""
    """The address, without user and password."""
    section: str = "render"
    """Section of the settings of the login."""
    login: str = ""
    """Description of the login, as in "user 'em' with render.password_file"; empty: none is sent."""

    @property
    def proxy(self) -> str:
        """Description of the server that answers.

        >>> Service(url="https://render.example/em/render-ws/v1").proxy
        'the proxy at https://render.example'
        """
        parts = urlsplit(self.url)
        return f"the proxy at {parts.scheme}://{parts.netloc}" if parts.netloc else "a proxy"

    @property
    def login_hint(self) -> str:
        """Hint for an operator about a refused login."""
        if self.login:
            return f"check {self.login}; a changed file is read again without a restart"
        return f"set {self.section}.username and {self.section}.password_file, or {self.section}.token_file"

    def key(self, name: str) -> str:
        """Return the full name of a setting of the login."""
        return f"{self.section}.{name}"


def foreign_fault(
    subject: str, tried: str, status: int, text: str, service: Service, *, location: str = ""
) -> RenderFault:
    """Return the fault of an error answer that render-ws itself does not give.

    Parameters
    ----------
    location : target of a redirect.
    """
    problem = f"tried to {tried}, and render-ws answered {status}: {text or 'no text'}"
    match status:
        case 401 | 403:
            return _login_fault(subject, tried, status, text, service)
        case 400 if _CLIENT_CERTIFICATE.search(text):
            return _certificate_fault(subject, tried, text, service)
        case 400 if _NEEDS_HTTPS.search(text):
            return NotRender(subject, problem, f"write https:// in {service.setting}")
        case 301 | 302 | 303 | 307 | 308:
            return _redirect_fault(subject, tried, status, service, location)
        case 413:
            hint = "allow at least 20 MB there: client_max_body_size of nginx"
            return UploadTooLarge(subject, f"tried to {tried}, and {service.proxy} refuses its size (413)", hint)
        case 504:
            problem = f"tried to {tried}, and {service.proxy} stopped waiting for render-ws (504)"
            hint = "render-ws may still be working: raise the time limit of the proxy, proxy_read_timeout of nginx"
            return ProxyTimedOut(subject, problem, hint)
        case 502:
            problem = f"tried to {tried}, and {service.proxy} got no answer of render-ws (502)"
            return AnswerLost(subject, problem, "check that render-ws runs behind its proxy")
        case 408 | 429 | 503:
            return RenderUnavailable(subject, problem, "check that render-ws runs and is not overloaded")
        case _ if status > 500:
            return RenderBroken(subject, problem, "read the log of render-ws or of its proxy")
    hint = _HINTS.get(status, "check that {setting} is the address of a render-ws")
    return NotRender(subject, problem, hint.format(setting=service.setting))


_HINTS = {
    400: "a proxy refuses the request: check {setting}, also whether it needs https",
    404: _WRONG_URL,
    405: _WRONG_URL,
    415: "the body was not accepted as JSON: check whether a proxy changes Content-Type",
}


def page_fault(subject: str, tried: str, text: str, service: Service) -> NotRender:
    """Return the fault of a page with the status of a success, such as a login form. render-ws sends no pages."""
    problem = f"tried to {tried}, and {service.proxy} answered with a page, perhaps a login page: {text or 'no text'}"
    return NotRender(subject, problem, f"check that {service.setting} is a render-ws; {service.login_hint}")


def _login_fault(subject: str, tried: str, status: int, text: str, service: Service) -> LoginRefused:
    kind, asks = LoginRefused, "asks for a login"
    if status == 403:
        kind, asks = RequestForbidden, "asks for a login that is allowed to do this"
    problem = f"tried to {tried}, and {service.proxy} {asks} ({status}: {text or 'no text'})"
    return kind(subject, problem, service.login_hint)


def _certificate_fault(subject: str, tried: str, text: str, service: Service) -> LoginRefused:
    problem = f"tried to {tried}, and {service.proxy} asks for a client certificate that it accepts ({text})"
    hint = f"check {service.key('client_certificate_file')}, and until when it is valid"
    return LoginRefused(subject, problem, hint)


def _redirect_fault(subject: str, tried: str, status: int, service: Service, location: str) -> NotRender:
    own, other = urlsplit(service.url), _without_secrets(location)
    problem = f"tried to {tried}, and {service.proxy} redirects to {other or 'nowhere'} ({status})"
    target = urlsplit(other)
    if (target.hostname, target.scheme, own.scheme) == (own.hostname, "https", "http"):
        return NotRender(subject, problem, f"redirects are refused: write https:// in {service.setting}")
    place = "another host" if target.netloc and target.netloc != own.netloc else "another page"
    hint = f"redirects to {place} are refused; if it is a login page, {service.login_hint}"
    return NotRender(subject, problem, f"{hint}; otherwise correct {service.setting}")


def _without_secrets(location: str) -> str:
    """Return scheme, host and path of a redirect. Its user, password and query may contain secrets.

    >>> _without_secrets("https://em:pw@sso.example/login?token=abc")
    'https://sso.example/login'
    """
    try:
        parts = urlsplit(location)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return (f"{parts.scheme}://{host}" if host else "") + parts.path[:200]
