"""Load the settings: TOML, overridden by the environment, overridden by the caller; each wrong key is reported.

Importing this module reads nothing, and neither does `Settings(...)`.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.config.errors import ConfigError, problem_line
from daemon.config.files import file_problems
from daemon.config.settings import ENVIRONMENT_PREFIX, Settings
from daemon.config.sources import merge, name_variable, read_environment, read_toml

DEFAULT_PATH = Path("/etc/temwatch/config.toml")


def config_path(option: Path | None) -> Path:
    """Return the path of the configuration file: the option, else $TEMWATCH_CONFIG, else /etc/temwatch/config.toml."""
    return option or Path(os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or DEFAULT_PATH)


def load_settings(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a file, overridden by the environment, then by `overrides` (nested like the file).

    Also checks the token file and the z tables that the settings name.

    Raises
    ------
    ConfigError
        With a line for each key that cannot be used, or for the line of the file that is not TOML.
    """
    source = config_path(path)
    values = merge(merge(read_toml(source), read_environment()), overrides or {})
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
        # pydantic does not count refused elements of a list, and then reports the list as too short
        if each["type"] != "too_short" or all(
            other is each or other["loc"][: len(location)] != location for other in details
        ):
            yield name_variable(problem_line(each, Settings), location)
