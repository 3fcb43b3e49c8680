"""Find journal and HTTP address of the daemon of a configuration file, even if the file is invalid."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from daemon.config.errors import ConfigError
from daemon.config.load import config_path, load_settings
from daemon.config.section import Section
from daemon.config.settings import HttpSettings, JournalSettings
from daemon.config.sources import merge, read_environment

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Places:
    """What a command needs to find a running daemon."""

    config: Path
    journal: Path
    http: HttpSettings
    problems: tuple[str, ...] = ()
    """Why the file is invalid, one line each; empty if it is valid."""


def find_places(option: Path | None) -> Places:
    """Return the daemon's places. An invalid file contributes its valid sections; the others have their defaults."""
    path = config_path(option)
    try:
        settings = load_settings(path)
    except ConfigError as error:
        tables = _readable_tables(path)
        journal = _section(JournalSettings, tables.get("journal"))
        return Places(path, journal.path, _section(HttpSettings, tables.get("http")), error.problems)
    return Places(path, settings.journal.path, settings.http)


def _readable_tables(path: Path) -> Mapping[str, Any]:
    """Return the tables [journal] and [http], if they are valid TOML, overridden by the environment."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        text = ""
    tables: dict[str, Any] = {}
    for part in re.split(r"(?m)^(?=\s*\[)", text):  # a mistake in another table does not matter
        try:
            parsed = tomllib.loads(part)
        except tomllib.TOMLDecodeError:
            continue
        tables |= {name: value for name, value in parsed.items() if name in ("journal", "http")}
    try:
        return merge(tables, read_environment())
    except ConfigError:
        return tables


def _section(model: type[S], values: object) -> S:
    if isinstance(values, Mapping):
        known = {key: value for key, value in values.items() if key in model.model_fields}
        for keys in (known, {key: value for key, value in known.items() if key in ("path", "host", "port")}):
            try:
                return model(**keys)
            except ValidationError:
                continue
    return model()
