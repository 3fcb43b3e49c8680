"""Make a request to the daemon of a command's arguments."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.requests.problems import problems

Request = TypeVar("Request", bound=BaseModel)


def parse_request(
    model: type[Request], values: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})
) -> Request:
    """Return the request with these values.

    Parameters
    ----------
    names : key of the request -> name on the command line, if that is not `--key`.

    Raises
    ------
    NotSelectable
        If values are invalid; the fault has the first problem of each, with its name on the command line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found: dict[str, str] = {}
        for path, problem in problems(error, model):
            key = path.partition(".")[0]
            found.setdefault(names.get(key, f"--{key.replace('_', '-')}"), problem)
        first = next(iter(found))
        texts = [found.pop(first), *(f"{name}: {problem}" for name, problem in found.items())]
        raise NotSelectable(first, "; ".join(texts)) from None
