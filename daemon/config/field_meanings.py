"""Meanings of keys: the docstrings below the fields of the settings model.

They are read from the source when a text needs them. pydantic would read the source of every section at each start.
"""

import ast
import functools
import inspect
from collections.abc import Mapping
from itertools import pairwise
from textwrap import dedent

from pydantic import BaseModel


@functools.cache
def meanings(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the docstring of each field that the class itself defines."""
    definition = ast.parse(dedent(inspect.getsource(model))).body[0]
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = inspect.cleandoc(meaning)
    return found


def meaning(model: type[BaseModel], key: str) -> str:
    """Return the docstring of a field as one line; empty if it has none."""
    return " ".join(meanings(model).get(key, "").split())
