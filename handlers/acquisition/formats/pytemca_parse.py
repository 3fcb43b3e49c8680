"""Parsing the bytes of a metafile of pyTEMCA into a `Metafile`.

Values are found by key, not by position: the JSON is a list of objects, in any order and number, or one flat object.
Unknown keys are skipped. Memory and time are bounded for any content by limits of bytes, values, tiles and the length
of each tile.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from pydantic import FailFast, TypeAdapter, ValidationError
from pydantic_core import from_json

from handlers.acquisition.fields import without_nan
from handlers.acquisition.image_names import require_relative
from handlers.acquisition.limits import MAX_METAFILE_BYTES, MAX_TILES, TOO_LARGE_HINT, too_large_fault
from handlers.acquisition.metafile import Header, Metafile, TileRecord
from handlers.errors import MetafileFault, MetafilePartial
from handlers.text import abbreviate, excerpt

MAX_ELEMENTS: Final = 1_000
"""Limit of the objects in the list; real metafiles have fewer than ten."""
MAX_VALUES: Final = 6_000_000
"""Limit of numbers, texts, lists and objects. A tile has 20, or 70 with matches of its neighbours."""
MAX_TILE_BYTES: Final = 256 * 2**10
MAX_HEADER_BYTES: Final = 2**20
"""Limit of the header, and of a shared transform. Real headers have 3 kB."""
_PIECE_BYTES: Final = 2**20
_MAX_PROBLEMS: Final = 4
_T = TypeVar("_T")


def parse_metafile(raw: bytes, subject: str) -> Metafile:
    """Return the metafile in `raw`.

    Parameters
    ----------
    raw : UTF-8 JSON, with or without a byte order mark.
    subject : name of the file, for the faults.

    Raises
    ------
    MetafilePartial
        If it is empty, truncated or otherwise not JSON: it may still be being copied.
    MetafileFault
        If it is too large, or JSON but not a metafile. The fault names the key, as in
        `data[17].img_meta.stage_pos[0]: missing`.
    """
    _require_bounded(raw, subject)
    text = raw.removeprefix(b"\xef\xbb\xbf")
    parts = _merge_elements(_split(text, subject) or _parse_json(text, subject), subject)
    header = _validate(_HEADER, parts["metadata"], "metadata", subject)
    records = _parse_rows(_require_rows(parts["data"], subject), subject)
    for number, tile in enumerate(records):
        require_relative(tile.img_path, f"data[{number}].img_path", subject)
    return Metafile(header, records, without_nan(parts.get("sharedTransform")))


def _require_bounded(raw: bytes, subject: str) -> None:
    """Raise MetafileFault if parsing could take excessive memory or time."""
    if len(raw) > MAX_METAFILE_BYTES:
        raise too_large_fault(subject, len(raw))
    values = 0
    for start in range(0, len(raw), _PIECE_BYTES):  # other threads can run between two pieces
        piece = raw[start : start + _PIECE_BYTES]
        values += piece.count(b",") + piece.count(b"[") + piece.count(b"{")  # each value but the first follows these
        if values > MAX_VALUES:
            raise MetafileFault(subject, f"should have at most {MAX_VALUES:,} values, has more", TOO_LARGE_HINT)


_HEADER: Final = TypeAdapter(Header)
_TILES: Final[TypeAdapter[list[TileRecord]]] = TypeAdapter(Annotated[list[TileRecord], FailFast()])


_ROWS_AT_ONCE: Final = 200


class _Element(msgspec.Struct, rename={"shared_transform": "sharedTransform"}, gc=False):
    """An object of the metafile, its values still as JSON text; msgspec skips other keys."""

    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    shared_transform: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_SPLIT: Final = msgspec.json.Decoder(list[_Element] | _Element)
_SPLIT_ROWS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def _split(raw: bytes, subject: str) -> list[object] | None:
    """Return the elements, each row of `data` still as JSON text; None if `_parse_json` must parse or refuse the text.

    Parsing 20,000 rows in one call would hold the interpreter's lock for 0.1 s.
    """
    try:
        found = _SPLIT.decode(raw)
        elements = found if isinstance(found, list) else [found]
        if len(elements) > MAX_ELEMENTS:
            raise MetafileFault(subject, f"should have at most {MAX_ELEMENTS:,} elements, has {len(elements):,}")
        return [_values(each, subject) for each in elements]
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _values(element: _Element, subject: str) -> dict[str, object]:
    values: dict[str, object] = {}
    if isinstance(element.data, msgspec.Raw):
        values["data"] = _SPLIT_ROWS.decode(element.data)
    for key, text in (("metadata", element.metadata), ("sharedTransform", element.shared_transform)):
        if isinstance(text, msgspec.Raw):
            values[key] = _from_json(_bounded(text, MAX_HEADER_BYTES, key, subject))
    return values


def _bounded(text: msgspec.Raw, max_bytes: int, key: str, subject: str) -> bytes:
    """Return the JSON text of a value. Raises MetafileFault if it is longer than `max_bytes`."""
    content = bytes(text)
    if len(content) > max_bytes:
        raise MetafileFault(subject, f"{key}: should have at most {max_bytes} bytes, has {len(content)}")
    return content


def _from_json(text: bytes) -> Any:
    # NaN and Infinity are not JSON, but Python's json.dump writes them. Required fields refuse them.
    return from_json(text, allow_inf_nan=True, cache_strings="keys")


def _parse_json(raw: bytes, subject: str) -> object:
    if not raw.strip():
        raise MetafilePartial(subject, "is empty", "it may still be being copied")
    if not raw.strip(b"\0"):
        raise MetafilePartial(subject, "holds only zero bytes", "it may still be being copied")
    try:
        return _from_json(raw)
    except ValueError as error:
        problem = str(error)
    if problem.startswith("EOF"):
        raise MetafilePartial(subject, f"is truncated: {problem}", "it may still be being copied")
    if problem.startswith("recursion limit"):
        raise MetafileFault(subject, "is nested too deep for a metafile")
    raise MetafilePartial(subject, f"is not JSON: {problem}", "it may still be being copied")


def _merge_elements(value: object, subject: str) -> dict[str, Any]:
    """Return one object with the keys of all elements, `metadata` and `data` among them."""
    if isinstance(value, dict):
        elements: list[object] = [value]
    elif isinstance(value, list):
        elements = value
    else:
        raise MetafileFault(subject, f"is not a metafile: should be a list or an object, found {excerpt(value)}")
    parts: dict[str, Any] = {}
    for element in elements:
        if isinstance(element, dict):
            _refuse_repeated_key(parts, element, subject)
            parts |= element
    for key in ("metadata", "data"):
        if key not in parts:
            raise MetafileFault(subject, f"{key}: missing", "check that pyTEMCA wrote this file")
    return parts


def _refuse_repeated_key(parts: Mapping[str, Any], element: Mapping[str, Any], subject: str) -> None:
    for key in ("metadata", "data", "sharedTransform"):
        if key in parts and key in element:
            raise MetafileFault(subject, f"{key}: should be in one element, found in two")


def _require_rows(data: object, subject: str) -> list[object]:
    if not isinstance(data, list):
        raise MetafileFault(subject, f"data: should be a list, found {excerpt(data)}")
    if not data:
        raise MetafileFault(
            subject,
            "data: is empty, no tile was recorded",
            "check whether the acquisition was aborted",
        )
    if len(data) > MAX_TILES:
        raise MetafileFault(subject, f"data: should have at most {MAX_TILES:,} tiles, has {len(data):,}")
    return data


def _parse_rows(rows: list[object], subject: str) -> tuple[TileRecord, ...]:
    """Return the rows as tile records. They are parsed in portions, so that other threads can run in between."""
    records: list[TileRecord] = []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        portion_rows = enumerate(rows[first : first + _ROWS_AT_ONCE], first)
        values = [_parse_row(number, row, subject) for number, row in portion_rows]
        portion: list[TileRecord] = _validate(_TILES, values, "data", subject, first)
        records += portion
    return tuple(records)


def _parse_row(number: int, row: object, subject: str) -> object:
    if not isinstance(row, msgspec.Raw):
        return row
    text = _bounded(row, MAX_TILE_BYTES, f"data[{number}]", subject)
    try:
        return _from_json(text)
    except ValueError as error:  # `_split` does not find text that is not UTF-8, nor deep nesting
        raise MetafilePartial(subject, f"is not JSON: {error}", "it may still be being copied") from None


def _validate(adapter: TypeAdapter[_T], value: object, key: str, subject: str, first: int = 0) -> _T:
    """Return the value as a record or a list of records; `first` is the number of the list's first row."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        found = (_explain(value, key, detail, first) for detail in error.errors(include_url=False))
        problems = list(dict.fromkeys(found))
        raise MetafileFault(subject, abbreviate(problems, _MAX_PROBLEMS, "; ")) from None


def _explain(value: object, key: str, detail: Mapping[str, Any], first: int) -> str:
    """Return an error of pydantic as text that names the deepest key that exists."""
    path: tuple[str | int, ...] = ()
    for place in detail["loc"]:
        parent, value = value, _child(value, place)
        step = place + first if isinstance(place, int) and not path else place
        if value is _NOTHING:
            if isinstance(parent, dict | list):
                return f"{_format_path((key, *path, step))}: missing"
            kind = "a list" if isinstance(step, int) else "an object"
            return f"{_format_path((key, *path))}: should be {kind}, found {excerpt(parent)}"
        path = (*path, step)
    message = re.sub("^Value error, |^Input | or an instance of .*", "", detail["msg"])
    message = message.replace("a dictionary", "an object")
    return f"{_format_path((key, *path))}: {message}, found {excerpt(value)}"


_NOTHING: Final = object()


def _child(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step, _NOTHING)
    if isinstance(value, list) and isinstance(step, int):
        return value[step] if step < len(value) else _NOTHING
    return _NOTHING


def _format_path(path: Iterable[str | int]) -> str:
    """Return the path of a value as text.

    >>> _format_path(("data", 17, "img_meta", "stage_pos", 0))
    'data[17].img_meta.stage_pos[0]'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
