"""The settings tree: every key with its type, bounds, default and meaning. Pure; `daemon.config.load` reads files."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.config.alert_settings import AlertSettings
from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.hook_settings import HookSettings, require_distinct_names, require_known_watches
from daemon.config.picture_settings import PictureSettings
from daemon.config.render_settings import RenderSettings
from daemon.config.section import (
    AbsolutePath,
    BasePath,
    HostName,
    Network,
    OptionalPath,
    OptionalText,
    Section,
    Text,
    is_loopback,
    with_empty_sections,
)
from daemon.config.text import example
from daemon.config.watch_settings import WatchSettings
from daemon.config.worker_settings import WorkerSettings

ENVIRONMENT_PREFIX = "TEMWATCH_"


class JournalSettings(Section):
    """The journal: the record of every montage."""

    path: AbsolutePath = Path("/var/lib/temwatch/journal.sqlite")
    """The SQLite file. It belongs on a local disk, outside every watched directory."""
    allow_network: bool = False
    """Whether `path` may be on a network file system. SQLite's locks and shared memory may not work there, so a crash
    can damage the journal. While the file server does not answer, nothing can be recorded."""


class HttpSettings(Section):
    """The daemon's HTTP server: health, metrics, the list of montages."""

    host: Text = "127.0.0.1"
    """Address to listen on. 0.0.0.0 listens on every address of the machine."""
    port: int = Field(8787, ge=0, le=65535)
    """TCP port to listen on. 0: the system chooses a free port, and the log names it."""
    token_file: OptionalPath = Field(None, **example(""))
    """File with a token that every POST must carry as `Authorization: Bearer TOKEN`. Without a token, POST is accepted
    only if `host` is a loopback address of this machine. The token has at least 16 characters. Other users must not be
    able to read the file. Empty: no token."""
    allowed_hosts: tuple[HostName, ...] = Field((), **example([]))
    """Further host names, without a port, that requests may carry, for example behind a proxy. Names of the loopback
    address are always accepted. If `host` is another address, the machine's own name and every IP address are accepted,
    too. Requests under other names are refused: a web page could point its own name to this machine and read answers
    through a browser."""
    base_path: BasePath = Field("", **example(""))
    """Path below which a reverse proxy shows the pages, as in "/temwatch". The daemon accepts requests with and without
    it, so the proxy may remove or keep it. Empty: the pages are at the root."""
    trusted_proxies: tuple[Network, ...] = Field((), **example([]))
    """Addresses or networks of reverse proxies, as in "127.0.0.1" or "10.1.0.0/16". Only their X-Forwarded-Proto and
    X-Forwarded-Host headers and their `user_header` count."""
    user_header: OptionalText = Field(None, **example(""))
    """Header in which a trusted proxy names the person who is logged in, as in "X-Remote-User". The name is recorded
    with every retry, replay, dismissal and verdict. Empty: no name is recorded."""
    backlog_limit_s: float = Field(7200, gt=0)
    """Seconds after which an unfinished montage makes the daemon not ready."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


class LinkSettings(Section):
    """Other programs that the pages link to: addresses with {owner}, {project}, {stack}, {z}, {x}, {y} in them."""

    catmaid: OptionalText = Field(None, **example("https://catmaid/?pid=1&zp={z}&yp={y}&xp={x}", off=True))
    """Address of a section in CATMAID. {x} and {y} stand for the middle of the section in level-0 pixels, {render} for
    the address of render-ws. Not set: no link."""
    neuroglancer: OptionalText = Field(
        None, **example('https://neuroglancer/#!{"layers":[{"type":"image","source":"{source}"}]}', off=True)
    )
    """Address of a stack in Neuroglancer. {source} stands for the data source "render://...". Not set: no link."""

    @field_validator("catmaid", "neuroglancer")
    @classmethod
    def _is_a_web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError(f"{quoted(value)} is not an address that begins with https:// or http://")
        return value


class LogSettings(Section):
    """The log, on standard output."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """"json": one JSON object per line. "console": lines for people. "auto": "console" on a terminal, else "json"."""


class Settings(BaseSettings):
    """All settings. The constructor takes its arguments only; `load_settings` reads the file and the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    render: RenderSettings
    """The render-ws service."""
    journal: JournalSettings = JournalSettings()
    """The record of every montage."""
    http: HttpSettings = HttpSettings()
    """The HTTP server."""
    links: LinkSettings = LinkSettings()
    """Other programs that the pages link to."""
    workers: WorkerSettings = WorkerSettings()
    """The workers that make mipmaps."""
    log: LogSettings = LogSettings()
    """The log."""
    pictures: PictureSettings = PictureSettings()
    """Drawn pictures."""
    alerts: AlertSettings = AlertSettings()
    """Messages to people."""
    watch: tuple[WatchSettings, ...] = Field(min_length=1)
    """Watched directories: at least one table [[watch]]."""
    hook: tuple[HookSettings, ...] = ()
    """Programs that are notified of events: tables [[hook]]."""

    @model_validator(mode="before")
    @classmethod
    def _add_missing_sections(cls, value: Any) -> Any:
        return with_empty_sections(cls, value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the arguments only; `load_settings` merges the sources."""
        return (init_settings,)

    @model_validator(mode="after")
    def _hooks_are_distinct(self) -> Self:
        require_distinct_names(self.hook)
        require_known_watches(self.hook, tuple(watch.name for watch in self.watch))
        return self

    @model_validator(mode="after")
    def _watches_do_not_overlap(self) -> Self:
        for index, watch in enumerate(self.watch):
            for other_index, other in enumerate(self.watch[:index]):
                _require_no_overlap(index, watch, other_index, other)
        return self

    @model_validator(mode="after")
    def _watches_suit_render(self) -> Self:
        paths = self.render.paths
        for index, watch in enumerate(self.watch):
            try:
                watch.set_path_map(paths)
                watch.stacks.require_short_names(self.render.owner, self.render.project)
            except RefusedKeyError as refused:
                raise RefusedKeyError(f"watch[{index}].{refused.key}", refused.problem) from None
        return self

    @model_validator(mode="after")
    def _written_paths_are_outside_watched_directories(self) -> Self:
        written = {
            f"watch[{index}].mipmaps.output_dir": watch.mipmaps.output_dir
            for index, watch in enumerate(self.watch)
            if isinstance(watch.mipmaps.output_dir, Path)
        }
        pictures = {"pictures.directory": self.pictures.directory} if self.pictures.directory else {}
        for key, path in {"journal.path": self.journal.path, **pictures, **written}.items():
            for watch in self.watch:
                if path.is_relative_to(watch.directory):
                    raise RefusedKeyError(
                        key, f"{path} is inside the watched directory {watch.directory}, where nothing may be written"
                    )
        for key, path in written.items():
            for watch in self.watch:
                if watch.directory.is_relative_to(path):
                    raise RefusedKeyError(
                        key, f"{path} contains the watched directory {watch.directory}; choose another directory"
                    )
        return self


def _require_no_overlap(index: int, watch: WatchSettings, other_index: int, other: WatchSettings) -> None:
    if watch.name == other.name:
        raise RefusedKeyError(f"watch[{index}].name", f"{watch.name!r} is already the name of watch[{other_index}]")
    if watch.directory.is_relative_to(other.directory) or other.directory.is_relative_to(watch.directory):
        raise RefusedKeyError(
            f"watch[{index}].directory",
            f"{watch.directory} overlaps {other.directory} of watch[{other_index}]; a metafile belongs to one watch",
        )


def http_url(host: str, port: int) -> str:
    """Return the address of the daemon's HTTP server.

    >>> http_url("127.0.0.1", 8787), http_url("::1", 8787)
    ('http://127.0.0.1:8787', 'http://[::1]:8787')
    """
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"
