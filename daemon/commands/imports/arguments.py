"""Parameters of an import command from a JSON file, from flags, or from both. Flags override the file.

Flags have the form of argschema: `--z_index 1050`, `--render.host em-131fs`, `--close_stack True`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from daemon.commands.imports.parameters import Z_NAMES, CommandParameters, Parameters, canonical
from handlers.uris import without_userinfo

M = TypeVar("M", bound=CommandParameters)

MAX_INPUT_BYTES = 16 * 1024 * 1024


class UsageError(Exception):
    """Invalid input. Each problem is one line that begins with the parameter's name."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parse(model: type[M], arguments: Sequence[str], program: str) -> tuple[M, list[str]]:
    """Parse the arguments. Return the parameters, and a warning for each value that is ignored.

    Raises
    ------
    UsageError
        If a parameter is missing, unknown, or has an invalid value.
    SystemExit
        With 0 after --help or --print_schema.
    """
    flags = _nested(vars(_parser(model, program).parse_args(arguments)))
    values, warnings = _merged(model, _of_file(flags.get("input_json")), flags)
    try:
        parameters = model.model_validate(values)
    except ValidationError as error:
        raise UsageError(*dict.fromkeys(map(_problem, error.errors()))) from None
    except RecursionError:
        raise UsageError("input_json: is nested too deeply") from None
    return parameters, [*warnings, *parameters.warnings]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = without_userinfo(message)
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise UsageError(message.removeprefix("argument ").removeprefix("--"))
        raise UsageError(f"{unknown.removeprefix('--')}: is no parameter; see --help")


class _PrintSchema(argparse.Action):
    """Print the JSON schema of the parameters and exit."""

    def __init__(self, *, model: type[BaseModel], **options: Any) -> None:
        super().__init__(nargs=0, **options)
        self._model = model

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        sys.stdout.write(json.dumps(self._model.model_json_schema(), indent=2) + "\n")
        parser.exit()


def _parser(model: type[CommandParameters], program: str) -> argparse.ArgumentParser:
    summary = (model.__doc__ or "").partition(": ")[2].strip()
    parser = _Parser(
        prog=program, description=summary, allow_abbrev=False, argument_default=argparse.SUPPRESS, add_help=False
    )
    parser.add_argument("-h", "--help", action="help", help="show this text")
    parser.add_argument("--print_schema", action=_PrintSchema, model=model, help="print the parameters' JSON schema")
    for names, info in _flags(model):
        is_list = info.annotation is not None and "list" in str(info.annotation)
        options: dict[str, Any] = {"nargs": "+"} if is_list else {}
        if info.annotation is bool:
            options = {"nargs": "?", "const": "true"}
        parser.add_argument(
            *(f"--{name}" for name in names),
            dest=names[0],
            metavar=_metavar(info),
            help=_help(info).replace("%", "%%"),
            **options,
        )
    return parser


def _flags(model: type[Parameters], prefix: str = "") -> Iterator[tuple[list[str], FieldInfo]]:
    """Yield every parameter with its names, nested ones as `render.host`."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Parameters):
            yield from _flags(kind, f"{prefix}{name}.")
        else:
            aliases = [alias for alias in model.NAMES.get(name, ()) if alias != name]
            yield [f"{prefix}{each}" for each in (name, *aliases)], info


def _metavar(info: FieldInfo) -> str:
    choices = [str(choice) for choice in get_args(info.annotation) if isinstance(choice, str)]
    if choices:
        return "{" + ",".join(choices) + "}"
    return {bool: "BOOL", int: "INT", float: "NUMBER"}.get(info.annotation, "VALUE")  # type: ignore[arg-type]


def _help(info: FieldInfo) -> str:
    if info.is_required():
        return f"{info.description} (required)"
    return info.description or "" if info.default is None else f"{info.description} (default: {info.default})"


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"render.host": 1} as {"render": {"host": 1}}."""
    result: dict[str, Any] = {}
    for name, value in flags.items():
        *parents, last = name.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return result


def _of_file(path: str | None) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UsageError."""
    if path is None:
        return {}
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_INPUT_BYTES + 1)
        if len(content) > MAX_INPUT_BYTES:
            raise UsageError(f"input_json: {path} is longer than {MAX_INPUT_BYTES} bytes")
        values = json.loads(content, object_pairs_hook=_once_each)
    except OSError as error:
        raise UsageError(f"input_json: {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"input_json: {path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"input_json: {path} holds no object, expected the parameters as an object")
    return values


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result and result[key] != value:
            raise ValueError(f"{key} is given twice, as {result[key]!r} and {value!r}")
        result[key] = value
    return result


def _merged(
    model: type[CommandParameters], of_file: Mapping[str, Any], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Override the file's parameters by the flags, under any of their names. Return them, and the warnings."""
    (merged, file_warnings), (given, flag_warnings) = canonical(model, of_file), canonical(model, flags)
    if given.keys() & Z_NAMES:  # a z in a flag overrides every form of z in the file
        merged = {name: value for name, value in merged.items() if name not in Z_NAMES}
    for name, value in given.items():
        both_nested = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both_nested else value
    return merged, file_warnings + flag_warnings


def _problem(error: Mapping[str, Any]) -> str:
    """Return one line about a value that pydantic refused. It begins with the parameter's name."""
    name = ".".join(str(part) for part in error["loc"])
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        text = "is missing"
    elif error["type"] == "extra_forbidden":
        text = "is no parameter; see --help"
    elif error["type"] != "value_error" and name:
        shown = without_userinfo(repr(error["input"]))
        text = f"{shown if len(shown) < 100 else shown[:100] + '...'} is invalid: {text[0].lower()}{text[1:]}"
    return f"{name}: {text}" if name else text
