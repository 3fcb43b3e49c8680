"""Error messages of a configuration: one line per key, with its path, the value found and the values allowed. Pure."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from daemon.config.field_meanings import meaning
from handlers.errors import SettingsFault
from handlers.uris import without_userinfo

Location = Sequence[str | int]
"""Keys and list positions from the root of the settings to a value, as in `("watch", 1, "z", "rule")`."""


class ConfigError(SettingsFault):
    """A configuration that cannot be used; its text is one line per problem.

    Parameters
    ----------
    problems : one line for each problem, which starts with the key's path, or with file and line.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("configuration", "\n".join(problems))
        self.args = (problems,)
        self.problems = problems

    def __str__(self) -> str:
        return self.problem


class RefusedKeyError(ValueError):
    """A key that the validator of a whole section refuses.

    Parameters
    ----------
    key : dotted path below the section.
    problem : the value found and the values allowed.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key = key
        self.problem = problem


def key_path(location: Location) -> str:
    """Return the path in the form that an operator writes.

    >>> key_path(("watch", 1, "z", "rule"))
    'watch[1].z.rule'
    """
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def problem_line(error: ErrorDetails, root: type[BaseModel]) -> str:
    """Return the line for one of pydantic's error details about `root`."""
    location = [part for part in error["loc"] if part != "[key]"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, RefusedKeyError):
        return f"{key_path([*location, cause.key])}: {cause.problem}"
    return f"{key_path(location)}: {_problem(error, location, root)}"


def _problem(error: ErrorDetails, location: Location, root: type[BaseModel]) -> str:
    """Return the value found at the location and the values allowed."""
    kind, found, context = error["type"], quoted(error["input"]), error.get("ctx", {})
    field = field_at(root, location)
    match kind:
        case "extra_forbidden":
            return unknown_key(str(location[-1]), known_keys(root, location[:-1]))
        case "missing":
            return f"is required{': ' + _first_sentence(root, location) if field else ''}"
        case "tuple_type" | "model_type" if field is not None and section_of(field) is not None:
            return _brackets(location, error["input"], repeats=kind == "tuple_type")
        case "too_short":
            return "needs at least one entry"
        case "enum" | "literal_error":
            return f"{found} is not one of {', '.join(_choices(context))}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{found} is out of range: {_range(field, kind, context)}"
        case "value_error":
            return str(context["error"])
        case _ if kind in _EXPECTED:
            return f"{found} is not {_EXPECTED[kind]}{_unit(kind, location)}"
        case _:
            return f"{found}: {error['msg']}"


def _brackets(location: Location, value: object, *, repeats: bool) -> str:
    """Return the correct heading for a section that is not a table, or not a list of tables."""
    name = ".".join(part for part in location if isinstance(part, str))
    if repeats and isinstance(value, Mapping) and all(str(key).isdecimal() for key in value):
        return f"the environment sets keys of it, but the file has no [[{name}]]"
    if repeats and isinstance(value, Mapping):
        return f"write [[{name}]] in double brackets above each {name}: there may be several"
    if repeats:
        return f"{quoted(value)} is not a list of tables: write [[{name}]] above each {name}"
    if isinstance(value, list):
        return f"write [{name}] in single brackets: there is only one"
    return f"{quoted(value)} is not a table: write its keys below [{name}]"


_EXPECTED = {
    "string_type": "a text in quotes",
    "string_too_short": "a text: it is empty",
    "string_pattern_mismatch": "made of letters, digits, '.', '_' and '-' only",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "too_long": "a list of the expected length",
    "path_type": "an absolute path in quotes",
}
"""The expected value for each of pydantic's error types."""


_UNITS = {"s": "seconds", "bytes": "bytes", "nm": "nanometres", "megapixels": "megapixels"}
"""The unit of a number, by the last word of its key."""


def _unit(kind: str, location: Location) -> str:
    unit = _UNITS.get(str(location[-1]).rpartition("_")[2]) if kind.startswith(("int_", "float_")) else None
    return f" of {unit}" if unit else ""


def quoted(value: object) -> str:
    """Return a value in Python notation without passwords in URLs, true and false as in TOML, at most 100 characters.

    >>> quoted("gird"), quoted(True)
    ("'gird'", 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    text = without_userinfo(repr(value))
    return text if len(text) <= 100 else text[:97] + "..."


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Return the problem of an unknown key, with the most similar known key or all of them."""
    close = difflib.get_close_matches(key, known, n=1)
    return (
        f"is not a known key; did you mean {close[0]!r}?"
        if close
        else f"is not a known key; known are {', '.join(known)}"
    )


def field_at(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """Return the field at a location; None if there is none, as inside a list of plain values."""
    field: FieldInfo | None = None
    model: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        model = section_of(field) if field else None
    return field


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that holds a section or a list of sections; None for a plain value."""
    pending: list[Any] = [field.annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        pending.extend(getattr(annotation, "__args__", ()))
    return None


def is_section(field: FieldInfo) -> bool:
    """Whether the field holds exactly one section, not a list of sections or a value."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def known_keys(root: type[BaseModel], location: Location) -> tuple[str, ...]:
    """Return the keys of the section at a location."""
    model = _model_at(root, location)
    return tuple(model.model_fields) if model else ()


def _model_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    field = field_at(root, location) if location else None
    return section_of(field) if field else root


def _first_sentence(root: type[BaseModel], location: Location) -> str:
    """Return the first sentence of the meaning of the key at a location."""
    model = _model_at(root, location[:-1])
    text = re.split(r"(?<=[a-z)])[.;] ", meaning(model, str(location[-1])) if model else "")[0].rstrip(".")
    return text[:1].lower() + text[1:] if not text[:2].isupper() else text


def _choices(context: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(context.get("expected", "")))


_BOUNDS = {
    "greater_than": "more than {}",
    "greater_than_equal": "at least {}",
    "less_than": "less than {}",
    "less_than_equal": "at most {}",
}


def _range(field: FieldInfo | None, kind: str, context: Mapping[str, Any]) -> str:
    """Return the bounds of a field in words, or the violated bound if the field itself has none."""
    return (bounds(field) if field else "") or _BOUNDS[kind].format(next(iter(context.values())))


def bounds(field: FieldInfo) -> str:
    """Return the bounds of a field in words; empty if it has none."""
    words = []
    for rule in field.metadata:
        if isinstance(rule, Gt):
            words.append(_BOUNDS["greater_than"].format(rule.gt))
        elif isinstance(rule, Ge):
            words.append(_BOUNDS["greater_than_equal"].format(rule.ge))
        elif isinstance(rule, Lt):
            words.append(_BOUNDS["less_than"].format(rule.lt))
        elif isinstance(rule, Le):
            words.append(_BOUNDS["less_than_equal"].format(rule.le))
    return ", ".join(words)
