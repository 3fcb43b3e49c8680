"""Login, TLS and proxy for render-ws: the settings, and reading the files that they name.

docs/decisions/render-access.md gives the reasons.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from handlers.errors import SettingsFault
from handlers.identity import FileIdentity
from handlers.render.names import basic
from handlers.secret_file import read_named, read_secret, read_secret_line

_FILES = ("password_file", "token_file", "headers_file", "ca_file", "client_certificate_file", "client_key_file")
_FOR_TLS = ("ca_file", "client_certificate_file", "client_key_file")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"trailer", "transfer-encoding", "upgrade", "user-agent"}
)
"""Headers that the client sets, or that change how a request is framed."""

Stamps = tuple[FileIdentity | None, ...]
"""Identities of the files of an `Access`; None for a file that cannot be accessed."""


@dataclass(frozen=True, slots=True)
class Access:
    """Login and TLS for render-ws or the proxy in front of it. Contains names of files, and no secret.

    Parameters
    ----------
    username, password_file : for HTTP basic authentication.
    token_file : file with the token for `Authorization: Bearer`.
    headers_file : file with further headers, one "Name: value" per line.
    ca_file : certificates of the authorities to trust, instead of the system's.
    client_certificate_file, client_key_file : in PEM; the key may be in the certificate's file.
    use_environment_proxy : whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY are used.
    section : section of these settings, for faults.
    """

    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    headers_file: Path | None = None
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    use_environment_proxy: bool = False
    section: str = "render"

    def problems(self, *, is_https: bool, has_userinfo: bool) -> Iterator[tuple[str, str]]:
        """Yield key and problem of each setting that contradicts another one.

        Parameters
        ----------
        is_https : whether the address of render-ws begins with https.
        has_userinfo : whether that address contains a user and password.
        """
        if self.username and not self.password_file:
            yield "password_file", "is required with username"
        if self.password_file and not self.username:
            yield "username", "is required with password_file"
        if ":" in self.username or not self.username.isprintable():
            yield "username", "contains a colon or an unprintable character"
        if self.token_file and self.username:
            yield "token_file", "excludes username: give one login"
        if has_userinfo and (self.username or self.token_file):
            yield "username" if self.username else "token_file", "excludes a user in the address: give one login"
        if self.client_key_file and not self.client_certificate_file:
            yield "client_certificate_file", "is required with client_key_file"
        for key in _FOR_TLS:
            if getattr(self, key) and not is_https:
                yield key, "is only valid with an address that begins with https://"

    @property
    def login(self) -> str:
        """Description of the login that is sent, for faults; empty if there is none."""
        if self.username:
            return f"user '{self.username}' with {self.section}.password_file"
        return f"the token of {self.section}.token_file" if self.token_file else ""

    def key(self, name: str) -> str:
        """Return the full name of a setting.

        >>> Access().key("ca_file")
        'render.ca_file'
        """
        return f"{self.section}.{name}"

    def stamps(self) -> Stamps:
        """Return the identities of all files. Blocking."""
        return tuple(_stamp(path) for path in self._files())

    def _files(self) -> Iterator[Path]:
        return (path for name in _FILES if (path := getattr(self, name)) is not None)


NO_LOGIN = Access()


@dataclass(frozen=True, slots=True)
class Login:
    """Content of the files of an `Access`."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None
    """None: the client's default."""
    stamps: Stamps = ()
    """Identities of the files before they were read."""


def read_login(access: Access, authorization: str | None = None) -> Login:
    """Read the files. Blocking.

    Parameters
    ----------
    authorization : value of the header Authorization from the address of render-ws.

    Raises
    ------
    SettingsFault
        If a file cannot be read or has invalid content, or if a file with a secret is open to other users. The text
        names the setting and shows no content.
    """
    stamps = access.stamps()
    headers = _further_headers(access)
    login = _authorization(access) or authorization
    if login and any(name.lower() == "authorization" for name in headers):
        raise SettingsFault(access.key("headers_file"), "holds Authorization, and there is another login already")
    if login:
        headers["Authorization"] = login
    return Login(headers, _tls(access), stamps)


def _authorization(access: Access) -> str | None:
    if access.username and access.password_file:
        password = read_secret_line(access.password_file, access.key("password_file"), "password")
        return basic(access.username.encode(), password.encode())
    if access.token_file:
        setting = access.key("token_file")
        token = read_secret_line(access.token_file, setting, "token").strip()
        if not token.isascii() or " " in token:
            raise SettingsFault(setting, f"{access.token_file} holds no token: it has spaces or other characters")
        return f"Bearer {token}"
    return None


def _further_headers(access: Access) -> dict[str, str]:
    """Return the headers of the file. Faults give line numbers and no text, since a line may contain a secret."""
    if access.headers_file is None:
        return {}
    setting, headers = access.key("headers_file"), dict[str, str]()
    for number, line in enumerate(read_secret(access.headers_file, setting).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not _HEADER_NAME.fullmatch(name) or not value.strip().isprintable() or not value.isascii():
            raise SettingsFault(setting, f"{access.headers_file}:{number}: is not a header", 'write "Name: value"')
        if name.lower() in _OWN_HEADERS or name.lower() in map(str.lower, headers):
            problem = f"{access.headers_file}:{number}: {name} is set by temwatch, or given twice"
            raise SettingsFault(setting, problem, "remove the line")
        headers[name] = value.strip()
    return headers


def _tls(access: Access) -> ssl.SSLContext | None:
    if access.ca_file is None and access.client_certificate_file is None:
        return None
    context = ssl.create_default_context(cadata=_authorities(access))
    if access.client_certificate_file is not None:
        _load_client_certificate(context, access.client_certificate_file, access)
    return context


def _authorities(access: Access) -> str | None:
    if access.ca_file is None:
        return None
    setting = access.key("ca_file")
    content, _ = read_named(access.ca_file, setting)
    text = content.decode("ascii", "replace")
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        problem = f"{access.ca_file} holds no certificate"
        raise SettingsFault(setting, problem, "write the authority's certificate there, in PEM") from None
    return text


def _load_client_certificate(context: ssl.SSLContext, certificate: Path, access: Access) -> None:
    """Load certificate and key. The file with the key must be closed to other users."""
    setting = access.key("client_certificate_file")
    key, key_setting = certificate, setting
    if access.client_key_file is not None:
        key, key_setting = access.client_key_file, access.key("client_key_file")
    read_secret(key, key_setting)
    read_named(certificate, setting)
    try:
        context.load_cert_chain(certificate, access.client_key_file, password=_refuse_to_ask)
    except (OSError, ValueError) as error:  # ssl.SSLError among them
        reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        problem = f"{certificate} and {key} hold no certificate with its key: {reason}"
        raise SettingsFault(setting, problem, "write both in PEM, the key without a passphrase") from None


def _refuse_to_ask() -> str:
    """Refuse a key with a passphrase: OpenSSL would ask for it on the terminal, also in a service."""
    raise ValueError("the key has a passphrase")


def _stamp(path: Path) -> FileIdentity | None:
    try:
        return FileIdentity.of(path.stat())
    except OSError:
        return None
