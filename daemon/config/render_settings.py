"""The section [render]: the render-ws service, its login, and its paths of this machine's directories. Pure."""

from dataclasses import fields
from typing import ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.section import AbsolutePath, OptionalPath, Section, Text, check_with, is_loopback
from daemon.config.text import example
from handlers.path_map import PathMap
from handlers.render.http.access import Access
from handlers.render.names import check_name, checked_base_url

EMBEDDED = "embedded"
"""Value of `render.url` that stands for the built-in stand-in."""


class PathMapEntry(Section):
    """Path of a directory on this machine and its path on render-ws; one table for each. The longest match applies."""

    in_example: ClassVar[bool] = False

    local: AbsolutePath = Field(**example("/data/temca2"))
    """Directory on this machine. A path below no entry is the same on both sides."""
    render: Text = Field(**example("/long_term_storage/temca2"))
    """The same directory as render-ws sees it: "/long_term_storage/temca2", or on Windows 'Z:\\temca2' or
    '\\\\server\\share\\temca2'."""


class RenderSettings(Section):
    """The render-ws service that receives the tile specs."""

    url: Text = Field(repr=False, **example("http://render:8080/render-ws/v1"))
    """Address of the service, up to and including its version. "embedded" runs the built-in stand-in, for a trial. A
    user and password in the address, as in "http://user:password@render/render-ws/v1", are sent to the server and are
    never displayed."""
    owner: Text = Field(**example("em"))
    """Owner of the stacks in render-ws. Letters and digits, joined by single underscores."""
    project: Text = Field(**example("v1"))
    """Project of the stacks in render-ws. Letters and digits, joined by single underscores."""
    username: str = ""
    """User for basic authentication at render-ws, or at the proxy in front of it. Required with `password_file`."""
    password_file: OptionalPath = Field(None, **example(""))
    """File with the password of `username`, on one line. Other users must not be able to read this file. It is read
    again when the login is refused, so that a password can be changed without a restart. Empty: no password."""
    token_file: OptionalPath = Field(None, **example(""))
    """File with a token that is sent as `Authorization: Bearer TOKEN`, in place of `username`. As `password_file`, it
    must be closed to others, and is read again when the login is refused. Empty: no token."""
    headers_file: OptionalPath = Field(None, **example(""))
    """File with further headers of each request, one "Name: value" on each line; a line that begins with # is a
    comment. As `password_file`, it must be closed to others, and is read again when the login is refused. Empty:
    none."""
    ca_file: OptionalPath = Field(None, **example(""))
    """PEM file with the certificates of the authorities to trust for an https address, in place of the system's. Empty:
    the system's."""
    client_certificate_file: OptionalPath = Field(None, **example(""))
    """PEM file with the certificate by which temwatch identifies itself to an https server. Empty: none."""
    client_key_file: OptionalPath = Field(None, **example(""))
    """PEM file with the key of `client_certificate_file`, without a passphrase. Other users must not be able to read
    this file. Empty: the key is in the file of the certificate."""
    use_environment_proxy: bool = False
    """Whether render-ws is reached through the proxy that the environment variables HTTP_PROXY and HTTPS_PROXY name,
    unless NO_PROXY names its host."""
    clear_image_cache: bool = True
    """Whether temwatch asks render-ws to clear its image cache after existing mipmap files were rewritten. render-ws
    caches images by URL and would show the old pixels. After a clear it reads all images again."""
    path_map: tuple[PathMapEntry, ...] = ()
    """Paths of this machine's directories as render-ws sees them."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, value: str) -> str:
        if value == EMBEDDED:
            return value
        check_with(checked_base_url, value)
        return value.strip().rstrip("/")

    @field_validator("owner", "project")
    @classmethod
    def _name_is_legal(cls, value: str) -> str:
        check_with(check_name, "name", value, subject=quoted(value))
        return value

    @model_validator(mode="after")
    def _access_is_consistent(self) -> Self:
        if not self.embedded:
            address = checked_base_url(self.url)
            is_https, has_userinfo = address.url.startswith("https:"), address.authorization is not None
            for key, problem in self.access.problems(is_https=is_https, has_userinfo=has_userinfo):
                raise RefusedKeyError(key, problem)
        return self

    @property
    def access(self) -> Access:
        """Login and TLS; empty for the built-in stand-in."""
        if self.embedded:
            return Access()
        return Access(**{each.name: getattr(self, each.name) for each in fields(Access) if each.name != "section"})

    @field_validator("path_map")
    @classmethod
    def _paths_are_clear(cls, value: tuple[PathMapEntry, ...]) -> tuple[PathMapEntry, ...]:
        check_with(_path_map, value)
        return value

    @property
    def paths(self) -> PathMap:
        """The path map."""
        return _path_map(self.path_map)

    @property
    def sends_login_in_clear(self) -> bool:
        """Whether a login is sent to another machine without TLS."""
        address = urlsplit(checked_base_url(self.url).url)
        has_login = self.access.login or self.headers_file or checked_base_url(self.url).authorization
        return address.scheme == "http" and bool(has_login) and not is_loopback(address.hostname or "")

    @property
    def embedded(self) -> bool:
        """Whether the built-in stand-in takes the place of a service."""
        return self.url == EMBEDDED

    @property
    def public_url(self) -> str:
        """The address without user and password."""
        return self.url if self.embedded else checked_base_url(self.url).url


def _path_map(entries: tuple[PathMapEntry, ...]) -> PathMap:
    return PathMap.of((entry.local, entry.render) for entry in entries)
