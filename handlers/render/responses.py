"""What render-ws answers, read: its records as frozen models, its errors as faults. Pure."""

import re
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from handlers.errors import (
    AnswerLate,
    AnswerLost,
    NotRender,
    RenderBroken,
    RenderFault,
    RenderRefused,
    RenderUnavailable,
    SectionDataMissing,
    StackLocked,
    StackMissing,
    StackNotLoading,
)


class StackState(StrEnum):
    """The states of a stack (render `StackMetaData.StackState`)."""

    LOADING = "LOADING"
    """Takes tiles; has no statistics."""
    COMPLETE = "COMPLETE"
    """Statistics and section data are derived; takes no tiles."""
    READ_ONLY = "READ_ONLY"
    """Locked by a person."""
    OFFLINE = "OFFLINE"
    """Its tiles have been dropped."""


LOCKED = frozenset({StackState.READ_ONLY, StackState.OFFLINE})


class _Record(BaseModel):
    """A record of render-ws: camelCase there, snake_case here, keys we do not need left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class PathBuilder(_Record):
    """The stack's rule for where mipmap levels lie that its tiles do not name (render `MipmapPathBuilder`)."""

    root_path: str
    """Directory of all levels; render-ws stores it with a slash at its end."""
    number_of_levels: int
    """The highest level that may be derived."""
    extension: str
    """tif, png or jpg, appended to the name of level 0."""
    image_mipmap_pattern_string: str | None = None
    """Another rule for derived names (H5 files); we never set it."""

    def normalized(self) -> "PathBuilder":
        """The same builder, its root with one slash at the end."""
        return self.model_copy(update={"root_path": self.root_path.rstrip("/") + "/"})

    def to_json(self) -> dict[str, Any]:
        """The builder as render-ws takes it, no nulls."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def derived_path(self, source_url: str, level: int) -> str:
        """The path that render-ws derives for a level from a level-0 URL; slashes not yet collapsed.

        >>> PathBuilder(root_path="/m/", number_of_levels=6, extension="tif").derived_path("file:///d/a.tif", 2)
        '/m/2///d/a.tif.tif'
        """
        _, colon, after = source_url.partition(":")
        source = after if colon else "/" + source_url.removeprefix("/")
        return f"{self.normalized().root_path}{level}{source}.{self.extension}"


class StackVersion(_Record):
    """What was said when the stack was created, and since."""

    create_timestamp: str | None = None
    version_notes: str | None = None
    stack_resolution_x: float | None = None
    stack_resolution_y: float | None = None
    stack_resolution_z: float | None = None
    mipmap_path_builder: PathBuilder | None = None


class StackStats(_Record):
    """Derived when the stack became COMPLETE."""

    section_count: int | None = None
    """Number of distinct z values, not of section ids."""
    tile_count: int | None = None
    transform_count: int | None = None


class StackMeta(_Record):
    """A stack as render-ws describes it."""

    state: StackState
    current_version_number: int = 0
    """Counts creations over each other and every reopening of a COMPLETE stack."""
    last_modified_timestamp: str | None = None
    current_version: StackVersion = StackVersion()
    stats: StackStats | None = None
    """None while LOADING."""

    @property
    def resolution_nm(self) -> tuple[float, float, float] | None:
        """Nanometres per pixel in x and y and per section in z; None unless all three are set."""
        version = self.current_version
        x, y, z = version.stack_resolution_x, version.stack_resolution_y, version.stack_resolution_z
        return None if x is None or y is None or z is None else (x, y, z)

    @property
    def path_builder(self) -> PathBuilder | None:
        """The stack's mipmap path builder, if it has one."""
        return self.current_version.mipmap_path_builder


class SectionData(_Record):
    """Tiles of one (section id, z), as derived when the stack was last completed."""

    z: float
    tile_count: int
    section_id: str | None = None


STACK_META = TypeAdapter(StackMeta)
PATH_BUILDER = TypeAdapter(PathBuilder)
SECTION_DATA = TypeAdapter(tuple[SectionData, ...])
Z_VALUES = TypeAdapter(tuple[float, ...])
OBJECT = TypeAdapter(dict[str, Any])


_STATE_SAID = re.compile(r"(?:state is|state is currently|because it is) (LOADING|COMPLETE|READ_ONLY|OFFLINE)\b")
_TAG = re.compile(r"<(?:style|script).*?</(?:style|script)>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_INPUT_FAULTS = ("has no tiles", "width and height must be set")
"""500s that blame what was sent, not the service."""
_DATABASE_AWAY = re.compile(
    r"Timed out after \d+ ms while waiting|Client view of cluster state|NotWritablePrimary|\bnot (?:primary|master)\b"
    r"|InterruptedAtShutdown|Exception opening socket|Prematurely reached end of stream|OutOfDiskSpace"
    r"|No space left on device"
)
"""500s in the words of MongoDB and its driver: no request is to blame for them."""
_ABSENCES = ("does not exist", "no tile specifications found", "no matching tiles")
"""404s that render-ws itself gives."""
_JAVA_SAID = re.compile(r"com\.fasterxml\.jackson|RESTEASY")
"""In a 400 in HTML that render-ws gives: its JSON reader refuses what was sent."""
_NO_SECTION_DATA = "section data not aggregated"
"""A 400 that says nothing of what was sent. Just after COMPLETE it is a race with another client's COMPLETE."""
_WRONG_URL = "a bug in our URL, or render.url is not the address of a render-ws (…/render-ws/v1)"
_MOST_TEXT = 500
"""Characters of an answer that are worth repeating."""


def plain_text(body: bytes) -> str:
    """An error's body as one line of text without markup, cut where it becomes long."""
    text = " ".join(_TAG.sub(" ", body.decode("utf-8", errors="replace")).split())
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " …"


def is_absent(status: int, content_type: str) -> bool:
    """Whether render-ws says that a thing does not exist. For a URL that it does not know its 404 has no body."""
    return status == 404 and content_type == "text/plain"


def speaks_of_stack(text: str) -> bool:
    """Whether a 404 says that the stack is missing, rather than something in it."""
    return text.startswith("stack with owner")


def fault_of(subject: str, tried: str, status: int, content_type: str, text: str) -> RenderFault:
    """The fault that an answer other than success stands for.

    Status alone does not tell: render-ws says 500 for a closed stack, and 404 for a URL that it does not understand.

    Parameters
    ----------
    subject : the stack or tile asked about.
    tried : what was asked, as in "put tiles".
    content_type : without parameters, as in "text/plain".
    text : the body as plain text.

    Source: render `RenderServiceUtil.throwServiceException` and the texts of its callers.
    """
    problem = f"tried to {tried}, and render-ws answered {status}: {text or 'without a word'}"
    if status in (400, 500):
        said_by_render = status == 500 or content_type != "text/html" or _JAVA_SAID.search(text) is not None
        return _state_fault(subject, problem, text) or _fault_of_400_or_500(
            subject, problem, status, text, said_by_render=said_by_render
        )
    if is_absent(status, content_type) and speaks_of_stack(text):
        return StackMissing(subject, problem, "somebody deleted the stack, or its name is another")
    if is_absent(status, content_type) and any(words in text for words in _ABSENCES):
        return RenderRefused(subject, problem)
    if status == 504:
        return AnswerLate(subject, problem, "a proxy gave up waiting; render-ws may still be at work")
    if status == 502:
        return AnswerLost(subject, problem, "see that render-ws runs behind its proxy")
    if status in (408, 429, 503):
        return RenderUnavailable(subject, problem, "see that render-ws runs and is not overloaded")
    if status > 500:
        return RenderBroken(subject, problem, "see the log of render-ws or of the proxy before it")
    if status == 413:
        return RenderRefused(subject, problem, "a proxy limits the size of requests: let it pass at least 20 MB")
    return NotRender(subject, problem, _STRANGERS.get(status, "see that render.url leads straight to a render-ws"))


_STRANGERS = {
    401: "a proxy before render-ws asks for a log-in: see user and password in render.url",
    403: "a proxy before render-ws forbids this: see user and password in render.url",
    404: _WRONG_URL,
    405: _WRONG_URL,
    415: "the body was not taken for JSON: see what a proxy does to Content-Type",
}
"""Hints for answers that render-ws does not give to our requests: a proxy or another server gave them."""


def _state_fault(subject: str, problem: str, text: str) -> RenderFault | None:
    said = _STATE_SAID.search(text)
    state = said and StackState(said[1])
    if state in LOCKED:
        return locked_fault(subject, state)
    if state is StackState.COMPLETE or (state is None and "in the LOADING state" in text):
        return StackNotLoading(subject, problem, "another client closed the stack: reopen it and put again")
    return None


def locked_fault(subject: str, state: StackState) -> StackLocked:
    """The fault of a stack that only a person may unlock."""
    hint = {
        StackState.READ_ONLY: "somebody froze this stack: set it COMPLETE to write on, or choose another stack name",
        StackState.OFFLINE: "its tiles were dropped: delete the stack, or choose another stack name, then replay",
    }
    return StackLocked(subject, f"the stack is {state}", hint.get(state, ""))


def _fault_of_400_or_500(subject: str, problem: str, status: int, text: str, *, said_by_render: bool) -> RenderFault:
    if not said_by_render:
        return NotRender(subject, problem, "a proxy refuses the request: see that render.url is right, https included")
    if status == 400 and _NO_SECTION_DATA in text:
        return SectionDataMissing(subject, problem, "another client completes the stack: it is looked at again")
    if status == 400 or any(words in text for words in _INPUT_FAULTS):
        return RenderRefused(subject, problem)
    if _DATABASE_AWAY.search(text):
        return RenderUnavailable(subject, problem, "see that the database of render-ws runs and has space")
    return RenderBroken(subject, problem, "see the logs of render-ws and of its database")
