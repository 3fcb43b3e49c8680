"""Values in URLs of render-ws: stack names, z, tile ids, times, the base URL. Checked before any request. Pure."""

import dataclasses
import math
import re
import string
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import quote, unquote_to_bytes, urlsplit

from handlers.errors import RenderRefused, SettingsFault
from handlers.text import excerpt

MAX_NAME_CHARACTERS = 96
"""Limit of owner, project and stack together: render-ws joins them to a collection name of at most 111 characters."""

_NAME = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")
_LETTER_OR_DIGIT = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class StackId:
    """Full name of a stack. The constructor checks it by the rules of render-ws.

    Raises
    ------
    RenderRefused
        If a part is not a legal name, or the three parts together are too long.

    Source: render `CollectionNameUtil.validateValue`, `StackId`.
    """

    owner: str
    project: str
    stack: str

    def __post_init__(self) -> None:
        for kind, name in (("owner", self.owner), ("project", self.project), ("stack", self.stack)):
            check_name(kind, name)
        length = len(self.owner) + len(self.project) + len(self.stack)
        if length > MAX_NAME_CHARACTERS:
            raise RenderRefused(
                str(self),
                f"owner, project and stack have {length} characters together, render-ws allows {MAX_NAME_CHARACTERS}",
                "shorten one of the three names",
            )

    def __str__(self) -> str:
        return f"{self.owner}/{self.project}/{self.stack}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `owner/project/stack`, the form that `str` writes. Raises RenderRefused.

        >>> StackId.parse("em/v1/17797_raw").stack
        '17797_raw'
        """
        parts = text.split("/")
        if len(parts) != 3:
            raise RenderRefused(f"stack '{text}'", "expected a name of the form owner/project/stack")
        return cls(*parts)

    @property
    def path(self) -> str:
        """The stack's part of a URL, after `/v1`."""
        return f"/owner/{self.owner}/project/{self.project}/stack/{self.stack}"


def check_name(kind: str, name: str) -> None:
    """Raise RenderRefused for the name of a stack, project or owner that render-ws would refuse.

    A legal name consists of ASCII letters and digits, with single underscores between them.
    """
    if not _NAME.fullmatch(name):
        raise RenderRefused(
            f"{kind} '{name}'",
            "is not a legal name in render-ws",
            "use letters and digits, joined by single underscores",
        )


def legal_name(text: str) -> str:
    """Return a text with each run of illegal characters replaced by one underscore, which is a legal name.

    Raises RenderRefused if the text has no letter or digit.

    >>> legal_name("AIBS-17797.R1__raw")
    'AIBS_17797_R1_raw'
    """
    name = _NOT_IN_NAMES.sub("_", text).strip("_")
    if not name:
        raise RenderRefused(f"stack name '{text}'", "has no letter or digit", "choose a name with letters or digits")
    return name


def legal_stack_name(template: str, fields: Mapping[str, object]) -> str:
    """Return the legal name that a template gives with the fields of a header.

    Raises
    ------
    SettingsFault
        If the template names an unknown field.
    RenderRefused
        If a field of the template has no value in this header, or a value without a letter or digit.

    >>> legal_stack_name("{specimen_id}_raw", {"specimen_id": "17797-1R"})
    '17797_1R_raw'
    """
    return legal_name("".join(_template_parts(template, fields)))


def template_fields(template: str) -> tuple[str, ...]:
    """Return the header fields that a valid template of a stack name contains.

    >>> template_fields("{specimen_id}_raw")
    ('specimen_id',)
    """
    return tuple(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)


def _template_parts(template: str, fields: Mapping[str, object]) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SettingsFault(
            template, f"is not a template of a stack name: {error}", "write fields as {specimen_id}"
        ) from None
    filled = []
    for literal, field, spec, conversion in parts:
        filled.append(literal)
        if field is None:
            continue
        if field not in fields or spec or conversion:
            known = ", ".join(sorted(fields))
            raise SettingsFault(template, f"names {{{field}}}, which is not a plain field", f"use one of {known}")
        value = fields[field]
        if value is None or not str(value).strip():
            raise RenderRefused(template, f"the metafile's header has no {field}, which the stack's name needs", "")
        if not _LETTER_OR_DIGIT.search(str(value)):
            problem = f"the header's {field} is {excerpt(value)}, which has no letter or digit for the stack's name"
            raise RenderRefused(template, problem, "correct the header, or name stacks by another field")
        filled.append(str(value))
    return filled


def format_z(z: float) -> str:
    """Return z as Java prints a double, the form of render-ws and asap-modules. Raises RenderRefused unless finite.

    >>> format_z(1050), format_z(5.5), format_z(-0.0)
    ('1050.0', '5.5', '0.0')
    """
    value = float(z)
    if not math.isfinite(value):
        raise RenderRefused(f"z {z}", "is not a finite number")
    return repr(value + 0.0)


def tile_segment(tile_id: str) -> str:
    """Return the tile id percent-encoded, as one segment of a URL path.

    Raises RenderRefused for an invalid id: Jetty refuses an encoded slash, and `.` and `..` name directories.

    >>> tile_segment("a;b 1.1050.0")
    'a%3Bb%201.1050.0'
    """
    require_tile_id(tile_id)
    return quote(tile_id, safe="")


def require_tile_id(tile_id: str) -> None:
    """Raise RenderRefused for an id that `tile_segment` would refuse."""
    if tile_id in ("", ".", "..") or "/" in tile_id:
        raise RenderRefused(
            f"tile '{tile_id}'",
            "has an id that is invalid in a URL of render-ws",
            "choose a tile_id template without '/'",
        )


@dataclass(frozen=True, slots=True)
class ZRange:
    """Every z from first to last, both included."""

    first: float
    last: float


def create_timestamp(moment: datetime) -> str:
    """Return a time in UTC with exactly three decimals of a second.

    render-ws reads six decimals as milliseconds, and refuses times without decimals or with `+00:00`.

    >>> create_timestamp(datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC))
    '2024-05-06T07:08:09.123Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Address of a render-ws, with the user and password of its URL kept apart."""

    url: str
    """The URL without user, password and final slash, as in `http://render:8080/render-ws/v1`."""
    authorization: str | None = dataclasses.field(default=None, repr=False)
    """Value of the header Authorization from the URL's user and password; None without these."""

    def __str__(self) -> str:
        return self.url


def checked_base_url(url: str, setting: str = "render.url") -> BaseUrl:
    """Parse the URL of the service, as in `http://render:8080/render-ws/v1` or `http://user:password@render/v1`.

    Raises SettingsFault, which shows no password, if it is not an http or https URL, or has a query.

    >>> str(checked_base_url("http://em:secret@render:8080/render-ws/v1/"))
    'http://render:8080/render-ws/v1'
    """
    try:
        parts = urlsplit(url.strip())
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _invalid_address(url, setting) from None
    # An "@" in the path comes from a password with an unescaped "/".
    if not is_address or parts.query or parts.fragment or "@" in parts.path:
        raise _invalid_address(url, setting)
    userinfo, _, host = parts.netloc.rpartition("@")
    return BaseUrl(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", _authorization(userinfo) if userinfo else None)


def basic(user: bytes, password: bytes) -> str:
    """Return the value of the header Authorization for basic authentication. Source: RFC 7617.

    >>> basic(b"em", b"secret")
    'Basic ZW06c2VjcmV0'
    """
    return "Basic " + b64encode(user + b":" + password).decode()


def _authorization(userinfo: str) -> str:
    """Return the value of the header Authorization for a URL's user and password."""
    user, _, password = userinfo.partition(":")
    return basic(unquote_to_bytes(user), unquote_to_bytes(password))


def _invalid_address(url: str, setting: str) -> SettingsFault:
    hint = (
        "expected the form http://render:8080/render-ws/v1, with %40, %2F, %3F and %23 for @, /, ? and # in a password"
    )
    # Everything before the last "@" may belong to a password.
    shown = re.sub(r"^(\s*[A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1", url, flags=re.DOTALL)
    return SettingsFault(setting, f"'{shown}' is not an address of render-ws", hint)
