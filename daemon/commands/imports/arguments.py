"""Parse the parameters of an import command from a JSON file and flags. Flags override the file.

Flags have the form of argschema: `--z_index 1050`, `--render.host em-131fs`, `--close_stack True`.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from daemon.commands.imports.aliases import Parameters, canonical
from daemon.commands.imports.parameters import (
    Z_MISSING,
    Z_NAMES,
    Z_NAMES_OF,
    CommandParameters,
    LayerParameters,
)
from handlers.uris import without_userinfo

M = TypeVar("M", bound=CommandParameters)

MAX_INPUT_BYTES = 16 * 1024 * 1024


class UsageError(Exception):
    """Invalid input. Each problem is one line that begins with the parameter's name in the form that the user gave."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parse(model: type[M], arguments: Sequence[str], program: str) -> tuple[M, list[str]]:
    """Return the parameters, and a warning for each ignored value.

    Raises
    ------
    UsageError
        If a parameter is missing, unknown or invalid. Its problems list all of them.
    SystemExit
        With 0 after --help or --print_schema.
    """
    known, unknown = _parser(model, program).parse_known_args(arguments)
    flags = _nested(vars(known))
    of_file = _of_file(flags.get("input_json"))
    values, warnings = _merged(model, of_file, flags)
    names = _WrittenNames(model, arguments, of_file)
    problems = [*_unknown_flags(model, unknown)]
    try:
        parameters = model.model_validate(values)
    except ValidationError as error:
        problems += [names.problem(each) for each in error.errors()]
        if issubclass(model, LayerParameters) and not any(values.get(name) is not None for name in Z_NAMES_OF):
            problems.append(names.replaced(Z_MISSING))
    except RecursionError:
        problems.append("input_json: is nested too deeply")
    if problems:
        raise UsageError(*dict.fromkeys(problems))
    return parameters, [*warnings, *parameters.warnings]


class _WrittenNames:
    """Names of parameters in the form that the user gave: a flag with its dashes, or a key of the file."""

    def __init__(self, model: type[CommandParameters], arguments: Sequence[str], of_file: Mapping[str, Any]) -> None:
        self._model = model
        self._written: dict[str, str] = {}
        self._default = "" if of_file else "--"
        own_names = {name: names[0] for names, _ in _flags(model) for name in names}
        for key in _dotted(of_file):
            self._written.setdefault(own_names.get(key, key), key)
        for own, names in model.NAMES.items():
            given = [name for name in names if of_file.get(name) is not None]
            self._written |= {own: given[0]} if given else {}
        for argument in arguments:
            name = argument.removeprefix("--").partition("=")[0]
            if argument.startswith("--") and name in own_names:
                self._written[own_names[name]] = f"--{name}"

    def of(self, own: str) -> str:
        """Return the given name; the parameter's own name if it was not given."""
        return self._written.get(own, self._default + own)

    def replaced(self, text: str) -> str:
        """Replace the parameters' own names at the start of a text by the given names."""
        names, colon, rest = text.partition(": ")
        return ", ".join(self.of(name) for name in names.split(", ")) + colon + rest

    def problem(self, error: Mapping[str, Any]) -> str:
        """Return one line for an error of pydantic. It begins with the parameter's name."""
        where = [str(part) for part in error["loc"]]
        text = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "value_error" and (not where or where == ["render"]):
            return self.replaced(text)
        name = ".".join(where)
        shown = (
            self.of(name) if name in self._written else self.of(where[0]) + "".join(f".{part}" for part in where[1:])
        )
        if error["type"] == "missing":
            text = "is missing"
        elif error["type"] == "extra_forbidden":
            text = f"unknown parameter, {_suggestion(self._model, name)}"
        elif error["type"] != "value_error":
            value = without_userinfo(repr(error["input"]))
            text = f"{value if len(value) < 100 else value[:100] + '...'} is invalid: {text[0].lower()}{text[1:]}"
        return f"{shown}: {text}"


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys of nested objects as `render.host`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _unknown_flags(model: type[CommandParameters], unknown: Sequence[str]) -> Iterator[str]:
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    for flag in flags:
        yield f"{flag}: unknown parameter, {_suggestion(model, flag, '--')}"
    if not flags and unknown:
        yield f"{unknown[0]}: is not a flag, see --help"


def _suggestion(model: type[CommandParameters], name: str, dashes: str = "") -> str:
    known = {each.lower(): each for names, _ in _flags(model) for each in names}
    similar = difflib.get_close_matches(name.removeprefix(dashes).lower(), known, n=1, cutoff=0.7)
    return f"did you mean {dashes}{known[similar[0]]}?" if similar else "see --help"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(without_userinfo(message).removeprefix("argument "))


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
    summary = summary[:1].upper() + summary[1:]
    parser = _Parser(
        prog=program,
        usage="%(prog)s [--NAME VALUE]...",  # the list of all names is below it
        description=summary,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
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
    return info.description or "" if info.default in (None, "") else f"{info.description} (default: {info.default})"


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
        raise UsageError(f"input_json: {path} is not a JSON object, expected an object with the parameters")
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
    """Return the file's parameters overridden by the flags, under any of their names, and the warnings."""
    (merged, file_warnings), (given, flag_warnings) = canonical(model, of_file), canonical(model, flags)
    merged.setdefault("render", {})  # so that each of its missing parts is reported
    if given.keys() & Z_NAMES:  # a z in a flag overrides every form of z in the file
        merged = {name: value for name, value in merged.items() if name not in Z_NAMES}
    for name, value in given.items():
        both_nested = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both_nested else value
    return merged, file_warnings + flag_warnings
