"""The documents made from the settings model: config.example.toml and docs/configuration.md."""

import sys

from daemon.config.settings import Settings
from daemon.config.text import markdown_reference, toml_example

_EXAMPLE_HEAD = """Configuration of temwatch: every key with its meaning. Generated from the settings model.
An environment variable overrides a key, as in TEMWATCH_RENDER__URL or TEMWATCH_WATCH__0__DIRECTORY.
`temwatch check-config` shows the effect of a file, or lists each wrong key."""

_REFERENCE_HEAD = """# Configuration

temwatch reads one TOML file: the file given by `--config`, else by `$TEMWATCH_CONFIG`, else
`/etc/temwatch/config.toml`. Start from `config.example.toml`. `temwatch check-config` shows the effect of a file, or
lists each wrong key. Unknown keys are refused.

An environment variable overrides a key: `TEMWATCH_RENDER__URL` sets `render.url`, and
`TEMWATCH_WATCH__0__DIRECTORY` sets the directory of the first `[[watch]]` in the file. Lists and tables are JSON.

An empty text (`""`) leaves an optional key unset. Paths are absolute. [Which changes need a
restart](operations.md#how-do-i-change-the-configuration) is in operations.md. This page is generated from the settings
model, and a test compares the two."""


def example_toml() -> str:
    """Return the text of config.example.toml."""
    return toml_example(Settings, _EXAMPLE_HEAD)


def reference_markdown() -> str:
    """Return the text of docs/configuration.md."""
    return markdown_reference(Settings, _REFERENCE_HEAD)


if __name__ == "__main__":
    sys.stdout.write(reference_markdown())
