"""Store the stacks of the stand-in. Pure.

Rules, texts and status codes are those of render-ws (saalfeldlab/render 4.0): stack states, replacement by tileId,
and statistics and section data that only COMPLETE derives. Two surprising rules are from render-ws: a POST drops the
previous version's values, and the end of a derivation restores the metadata from its start.
"""

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.simulator.standin.json_types import (
    Json,
    Refusal,
    timestamp,
)

MAX_NAME_CHARACTERS = 96
"""Largest total length of owner, project and stack."""
_LEGAL_NAME = re.compile(r"[a-zA-Z0-9]+(_[a-zA-Z0-9]+)*")


class State(StrEnum):
    """States of a stack."""

    LOADING = "LOADING"
    COMPLETE = "COMPLETE"
    READ_ONLY = "READ_ONLY"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, slots=True, order=True)
class StackKey:
    """Full name of a stack. Raises Refusal for a name that render-ws refuses."""

    owner: str
    project: str
    stack: str

    def __post_init__(self) -> None:
        for kind, name in (("owner", self.owner), ("project", self.project), ("stack", self.stack)):
            if not _LEGAL_NAME.fullmatch(name):
                raise Refusal(
                    400,
                    f"invalid {kind} '{name}' specified, names may only contain alphanumeric or underscore '_' "
                    "characters and may not contain consecutive underscores '_'",
                )
        if len(self.owner) + len(self.project) + len(self.stack) > MAX_NAME_CHARACTERS:
            raise Refusal(400, f"collection name '{self.collection}transform' must be less than 111 characters")

    @property
    def collection(self) -> str:
        """Prefix of the names of its database collections."""
        return f"{self.owner}__{self.project}__{self.stack}__"

    def __str__(self) -> str:
        """Name of the stack in render-ws's texts."""
        return f"stack with owner '{self.owner}', project '{self.project}', and name '{self.stack}'"

    def to_json(self) -> Json:
        """Return the StackId."""
        return {"owner": self.owner, "project": self.project, "stack": self.stack}


@dataclass(slots=True)
class Stack:
    """A stack with its tiles."""

    key: StackKey
    version: Json
    version_number: int = 0
    state: State = State.LOADING
    modified: str = field(default_factory=timestamp)
    stats: Json | None = None
    section_data: list[Json] | None = None
    """Last derived section data, which a reopened stack keeps. None before the first derivation."""
    tiles: dict[str | None, Json] = field(default_factory=dict)
    """By tileId. Like render-ws, the store may have one tile without an id."""
    transforms: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> Json:
        """Return the StackMetaData."""
        meta: Json = {
            "stackId": self.key.to_json(),
            "state": self.state,
            "lastModifiedTimestamp": self.modified,
            "currentVersionNumber": self.version_number,
            "currentVersion": self.version,
        }
        return meta if self.stats is None else {**meta, "stats": self.stats}

    def to_record(self) -> Json:
        """Return the whole stack as JSON that `from_record` reads."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "key": self.key.to_json(), "tiles": list(self.tiles.values())}

    @classmethod
    def from_record(cls, record: Json) -> "Stack":
        """Return the stack of a record."""
        tiles = {tile.get("tileId"): tile for tile in record["tiles"]}
        key, state = StackKey(**record["key"]), State(record["state"])
        return cls(**{**record, "key": key, "state": state, "tiles": tiles})


class Store:
    """All stacks."""

    def __init__(self, records: Iterable[Json] = ()) -> None:
        stacks = map(Stack.from_record, records)
        self._stacks: dict[StackKey, Stack] = {stack.key: stack for stack in stacks}

    def clear(self) -> None:
        """Delete all stacks."""
        self._stacks.clear()

    def to_records(self) -> list[Json]:
        """Return all stacks as JSON, from which `Store` builds the same store."""
        return [stack.to_record() for stack in self._stacks.values()]

    def listed(self, owner: str | None = None, project: str | None = None) -> list[Stack]:
        """Return the stacks of an owner and project by project, cycle and modification time, latest first."""
        stacks = [
            stack
            for key, stack in self._stacks.items()
            if owner in (None, key.owner) and project in (None, key.project)
        ]
        stacks.sort(key=_cycle_and_change, reverse=True)
        return sorted(stacks, key=lambda stack: stack.key.project)

    def find(self, key: StackKey) -> Stack | None:
        """Return the stack, or None."""
        return self._stacks.get(key)

    def stack(self, key: StackKey) -> Stack:
        """Return the stack. Raises Refusal, 404, if there is none."""
        found = self._stacks.get(key)
        if found is None:
            raise Refusal(404, f"{key} does not exist")
        return found

    def save_version(self, key: StackKey, version: Json) -> None:
        """Create a stack, or a new version of a stack, which keeps only its tiles. Raises Refusal."""
        stack = self._stacks.get(key)
        if stack is None:
            self._stacks[key] = Stack(key, version)
            return
        require_modifiable(stack)
        stack.version, stack.version_number = version, stack.version_number + 1
        stack.state, stack.stats, stack.modified = State.LOADING, None, timestamp()

    def delete(self, key: StackKey) -> None:
        """Delete the stack if it exists. Raises Refusal for a READ_ONLY stack."""
        stack = self._stacks.get(key)
        if stack is not None:
            require_modifiable(stack)
            del self._stacks[key]

    def rename(self, stack: Stack, key: StackKey) -> None:
        """Rename the stack. Raises Refusal, 400, for a READ_ONLY or OFFLINE stack and for an existing name."""
        if stack.state in (State.READ_ONLY, State.OFFLINE):
            raise Refusal(400, f"stack {stack.key.stack} cannot be renamed because its state is {stack.state}")
        if key in self._stacks:
            raise Refusal(400, f"stack {key.collection.rstrip('_')} already exists")
        del self._stacks[stack.key]
        stack.key = key
        self._stacks[key] = stack

    def clone(self, source: Stack, key: StackKey, version: Json, zs: Sequence[float], *, transforms: bool) -> None:
        """Copy tiles, those of `zs` or all, to a new or LOADING stack. Raises Refusal, 500."""
        target = self._stacks.get(key)
        if target is not None and target.state is not State.LOADING:
            raise Refusal(500, f"Tiles cannot be cloned to stack {key.stack} because its state is {target.state}.")
        tiles = {tile_id: tile for tile_id, tile in source.tiles.items() if not zs or tile.get("z") in zs}
        copied = {} if not transforms else source.transforms
        if target is not None and (target.tiles.keys() & tiles or target.transforms.keys() & copied):
            raise Refusal(500, "E11000 duplicate key error collection")
        fresh = Stack(key, version)
        fresh.tiles = {**(target.tiles if target else {}), **copy.deepcopy(tiles)}
        fresh.transforms = {**(target.transforms if target else {}), **copy.deepcopy(copied)}
        self._stacks[key] = fresh


def _cycle_and_change(stack: Stack) -> tuple[int, int, str]:
    return (stack.version.get("cycleNumber", 0), stack.version.get("cycleStepNumber", 0), stack.modified)


def require_modifiable(stack: Stack) -> None:
    """Raise Refusal, 500, for a READ_ONLY stack."""
    if stack.state is State.READ_ONLY:
        raise Refusal(500, f"Data for stack {stack.key.stack} cannot be modified because it is READ_ONLY.")
