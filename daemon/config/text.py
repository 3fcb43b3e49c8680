"""Render the settings tree as an example file and as a reference page, from the fields' documentation. Pure."""

import json
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from daemon.config.errors import bounds, is_section, section_of
from daemon.config.field_meanings import meaning
from handlers.place import ObjectPlace

Section = tuple[str, bool, type[BaseModel]]
"""Dotted name, whether it is a list of tables, model."""


def example(value: object, *, off: bool = False) -> dict[str, Any]:
    """Return arguments of `Field`: the value in the example file; with `off`, its line is a comment."""
    return {"examples": [value], "json_schema_extra": {"off": True} if off else None}


def sections(root: type[BaseModel], prefix: str = "") -> Iterator[Section]:
    """Yield every section below `root`, in file order."""
    for name, field in root.model_fields.items():
        model = section_of(field)
        if model is None:
            continue
        dotted = f"{prefix}{name}"
        yield dotted, not is_section(field), model
        yield from sections(model, f"{dotted}.")


def plain_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Return the keys of a section that hold values, not sections."""
    return ((name, field) for name, field in model.model_fields.items() if section_of(field) is None)


def toml_example(root: type[BaseModel], head: str) -> str:
    """Return a valid configuration file that shows every key below its meaning."""
    blocks = [_comment(head)]
    for name, repeats, model in sections(root):
        mark = "" if getattr(model, "in_example", True) else "# "
        title = f"[[{name}]]" if repeats else f"[{name}]"
        lines = [_comment(_prose(model.__doc__)), f"{mark}{title}"]
        for key, field in plain_fields(model):
            line = _toml_line(key, field)
            lines += [_comment(_meaning(model, key, field)), line if line.startswith("# ") else f"{mark}{line}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def markdown_reference(root: type[BaseModel], head: str) -> str:
    """Return the reference page: one table per section."""
    blocks = [head]
    for name, repeats, model in sections(root):
        title = f"## `[[{name}]]`" if repeats else f"## `[{name}]`"
        rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for key, field in plain_fields(model):
            cells = (f"`{key}`", type_text(field), _default_text(field), meaning(model, key))
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        blocks.append("\n\n".join([title, _prose(model.__doc__), "\n".join(rows)]))
    return "\n\n".join(blocks) + "\n"


def type_text(field: FieldInfo) -> str:
    """Return the type of a value in words, with its bounds or choices."""
    limits = bounds(field)
    return _type_words(field.annotation) + (f", {limits}" if limits else "")


_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "absolute path",
    ObjectPlace: "address in an object store",
}


def _type_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f'`"{choice}"`' for choice in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f'`"{choice.value}"`' for choice in annotation)
    if origin in {Union, UnionType}:
        return " or ".join(_type_words(each) for each in arguments if each is not type(None))
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)} {_type_words(arguments[0])}s"
    if origin is tuple:
        words = _type_words(arguments[0])
        return f"list of {words}" if words.startswith("`") else f"list of {words}s"
    if arguments and origin is not None and not hasattr(annotation, "__metadata__"):
        return f"table of {_type_words(arguments[-1])}s"
    return _WORDS[arguments[0] if hasattr(annotation, "__metadata__") else annotation]


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "not set" if default is None else f"`{toml_value(default)}`"


def _meaning(model: type[BaseModel], key: str, field: FieldInfo) -> str:
    """Return the comment above a key: its meaning, then its default if the example shows another value."""
    words = meaning(model, key)
    if field.is_required():
        return f"{words} Required."
    default = field.get_default(call_default_factory=True)
    is_documented = default is None or _example_value(field) == default
    return words if is_documented else f"{words} Default: {toml_value(default) if default else 'none'}."


def _example_value(field: FieldInfo) -> object:
    return field.examples[0] if field.examples else field.get_default(call_default_factory=True)


def _toml_line(key: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    off = isinstance(extra, dict) and bool(extra.get("off"))
    return f"{'# ' if off else ''}{key} = {toml_value(_example_value(field))}"


def toml_value(value: object) -> str:
    """Return a value as TOML.

    >>> toml_value(("a", 1, True)), toml_value({"0151": 2.0})
    ('["a", 1, true]', '{ "0151" = 2 }')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(each) for each in value)}]"
    return json.dumps(str(value), ensure_ascii=False)


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def _comment(text: str) -> str:
    return "\n".join(
        f"# {line}" if line else "#" for part in text.split("\n") for line in textwrap.wrap(part, 116) or [""]
    )
