"""Problems of an invalid request. Pure."""

from pydantic import BaseModel, ValidationError


def problems(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return the problems of a request, each with the path of its key, such as `ids.0`."""
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, problem["loc"])) or "body"
        known = ", ".join(field.alias or name for name, field in model.model_fields.items())
        text = f"unknown; the keys are {known}" if problem["type"] == "extra_forbidden" else problem["msg"]
        found.append((place, text.removeprefix("Value error, ")))
    return found
