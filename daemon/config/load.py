"""Loading the settings: TOML, overridden by the environment, overridden by the caller; refused key by key.

Nothing is read at import. `Settings(...)` by itself reads nothing either.
"""

import contextlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from daemon.config.errors import ConfigError, problem_line, unknown_key
from daemon.config.settings import (
    ENVIRONMENT_PREFIX,
    HttpSettings,
    LogSettings,
    MipmapSettings,
    RenderSettings,
    Settings,
    StackSettings,
    TilespecSettings,
    WatchSettings,
    WorkerSettings,
    ZSettings,
)
from daemon.config.text import markdown_reference, toml_example
from daemon.watching.mounts import Mount, read_mounts, remote_mount
from handlers.errors import Fault, SettingsFault
from handlers.regular_file import NotRegular, read_regular
from handlers.text import printable

__all__ = [
    "ConfigError",
    "HttpSettings",
    "LogSettings",
    "MipmapSettings",
    "RenderSettings",
    "Settings",
    "StackSettings",
    "TilespecSettings",
    "WatchSettings",
    "WorkerSettings",
    "ZSettings",
    "config_path",
    "example_toml",
    "load_settings",
    "read_token",
    "reference_markdown",
]

DEFAULT_PATH = Path("/etc/temwatch/config.toml")
_SHORTEST_TOKEN = 16


def config_path(option: Path | None) -> Path:
    """The configuration file: the one given, else $TEMWATCH_CONFIG, else /etc/temwatch/config.toml."""
    return option or Path(os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or DEFAULT_PATH)


def load_settings(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a file, overridden by the environment, overridden by `overrides` (nested as the file is).

    The token and the z tables that settings name are looked at too.

    Raises
    ------
    ConfigError
        Naming every key that cannot be obeyed, or the line of the file that is not TOML.
    """
    source = config_path(path)
    values = _merged(_merged(read_toml(source), read_environment()), overrides or {})
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(tuple(dict.fromkeys(_problem_lines(error)))) from None
    problems_of_files = tuple(file_problems(settings))
    if problems_of_files:
        raise ConfigError(problems_of_files)
    return settings


def _problem_lines(error: ValidationError) -> Iterator[str]:
    details = error.errors()
    for each in details:
        location = each["loc"]
        # pydantic leaves refused elements out of a list's count
        if each["type"] != "too_short" or all(other is each or other["loc"][:1] != location for other in details):
            yield _with_variable(problem_line(each, Settings), location)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or with the line where it stops being TOML.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        hint = f"start from config.example.toml, or name another with --config or {ENVIRONMENT_PREFIX}CONFIG"
        raise ConfigError((f"{path}: there is no such file ({hint})",)) from None
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}",)) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError((f"{path}:{line}: is not UTF-8",)) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((_toml_problem(path, text, str(error)),)) from None


def _toml_problem(path: Path, text: str, message: str) -> str:
    """`file:line:column: what is wrong`, from tomllib's own message.

    >>> _toml_problem(Path("c.toml"), "", "Invalid value (at line 3, column 5)")
    'c.toml:3:5: Invalid value'
    """
    found = re.fullmatch(r"(?s)(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message)
    if found is None:
        return f"{path}: {message}"
    where = f"{found[2]}:{found[3]}" if found[2] else str(len(text.splitlines()) or 1)
    return f"{path}:{where}: {' '.join(found[1].split())}"


def read_environment() -> dict[str, Any]:
    """What the environment sets: TEMWATCH_RENDER__URL sets render.url, TEMWATCH_WATCH__0__DIRECTORY the first watch's.

    Values of lists and tables are JSON. The watches set by number stand in a dict by number.

    Raises
    ------
    ConfigError
        For a variable that names no section, or whose value is not the JSON that its key needs.
    """
    names = [name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX) and "__" in name]
    sections = [name.upper().removeprefix(ENVIRONMENT_PREFIX).split("__")[0].lower() for name in names]
    unknown = {n: s for n, s in zip(names, sections, strict=True) if s not in Settings.model_fields}
    if unknown:
        raise ConfigError(
            tuple(f"{n}: {s!r} {unknown_key(s, tuple(Settings.model_fields))}" for n, s in unknown.items())
        )
    try:
        values = EnvSettingsSource(Settings)()
        if isinstance(values.get("watch"), dict):
            values["watch"] = dict(_numbered_watches(values["watch"]))
    except SettingsError as error:
        raise ConfigError(
            (f"the environment's {ENVIRONMENT_PREFIX}... variables: {error}: lists and tables are JSON",)
        ) from None
    return values


def _numbered_watches(found: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number in found:
        if not number.isdecimal():
            raise ConfigError(
                (f"{ENVIRONMENT_PREFIX}WATCH__{number.upper()}...: a watch is named by its number, from 0",)
            )
        fields = cast("type[BaseSettings]", WatchSettings)  # the source asks a model for its fields alone
        prefix = f"{ENVIRONMENT_PREFIX}WATCH__{number}__"
        yield int(number), EnvSettingsSource(fields, env_prefix=prefix, env_nested_delimiter="__")()


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key, `above` winning; a table with numbers for keys goes into a list's elements."""
    result = dict(below)
    for key, value in above.items():
        present = result.get(key)
        if isinstance(value, Mapping) and isinstance(present, list):
            result[key] = _merged_by_number(present, value)
        elif isinstance(value, Mapping) and isinstance(present, Mapping):
            result[key] = _merged(present, value)
        else:
            result[key] = value
    return result


def _merged_by_number(below: list[Any], above: Mapping[int, Any]) -> list[Any]:
    for number in above:
        if number >= len(below):
            known = f"the file has no watch[{number}]; it has {len(below)}, numbered from 0"
            raise ConfigError((f"{ENVIRONMENT_PREFIX}WATCH__{number}__...: {known}",))
    return [_merged(each, above.get(number, {})) for number, each in enumerate(below)]


def _with_variable(line: str, location: tuple[str | int, ...]) -> str:
    """The line, with the environment variable that set the value where one did."""
    parts = [str(part).upper() for part in location]
    for length in range(len(parts), 0, -1):
        name = ENVIRONMENT_PREFIX + "__".join(parts[:length])
        if name in os.environ:
            return f"{line} (set by {name})"
    return line


# --- what settings name on disk


def file_problems(settings: Settings) -> Iterator[str]:
    """One line for each file that a setting names and that cannot be used."""
    home = None if settings.journal.allow_network else _network_mount(settings.journal.path)
    if home is not None:
        where = f"{settings.journal.path} lies on {home.file_system}, mounted at {printable(home.directory)}"
        hint = "choose a local disk, or set journal.allow_network = true and see docs/operations.md"
        yield f"journal.path: {where}: a database is not safe there, and hangs with its server ({hint})"
    try:
        read_token(settings.http)
    except SettingsFault as fault:
        yield str(fault)
    for index, watch in enumerate(settings.watch):
        try:
            watch.to_z_rule()
        except Fault as fault:
            yield f"watch[{index}].z.table: {fault.problem}" + (f" ({fault.hint})" if fault.hint else "")


def _network_mount(path: Path) -> Mount | None:
    home = remote_mount(os.fspath(path), read_mounts())
    if home is not None and home.file_system == "autofs":  # what it mounts is known once it is asked for
        with contextlib.suppress(OSError):
            path.parent.stat()
        home = remote_mount(os.fspath(path), read_mounts())
    return home


def read_token(http: HttpSettings) -> str | None:
    """The token that a POST must carry; None where no file is named.

    Raises
    ------
    SettingsFault
        If the file cannot be read, is open to other users, or holds no token of 16 characters or more.
    """
    path = http.token_file
    if path is None:
        return None
    try:
        raw, status = read_regular(path, 4097)
    except NotRegular as error:
        raise SettingsFault("http.token_file", str(error)) from None
    except OSError as error:
        raise SettingsFault("http.token_file", f"{path} cannot be read: {error.strerror}") from None
    if status.st_mode & 0o027:
        raise SettingsFault("http.token_file", f"{path} is open to other users", f"chmod 0640 {path}")
    token = raw.decode("ascii", "replace").strip()
    if not _SHORTEST_TOKEN <= len(token) <= 4096 or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsFault(
            "http.token_file", f"{path} holds no token", "put one line there, as from: openssl rand -hex 32"
        )
    return token


# --- texts

_EXAMPLE_HEAD = """The configuration of temwatch, every key with its meaning; made from the settings model.
Each key can be overridden by an environment variable, as in TEMWATCH_RENDER__URL or TEMWATCH_WATCH__0__DIRECTORY.
`temwatch check-config` says what a file means, or what is wrong with it, key by key."""

_REFERENCE_HEAD = """# Configuration

One TOML file: the one given with `--config`, else the one that `$TEMWATCH_CONFIG` names, else
`/etc/temwatch/config.toml`. `config.example.toml` is a whole one to start from; `temwatch check-config` says what a
file means, or what is wrong with it, key by key. Keys that are not listed here are refused.

An environment variable overrides a key: `TEMWATCH_RENDER__URL` sets `render.url`, `TEMWATCH_WATCH__0__DIRECTORY` the
directory of the first `[[watch]]`, in the order of the file. Lists and tables are written as JSON.

An empty text (`""`) leaves a key that need not be set unset. Paths are absolute. This page is made from the settings
model, and a test compares the two."""


def example_toml() -> str:
    """The text of config.example.toml, as `python -m daemon.config.load` prints it."""
    return toml_example(Settings, _EXAMPLE_HEAD)


def reference_markdown() -> str:
    """The text of docs/configuration.md, as `python -m daemon.config.load reference` prints it."""
    return markdown_reference(Settings, _REFERENCE_HEAD)


if __name__ == "__main__":
    sys.stdout.write(reference_markdown() if sys.argv[1:] == ["reference"] else example_toml())
