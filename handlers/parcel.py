"""Parcels: values that travel between processes."""

import functools
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter


class Parcel:
    """Base of a frozen dataclass with several fields. It is pickled as a call of its class with their values.

    `dataclasses` looks up every field by its name, at both ends, which takes twice as long.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Return the class and the values of the fields, in order."""
        kind: type = type(self)
        return kind, _values(kind)(self)


@functools.cache
def _values(kind: type) -> Callable[[object], tuple[object, ...]]:
    first, second, *others = (field.name for field in fields(kind))
    return attrgetter(first, second, *others)  # of several names: it returns a tuple
