"""The top-level command, whose help lists the commands in groups."""

from collections.abc import Sequence

import click

_NAME_WIDTH = 22
"""Width of the column of names; a longer name has its own line."""


class GroupedCommands(click.Group):
    """A group whose help lists its commands under headings, in the order in which they were added."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # click's own parameters
        self._headings: dict[str, list[str]] = {}

    def add_under(self, heading: str, commands: Sequence[click.Command]) -> None:
        """Add commands below a heading of the help."""
        for command in commands:
            self.add_command(command)
            self._headings.setdefault(heading, []).append(str(command.name))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, group by group."""
        return [name for names in self._headings.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of commands for each heading."""
        for heading, names in self._headings.items():
            rows = [(name, self._summary(ctx, name)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=_NAME_WIDTH)

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=200) if command else ""
