"""Types of the values in pyTEMCA's metafile: what each accepts, and whether another type is an error or absent."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AliasPath, Field, GetCoreSchemaHandler, Strict, WrapValidator
from pydantic_core import CoreSchema, core_schema

_MIN_SIZE_NM, _MAX_SIZE_NM = 0.001, 1e6
_MAX_STAGE_NM = 1e9
_MAX_FRAME: Final = 65536
_MAX_INT: Final = 2**31 - 1


class OrAbsent:
    """Marks an optional value: a value of another type counts as absent."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


class _Whole:
    """Marks an integer that may be written as a float without a fraction, as in `256.0`.

    For an integer, no Python function is called: a metafile of 20,000 tiles has 300,000 integers.
    """

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        whole_float = core_schema.no_info_after_validator_function(
            int, core_schema.float_schema(strict=True, multiple_of=1, allow_inf_nan=False)
        )
        choices: list[CoreSchema | tuple[CoreSchema, str]] = [core_schema.int_schema(strict=True), whole_float]
        either = core_schema.union_schema(choices, mode="left_to_right", custom_error_type="int_type")
        return core_schema.chain_schema([either, handler(source)])


class Numeral(str):
    """A text that the metafile contains as a number. Names may spell it differently, as in `001050` for 1050."""

    __slots__ = ()


def _number_to_text(value: object, handler: Callable[[object], str]) -> str:
    """Return text unchanged, and a number as a Numeral of its digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return Numeral(handler(str(value))) if is_number and not isinstance(value, bool) else handler(value)


def without_nan(value: Any) -> Any:
    """Return a value of JSON with null in place of every NaN and Infinity."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _require_printable(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("should be text of printable characters, at least one")
    return text


Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Integer = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63), _Whole()]
Text = Annotated[str, Strict()]
_TextOfAny = Annotated[Text, WrapValidator(_number_to_text)]
FilledText = Annotated[Text, AfterValidator(_require_printable), WrapValidator(_number_to_text)]
Count = Annotated[int, Strict(), Field(ge=0, le=_MAX_INT), _Whole()]
FrameSide = Annotated[int, Strict(), Field(ge=1, le=_MAX_FRAME), _Whole()]
PixelSize = Annotated[Number, Field(ge=_MIN_SIZE_NM, le=_MAX_SIZE_NM)]
StageNm = Annotated[Number, Field(ge=-_MAX_STAGE_NM, le=_MAX_STAGE_NM)]
NumberOrAbsent = Annotated[Number | None, OrAbsent()]
IntegerOrAbsent = Annotated[Integer | None, OrAbsent()]
CountOrAbsent = Annotated[Count | None, OrAbsent()]
FractionOrAbsent = Annotated[Annotated[Number, Field(ge=0, lt=1)] | None, OrAbsent()]
PixelSizeOrAbsent = Annotated[PixelSize | None, OrAbsent()]
TextOrAbsent = Annotated[_TextOfAny | None, OrAbsent()]
FilledTextOrAbsent = Annotated[FilledText | None, OrAbsent()]
ObjectOrAbsent = Annotated[Annotated[dict[str, Any], AfterValidator(without_nan)] | None, OrAbsent()]


def in_image(*path: str | int) -> Any:
    """Return a field whose value is below `img_meta` of a tile."""
    return Field(validation_alias=AliasPath("img_meta", *path))
