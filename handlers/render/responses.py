"""Answers of render-ws: its records as frozen models, its errors as faults. Pure."""

import re
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from handlers.errors import (
    RenderBroken,
    RenderFault,
    RenderRefused,
    RenderUnavailable,
    SectionDataMissing,
    StackLocked,
    StackMissing,
    StackNotLoading,
)
from handlers.render.foreign_answers import Service, foreign_fault


class StackState(StrEnum):
    """The states of a stack (render `StackMetaData.StackState`)."""

    LOADING = "LOADING"
    """The stack accepts tiles and has no statistics."""
    COMPLETE = "COMPLETE"
    """The stack has statistics and section data, and accepts no tiles."""
    READ_ONLY = "READ_ONLY"
    """The stack was locked by a person."""
    OFFLINE = "OFFLINE"
    """The tiles of the stack have been dropped."""


LOCKED = frozenset({StackState.READ_ONLY, StackState.OFFLINE})


class _Record(BaseModel):
    """A record of render-ws. Its keys are in camelCase; keys that are not used are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class PathBuilder(_Record):
    """The stack's rule for the paths of mipmap levels that its tiles do not name (render `MipmapPathBuilder`)."""

    root_path: str
    """Directory of all levels; render-ws stores it with a final slash."""
    number_of_levels: int
    """The highest level that is derived."""
    extension: str
    """tif, png or jpg; appended to the name of level 0."""
    image_mipmap_pattern_string: str | None = None
    """Another rule for the paths (H5 files); temwatch never sets it."""

    def normalized(self) -> "PathBuilder":
        """Return the builder with exactly one slash at the end of its root."""
        return self.model_copy(update={"root_path": self.root_path.rstrip("/") + "/"})

    def to_json(self) -> dict[str, Any]:
        """Return the builder in the form of render-ws, without nulls."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def derived_path(self, source_url: str, level: int) -> str:
        """Return the path that render-ws derives from a level-0 URL; repeated slashes are kept.

        >>> PathBuilder(root_path="/m/", number_of_levels=6, extension="tif").derived_path("file:///d/a.tif", 2)
        '/m/2///d/a.tif.tif'
        """
        _, colon, after = source_url.partition(":")
        source = after if colon else "/" + source_url.removeprefix("/")
        return f"{self.normalized().root_path}{level}{source}.{self.extension}"


class StackVersion(_Record):
    """Values that were set when the stack was created or later."""

    stack_resolution_x: float | None = None
    stack_resolution_y: float | None = None
    stack_resolution_z: float | None = None


class StackMeta(_Record):
    """The metadata of a stack."""

    state: StackState
    current_version_number: int = 0
    """Version, which increases when an existing stack is created again and when a COMPLETE stack is reopened."""
    current_version: StackVersion = StackVersion()

    @property
    def resolution_nm(self) -> tuple[float, float, float] | None:
        """Nanometres per pixel in x and y and between sections in z; None unless all three are set."""
        version = self.current_version
        x, y, z = version.stack_resolution_x, version.stack_resolution_y, version.stack_resolution_z
        return None if x is None or y is None or z is None else (x, y, z)


STACK_META = TypeAdapter(StackMeta)
PATH_BUILDER = TypeAdapter(PathBuilder)
OBJECT = TypeAdapter(dict[str, Any])


_STATE_TEXT = re.compile(r"(?:state is|state is currently|because it is) (LOADING|COMPLETE|READ_ONLY|OFFLINE)\b")
_TAG = re.compile(
    r"<(?:style|script)\b(?:(?!<(?:style|script)\b).)*?</(?:style|script)>|<[^<>]*>", re.DOTALL | re.IGNORECASE
)
"""A match ends before the next tag begins, so that the time is linear in the length of the text."""
_TITLE = re.compile(r"<title>([^<>]*)</title>", re.IGNORECASE)
_OF_JETTY = re.compile(r" STATUS: \d+(?= )| Powered by Jetty://.*", re.DOTALL)
"""Parts of Jetty's error pages that say nothing more: the status again, and its version."""
_INPUT_FAULTS = ("has no tiles", "width and height must be set")
"""Texts with status 500 that report invalid input, not a failure of the service."""
_DATABASE_AWAY = re.compile(
    r"Timed out after \d+ ms while waiting|Client view of cluster state|NotWritablePrimary|\bnot (?:primary|master)\b"
    r"|InterruptedAtShutdown|Exception opening socket|Prematurely reached end of stream|OutOfDiskSpace"
    r"|No space left on device"
)
"""Texts of MongoDB and its driver with status 500: the database fails, not the request."""
_ABSENCES = ("does not exist", "no tile specifications found", "no matching tiles")
"""Texts of render-ws itself with status 404."""
_JAVA_TEXT = re.compile(r"com\.fasterxml\.jackson|RESTEASY")
"""Text in an HTML body of render-ws itself with status 400: its JSON parser refuses the request."""
_NO_SECTION_DATA = "section data not aggregated"
"""Text with status 400 that does not concern the request: it lost a race with another client's COMPLETE."""
_MAX_TEXT = 500
"""Characters of an answer that a fault quotes."""

SERVICE = Service()
"""Default for faults: a render-ws whose address and login are not known."""


def plain_text(body: bytes) -> str:
    """Return an error's body as one short line of text without markup, and without what servers repeat or add."""
    page = body.decode("utf-8", errors="replace")
    title = _TITLE.search(page)
    text = _without_markup(page)
    if title and (repeated := _without_markup(title[1])):
        before, _, after = text.partition(repeated)
        text = f"{before} {after}".strip() if repeated.casefold() in after.casefold() else text
    text = _OF_JETTY.sub("", text)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"


def _without_markup(page: str) -> str:
    return " ".join(_TAG.sub(" ", page).split())


def is_absent(status: int, content_type: str) -> bool:
    """Whether render-ws reports that a stack or tile does not exist. Its 404 for an unknown URL is not plain text."""
    return status == 404 and content_type == "text/plain"


def concerns_stack(text: str) -> bool:
    """Whether a 404 reports a missing stack, and not a missing part of a stack."""
    return text.startswith("stack with owner")


def fault_of(
    subject: str, tried: str, status: int, content_type: str, text: str, service: Service = SERVICE, location: str = ""
) -> RenderFault:
    """Return the fault that an error answer means.

    The status alone does not decide: render-ws sends 500 for a closed stack, and 404 for an unknown URL.

    Parameters
    ----------
    subject : the stack or tile of the request.
    tried : the action, as in "put tiles".
    content_type : content type without parameters, as in "text/plain".
    text : the body as plain text.
    service : names of render-ws and its login, for the fault.
    location : target of a redirect.

    Source: render `RenderServiceUtil.throwServiceException` and the texts of its callers.
    """
    problem = f"tried to {tried}, and render-ws answered {status}: {text or 'no text'}"
    if status == 500 or (status == 400 and (content_type != "text/html" or _JAVA_TEXT.search(text))):
        return _state_fault(subject, problem, text) or _fault_of_400_or_500(subject, problem, status, text)
    if is_absent(status, content_type) and concerns_stack(text):
        return StackMissing(subject, problem, "check the stack's name, and whether somebody deleted it")
    if is_absent(status, content_type) and any(words in text for words in _ABSENCES):
        return RenderRefused(subject, problem)
    return foreign_fault(subject, tried, status, text, service, location=location)


def _state_fault(subject: str, problem: str, text: str) -> RenderFault | None:
    match = _STATE_TEXT.search(text)
    state = match and StackState(match[1])
    if state in LOCKED:
        return locked_fault(subject, state)
    if state is StackState.COMPLETE or (state is None and "in the LOADING state" in text):
        return StackNotLoading(subject, problem, "another client closed the stack: reopen it and put the tiles again")
    return None


def locked_fault(subject: str, state: StackState) -> StackLocked:
    """Return the fault of a stack that is READ_ONLY or OFFLINE."""
    hint = {
        StackState.READ_ONLY: "somebody froze this stack: set it COMPLETE to continue, or choose another stack name",
        StackState.OFFLINE: "its tiles were dropped: delete the stack, or choose another stack name, then replay",
    }
    return StackLocked(subject, f"the stack is {state}", hint.get(state, ""))


def _fault_of_400_or_500(subject: str, problem: str, status: int, text: str) -> RenderFault:
    if status == 400 and _NO_SECTION_DATA in text:
        return SectionDataMissing(
            subject, problem, "another client completes the stack at the same time; temwatch checks it again"
        )
    if status == 400 or any(words in text for words in _INPUT_FAULTS):
        return RenderRefused(subject, problem)
    if _DATABASE_AWAY.search(text):
        return RenderUnavailable(subject, problem, "check that the database of render-ws runs and has free space")
    return RenderBroken(subject, problem, "read the logs of render-ws and of its database")
