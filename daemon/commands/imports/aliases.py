"""Base class of the import commands' parameters, which may have several names."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Parameters(BaseModel):
    """Base of all parameters: unknown names are refused."""

    # A command uses one of several models, so the validators of the others need not be built.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, defer_build=True)

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """All names of each parameter with several names, including its own. The first given name has precedence."""

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, values: Any) -> Any:
        return canonical(cls, values)[0] if isinstance(values, Mapping) else values


def canonical(model: type[Parameters], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the values under the parameters' own names, and a warning for each value that another name overrides."""
    result = dict(values)
    warnings: list[str] = []
    for own, names in model.NAMES.items():
        given = {name: result.pop(name) for name in names if name in result}
        names_with_value = [name for name in given if given[name] is not None]
        if given:
            result[own] = given[names_with_value[0]] if names_with_value else None
        for name in names_with_value:
            if given[name] != result[own]:
                counts = f"{names_with_value[0]} is {result[own]!r}"
                warnings.append(f"{name}: {given[name]!r} is ignored, because {counts}")
    return result, warnings
