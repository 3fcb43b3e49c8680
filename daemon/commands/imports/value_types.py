"""Types of the import commands' parameters: valid values of flags and JSON files, and how they are parsed."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from handlers.errors import Fault
from handlers.place import ObjectPlace, Place, is_object_address
from handlers.render.names import check_name
from handlers.uris import canonical_extension, uri_to_path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def _path(value: object) -> object:
    """Return the absolute path of a path or a file: URI."""
    return _location(value, Path.absolute)


def _resolved_path(value: object) -> object:
    """Return the absolute path of a path with its symbolic links resolved, or of a file: URI without resolution."""
    return _location(value, Path.resolve)


def _location(value: object, absolute: Callable[[Path], Path]) -> object:
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text:
        raise ValueError("is empty")
    if not _SCHEME.match(text):
        try:
            return absolute(Path(text))
        except (OSError, RuntimeError, ValueError) as error:  # a cycle of links; a zero byte
            raise ValueError(f"{text!r} cannot be resolved: {error}") from None
    try:
        return uri_to_path(text)
    except Fault as fault:
        raise ValueError(f"{fault.problem}: {text} ({fault.hint})") from None


def _output_place(value: object) -> Place:
    return _store_place(value) or _output_directory(_some_path(value))


def _input_place(value: object) -> Place:
    return _store_place(value) or _some_path(_directory(value))


def _store_place(value: object) -> ObjectPlace | None:
    """Return the place of an object-store address; None for other values. Its access comes from the environment."""
    if isinstance(value, ObjectPlace):
        return value
    if not isinstance(value, str) or not is_object_address(value):
        return None
    from daemon.config.store_settings import store_place  # rarely needed imports

    return store_place(value)


def _some_path(value: object) -> Path:
    path = _resolved_path(value)
    if not isinstance(path, Path):
        raise ValueError(f"{value!r} is not a path")  # noqa: TRY004  pydantic collects a ValueError
    return path


def _level_url(value: str) -> str:
    from daemon.config.store_settings import http_url  # as above

    return http_url(value)


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _output_directory(path: Path) -> Path:
    """Return the directory. Raises ValueError if it cannot be created or written; does not create it."""
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise ValueError(f"{existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing} cannot be written by this user")
    return path


def _directory(value: object) -> object:
    """Return the value. Raises ValueError for a path that is not a directory; a URI may exist for render-ws only."""
    if isinstance(value, str | Path) and not _SCHEME.match(str(value)) and not Path(value).is_dir():
        raise ValueError(f"there is no directory {value}")
    return value


def _name(text: str) -> str:
    try:
        check_name("name", text)
    except Fault as fault:
        raise ValueError(f"'{text}' {fault.problem}: {fault.hint}") from None
    return text


def _format(text: str) -> str:
    try:
        return canonical_extension(text)
    except Fault as fault:
        raise ValueError(fault.problem) from None


def split_list(value: object) -> object:
    """Return a list from a list or a string such as `[1, 2]` or `1,2`. The words of a flag are joined to one string."""
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError(f"{value} is not a list") from None
    return [part for part in re.split(r"[,\s]+", value.strip()) if part]


def split_paths(value: object) -> object:
    """Return a list of paths from a list, or from one path."""
    return [value] if isinstance(value, str) else value


def split_pairs(value: object) -> object:
    """Return a list of entries of a path map from words such as `/data=/storage`, or from JSON."""
    words = [value] if isinstance(value, str) else value
    if (
        isinstance(words, list)
        and len(words) == 1
        and isinstance(words[0], str)
        and words[0].lstrip()[:1] in ("[", "{")
    ):
        try:
            words = json.loads(words[0])
        except ValueError:
            raise ValueError(f"{words[0]} is not JSON") from None
    if isinstance(words, dict):
        words = [words]
    return [_pair(word) for word in words] if isinstance(words, list) else words


def _pair(word: object) -> object:
    if not isinstance(word, str):
        return word
    local, equals, render = word.partition("=")
    if not equals:
        raise ValueError(f"{word!r} is not of the form LOCAL=RENDER")
    return {"local": local, "render": render}


def _highest_level(value: object) -> object:
    """Return the highest level from a number or from the list of all levels in any order."""
    if not isinstance(value, list):
        return value
    if sorted(value) != list(range(1, len(value) + 1)):
        raise ValueError(f"{value} has a gap or a duplicate, expected every level from 1")
    return len(value)


def none_if_named(value: object) -> object:
    return None if value in ("", "None", "none", "null") else value


def _log_level(value: object) -> object:
    return (
        {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(value.upper(), value.upper()) if isinstance(value, str) else value
    )


def upper_case(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


_AS_TEXT = WithJsonSchema({"type": "string"})
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_log_level)]
SomePath = Annotated[Path, BeforeValidator(_path)]
ResolvedPath = Annotated[Path, BeforeValidator(_resolved_path)]
ExistingFile = Annotated[ResolvedPath, AfterValidator(_existing_file)]
Directory = Annotated[ResolvedPath, BeforeValidator(_directory)]
OutputPlace = Annotated[Place, PlainValidator(_output_place), PlainSerializer(str), _AS_TEXT]
InputPlace = Annotated[Place, PlainValidator(_input_place), PlainSerializer(str), _AS_TEXT]
LevelUrl = Annotated[str, AfterValidator(_level_url)]
Name = Annotated[str, AfterValidator(_name)]
Z = Annotated[float, Field(allow_inf_nan=False)]
Resolution = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Levels = Annotated[int, Field(ge=1, le=16), BeforeValidator(_highest_level)]
ImageFormat = Annotated[str, AfterValidator(_format)]
