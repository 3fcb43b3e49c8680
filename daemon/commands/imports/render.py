"""The parameter `render` of the import commands: address of the service, login, path map."""

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from daemon.commands.imports.aliases import Parameters
from daemon.commands.imports.value_types import Name, SomePath, split_pairs
from handlers.errors import Fault
from handlers.path_map import PathMap
from handlers.render.http.access import Access, read_login
from handlers.render.names import checked_base_url


class PathMapEntry(Parameters):
    """Path of a directory on this machine and its path on render-ws."""

    local: SomePath = Field(description="directory on this machine")
    render: str = Field(description="the same directory as render-ws sees it")


class RenderParameters(Parameters):
    """The render web service."""

    host: str = Field(min_length=1, description="host of render-ws, with or without http://")
    port: int = Field(ge=1, le=65535, description="port of render-ws")
    owner: Name = Field(description="owner of the stacks")
    project: Name = Field(description="project of the stacks")
    client_scripts: str = Field("", description="not used: no Java is started")
    memGB: str = Field("5G", description="not used: no Java is started")  # noqa: N815  its name
    path_map: Annotated[list[PathMapEntry] | None, BeforeValidator(split_pairs)] = Field(
        None, description="LOCAL=RENDER ...: directories that have another path on render-ws"
    )

    username: str = Field("", description="user for basic authentication, with password_file")
    password_file: SomePath | None = Field(None, description="file with the password, closed to other users")
    token_file: SomePath | None = Field(None, description="file with a token, in place of username")
    headers_file: SomePath | None = Field(None, description='file with further headers, one "Name: value" on each line')
    ca_file: SomePath | None = Field(None, description="certificates of trusted authorities, by default the system's")
    client_certificate_file: SomePath | None = Field(None, description="certificate of this client")
    client_key_file: SomePath | None = Field(None, description="key of client_certificate_file")
    use_environment_proxy: bool = Field(False, description="whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY are used")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_environment(cls, values: Any) -> Any:
        return with_environment(values, os.environ) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _has_an_address(self) -> "RenderParameters":
        try:
            address = checked_base_url(self.base_url)
        except Fault as fault:
            raise ValueError(f"render.host: {fault.problem}") from None
        is_https, has_userinfo = address.url.startswith("https:"), address.authorization is not None
        for key, problem in self.access.problems(is_https=is_https, has_userinfo=has_userinfo):
            raise ValueError(f"render.{key}: {problem}")
        try:
            read_login(self.access)
        except Fault as fault:
            raise ValueError(str(fault)) from None
        return self

    @property
    def access(self) -> Access:
        """Login, TLS and proxy."""
        return Access(**{name: getattr(self, name) for name in ACCESS_KEYS})

    @model_validator(mode="after")
    def _has_a_clear_path_map(self) -> "RenderParameters":
        try:
            self.paths  # noqa: B018  raises
        except Fault as fault:
            raise ValueError(f"render.path_map: {fault.problem} ({fault.hint})") from None
        return self

    @property
    def paths(self) -> PathMap:
        """The path map."""
        return PathMap.of((entry.local, entry.render) for entry in self.path_map or ())

    @property
    def base_url(self) -> str:
        """Address of the service."""
        return service_url(self.host, self.port)


ACCESS_KEYS = tuple(each.name for each in fields(Access) if each.name != "section")
_LOGIN_KEYS = ("username", "password_file", "token_file")


def with_environment(render: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters; missing ones of the access come from variables such as TEMWATCH_RENDER__PASSWORD_FILE.

    If the parameters contain a login, in keys or in the host, the whole login of the environment is ignored.

    >>> with_environment({"host": "r"}, {"TEMWATCH_RENDER__CA_FILE": "/ca", "TEMWATCH_RENDER__URL": "http://x"})
    {'host': 'r', 'ca_file': '/ca'}
    """
    has_login = "@" in str(render.get("host")) or any(render.get(key) for key in _LOGIN_KEYS)
    missing = [key for key in ACCESS_KEYS if render.get(key) is None and not (has_login and key in _LOGIN_KEYS)]
    found = {key: environment.get(f"TEMWATCH_RENDER__{key.upper()}") for key in missing}
    return {**render, **{key: value for key, value in found.items() if value}}


def service_url(host: str, port: int) -> str:
    """Return the address of render-ws for a host as in asap-modules, which may contain scheme, login and sub-path.

    >>> service_url("em-131fs", 8080), service_url("::1", 8080)
    ('http://em-131fs:8080/render-ws/v1', 'http://[::1]:8080/render-ws/v1')
    >>> service_url("https://em:pw@render.facility/em/", 443)
    'https://em:pw@render.facility:443/em/render-ws/v1'
    """
    scheme, _, rest = host.strip().partition("://") if "://" in host else ("http", "", host.strip())
    authority, _, path = rest.partition("/")
    userinfo, at, name = authority.rpartition("@")
    if name.count(":") > 1 and not name.startswith("["):  # an IPv6 address
        name = f"[{name}]"
    if name.rpartition("]")[2].count(":") == 1:
        name = name.removesuffix(f":{port}")
    parts = [f"{scheme}://{userinfo}{at}{name}:{port}", path.strip("/").removesuffix("render-ws/v1").rstrip("/")]
    return "/".join([*filter(None, parts), "render-ws/v1"])
