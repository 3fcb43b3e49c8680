"""The section [[hook]]. Pure."""

from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.section import OptionalPath, OptionalText, Section, Text
from daemon.config.text import example
from daemon.montages.announcements import Kind
from handlers.text import printable
from handlers.uris import without_userinfo

HookName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._:\[\]-]+$")]


class HookSettings(Section):
    """A program that is notified of events; one table for each. docs/hooks.md describes events and receivers."""

    in_example: ClassVar[bool] = False

    name: HookName | None = Field(None, **example("workflow", off=True))
    """Name of the hook in the log, in metrics and for `temwatch notify`: letters, digits, '.', '_', '-' and ':'. A hook
    with a new name begins with the next event. Not set: host and port of `url`, or the file name of
    `command`."""
    on: tuple[Kind, ...] = Field((Kind.MONTAGE_COMPLETE, Kind.MONTAGE_FAILED, Kind.STACK_CLOSED), min_length=1)
    """Events that are delivered."""
    watch: tuple[Text, ...] = Field((), **example([]))
    """Names of the watches whose events are delivered. Empty: all."""
    url: OptionalText = Field(None, repr=False, **example("http://workflow:8000/events"))
    """Address that each event is sent to, by POST as a CloudEvent in JSON. Any answer from 200 to 299 accepts it; a
    redirect is not followed."""
    secret_file: OptionalPath = Field(None, **example(""))
    """File with the secret that signs each request as Standard Webhooks does: base64, with or without "whsec_" before
    it. Other users must not be able to read the file. Empty: requests are not signed."""
    command: tuple[Text, ...] = Field((), **example(["/usr/local/bin/start-point-match"], off=True))
    """Program with its arguments, in place of `url`. It runs once for each event, with the event on standard input;
    exit code 0 accepts the event. The program is an absolute path."""
    timeout_s: float = Field(60, gt=0, le=3600)
    """Seconds that a request, or a run of the program, may take."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, value: str | None) -> str | None:
        if value is None:
            return value
        try:
            parts = urlsplit(value)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address or parts.fragment:
            raise ValueError(f"{quoted(without_userinfo(value))} is not an address such as http://workflow:8000/events")
        return value

    @field_validator("command")
    @classmethod
    def _program_is_a_path(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not value[0].startswith("/"):
            raise ValueError(f"{quoted(value[0])} is not an absolute path")
        if any("\0" in part for part in value):
            raise ValueError("contains a null character")
        return value

    @model_validator(mode="after")
    def _has_one_receiver(self) -> Self:
        if self.url is None and not self.command:
            raise RefusedKeyError("url", "is required, unless `command` is set")
        if self.url is not None and self.command:
            raise RefusedKeyError("command", "is only valid without `url`")
        if self.secret_file is not None and self.url is None:
            raise RefusedKeyError("secret_file", "is only valid with `url`")
        if self.name is None and not self._derived_name():
            raise RefusedKeyError("name", "is required: none follows from the receiver")
        return self

    @property
    def label(self) -> str:
        """The hook's name."""
        return self.name or self._derived_name()

    def _derived_name(self) -> str:
        if self.url is not None:
            return printable(urlsplit(self.url).netloc.rpartition("@")[2])
        return printable(self.command[0].rpartition("/")[2])

    def wants(self, kind: Kind, watch: str) -> bool:
        """Whether an event is delivered to this hook."""
        return kind in self.on and (not self.watch or watch in self.watch)


def require_distinct_names(hooks: tuple[HookSettings, ...]) -> None:
    """Raise RefusedKeyError if two hooks have the same name."""
    for index, hook in enumerate(hooks):
        for other, before in enumerate(hooks[:index]):
            if hook.label == before.label:
                raise RefusedKeyError(f"hook[{index}].name", f"{hook.label!r} is already the name of hook[{other}]")


def require_known_watches(hooks: tuple[HookSettings, ...], watches: tuple[str, ...]) -> None:
    """Raise RefusedKeyError if a hook names a watch that is not configured."""
    for index, hook in enumerate(hooks):
        for name in hook.watch:
            if name not in watches:
                raise RefusedKeyError(f"hook[{index}].watch", f"{name!r} is not the name of a [[watch]]")
