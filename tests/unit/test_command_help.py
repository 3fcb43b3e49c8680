"""Help texts of the commands: two groups, no truncated text, no line longer than 80 columns."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from daemon.commands.imports.arguments import parse
from daemon.commands.imports.commands import COMMANDS
from daemon.temwatch import temwatch

COLUMNS = 80
GROUPS = ("Daemon:", "One-shot commands, without a daemon:")


def command_lines(command: click.Command = temwatch, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group with a help text of click."""
    if command.add_help_option:
        yield words
    for name, each in getattr(command, "commands", {}).items():
        yield from command_lines(each, (*words, name))


def help_of(*words: str) -> list[str]:
    shown = CliRunner().invoke(temwatch, [*words, "--help"], prog_name="temwatch", terminal_width=COLUMNS)
    assert shown.exit_code == 0, shown.output
    return shown.output.splitlines()


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_every_help_text_fits_80_columns_and_is_not_truncated(words: tuple[str, ...]) -> None:
    lines = help_of(*words)
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert [line for line in lines if line.rstrip().endswith("...") and not line.startswith("Usage:")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_an_import_command_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    with pytest.raises(SystemExit):
        parse(COMMANDS[name].parameters, ["--help"], f"temwatch {name}")
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: temwatch {name} [--NAME VALUE]...")
    assert "--render.host" in shown
    assert [line for line in shown.splitlines() if len(line) > COLUMNS] == []


def test_the_help_lists_every_command_once_in_one_of_two_groups() -> None:
    lines = help_of()
    headings = [line for line in lines if line.endswith(":") and not line.startswith((" ", "Options"))]
    assert headings == list(GROUPS)
    listed = lines[lines.index(GROUPS[0]) :]
    assert {name: sum(line.split()[:1] == [name] for line in listed) for name in temwatch.commands} == dict.fromkeys(
        temwatch.commands, 1
    )


def test_every_option_has_a_help_text() -> None:
    without_help = [
        f"{' '.join(words)} {parameter.opts[0]}"
        for words in command_lines()
        for parameter in _command(words).params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert without_help == []


def _command(words: tuple[str, ...]) -> click.Command:
    command: click.Command = temwatch
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command
