"""Base class of the sections of the settings, and types of their values. Pure."""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from daemon.config.errors import is_section, quoted
from handlers.errors import Fault

T = TypeVar("T")


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def absolute_path(value: object) -> object:
    """Return a text as an absolute path, other values unchanged. Raises ValueError if it is relative or has '..'."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{quoted(text)} is not an absolute path")
    if ".." in PurePosixPath(text).parts:
        raise ValueError(f"{quoted(text)} contains '..': write the path without it")
    return Path(text)


def _file_name_glob(value: str) -> str:
    if "/" in value:
        raise ValueError(f"{quoted(value)} is not a pattern for a file name: it contains '/'")
    return value


def _base_path(value: str) -> str:
    if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", value):
        raise ValueError(f"{quoted(value)} is not a path such as /temwatch")
    return value.rstrip("/")


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(f"{quoted(value)} is not an address or network such as 127.0.0.1 or 10.1.0.0/16") from None
    return value


def check_with(rule: Callable[..., T], *arguments: object, subject: str = "") -> T:
    """Return the result of a rule. Raises its fault as the ValueError that pydantic collects.

    Parameters
    ----------
    subject : the value, for a rule whose fault does not name it.
    """
    try:
        return rule(*arguments)
    except Fault as fault:
        hint = f" ({fault.hint})" if fault.hint else ""
        raise ValueError(f"{subject} {fault.problem}{hint}".strip()) from None


AbsolutePath = Annotated[Path, BeforeValidator(absolute_path)]
OptionalPath = Annotated[AbsolutePath | None, BeforeValidator(_none_if_empty)]
Text = Annotated[str, StringConstraints(min_length=1)]
OptionalText = Annotated[str | None, BeforeValidator(_none_if_empty)]
BasePath = Annotated[str, AfterValidator(_base_path)]
Network = Annotated[str, AfterValidator(_network)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]
Glob = Annotated[Text, AfterValidator(_file_name_glob)]


def with_empty_sections(model: type[BaseModel], value: Any) -> Any:
    """Add an empty table for each required section that is missing, so that its required keys are reported."""
    if not isinstance(value, dict):
        return value
    absent = [name for name, field in model.model_fields.items() if field.is_required() and is_section(field)]
    return {**{name: {} for name in absent}, **value}


class Section(BaseModel):
    """Base of a section: values do not change, unknown keys are refused."""

    in_example: ClassVar[bool] = True
    """Whether the example file has the section; otherwise each of its lines is a comment there."""
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _add_missing_sections(cls, value: Any) -> Any:
        return with_empty_sections(cls, value)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_true_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Raise an error for `levels = true`, which pydantic would take for 1."""
        if isinstance(value, bool) and (kind := _number_type(cls.model_fields[str(info.field_name)])):
            raise PydanticCustomError(kind, "not a number")
        return value


def _number_type(field: FieldInfo) -> Literal["int_type", "float_type"] | None:
    """Return pydantic's error type for a value that is no number; None if the field accepts other values, too."""
    kinds = {field.annotation, *getattr(field.annotation, "__args__", ())} - {type(None)}
    if not kinds <= {int, float}:
        return None
    return "float_type" if float in kinds else "int_type"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
