"""Sources of the settings: a TOML file and the environment, read as tables and merged."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from daemon.config.errors import ConfigError, unknown_key
from daemon.config.settings import ENVIRONMENT_PREFIX, Settings
from daemon.config.toml_problem import toml_problem
from daemon.config.watch_settings import WatchSettings


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or is not TOML; then the text names the line.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        hint = f"copy config.example.toml there, or name another file by --config or {ENVIRONMENT_PREFIX}CONFIG"
        raise ConfigError((f"{path}: no such file ({hint})",)) from None
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
        raise ConfigError((toml_problem(path, text, str(error)),)) from None


def read_environment() -> dict[str, Any]:
    """Return the settings of the environment, as in TEMWATCH_RENDER__URL or TEMWATCH_WATCH__0__DIRECTORY.

    Lists and tables are JSON. Watches are a dict from their number to their keys.

    Raises
    ------
    ConfigError
        If a variable names no section, or its value is not JSON where JSON is needed.
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
            (f"environment variables {ENVIRONMENT_PREFIX}...: {error}: lists and tables must be JSON",)
        ) from None
    return values


def _numbered_watches(found: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number in found:
        if not number.isdecimal():
            raise ConfigError(
                (f"{ENVIRONMENT_PREFIX}WATCH__{number.upper()}...: expected the number of a watch, from 0",)
            )
        fields = cast("type[BaseSettings]", WatchSettings)  # the source uses the fields of a model only
        prefix = f"{ENVIRONMENT_PREFIX}WATCH__{number}__"
        yield int(number), EnvSettingsSource(fields, env_prefix=prefix, env_nested_delimiter="__")()


def merge(below: Mapping[str, Any], above: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Merge tables key by key; `above` wins. A table with numbers as keys is merged into the elements of a list.

    Parameters
    ----------
    prefix : of the keys, dotted, for messages.
    """
    result = dict(below)
    for key, value in above.items():
        present = result.get(key)
        if isinstance(value, Mapping) and isinstance(present, list):
            result[key] = _merge_by_number(present, value, f"{prefix}{key}")
        elif isinstance(value, Mapping) and isinstance(present, Mapping):
            result[key] = merge(present, value, f"{prefix}{key}.")
        else:
            result[key] = value
    return result


def _merge_by_number(below: list[Any], above: Mapping[Any, Any], name: str) -> list[Any]:
    result = list(below)
    for number, values in above.items():
        variable = f"{ENVIRONMENT_PREFIX}{name}__{number}__".upper().replace(".", "__")
        if not str(number).isdecimal():
            raise ConfigError((f"{variable}...: expected a number of [[{name}]], from 0",))
        if int(number) >= len(below):
            known = f"there is no {name}[{number}]; [[{name}]] in the file: {len(below)}, numbered from 0"
            raise ConfigError((f"{variable}...: {known}",))
        present = below[int(number)]
        are_tables = isinstance(present, Mapping) and isinstance(values, Mapping)
        result[int(number)] = merge(present, values, f"{name}.") if are_tables else values
    return result


def name_variable(line: str, location: tuple[str | int, ...]) -> str:
    """Return the line, with the name of the environment variable that set the value, if one did."""
    parts = [str(part).upper() for part in location]
    for length in range(len(parts), 0, -1):
        name = ENVIRONMENT_PREFIX + "__".join(parts[:length])
        if name in os.environ:
            return f"{line} (set by {name})"
    return line
