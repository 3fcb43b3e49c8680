"""The section [watch.stacks]. Pure."""

from pydantic import Field, field_validator

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.section import OptionalText, Section, Text, check_with
from daemon.config.text import example
from handlers.acquisition.formats.readers import READERS
from handlers.errors import Fault
from handlers.render.names import StackId, legal_stack_name

NAME_FIELDS = tuple(dict.fromkeys(field for reader in READERS.values() for field in reader.fields))
"""Fields of an acquisition that a stack's name may contain; the union over all formats."""
_SHORTEST = dict.fromkeys(NAME_FIELDS, "x")

StackTemplates = tuple[str, str, str]
"""Templates of the owner, the project and the name of a stack."""


class StackSettings(Section):
    """The stacks that receive a montage."""

    owner: OptionalText = Field(None, **example("em", off=True))
    """Owner of the stacks, a template like that of `raw`. Not set: `render.owner`."""
    project: OptionalText = Field(None, **example("{specimen_id}", off=True))
    """Project of the stacks, a template like that of `raw`. Not set: `render.project`."""
    raw: Text = "{specimen_id}_raw"
    """Name of the stack of raw tile specs. Header fields are in braces. A character that render-ws does not accept in
    a name becomes an underscore. A metafile fails if its stack's name was made from other field values before."""
    mipmapped: OptionalText = Field(None, **example("{specimen_id}_mips"))
    """Name of the stack of tile specs with mipmap levels. Not set: the raw stack is updated in place."""
    close: bool = True
    """Whether the daemon sets a stack to COMPLETE when it is quiet."""
    close_after_s: float = Field(60, ge=0)
    """Seconds without a montage in progress after which a stack is closed."""
    close_at_latest_s: float = Field(900, ge=0)
    """Seconds after which a stack that is never quiet is closed anyway, and then reopened for waiting montages. The
    time between two such closes is at least ten times the duration of the last one. 0: never."""
    resolution_z: float = Field(45.0, gt=0, **example(45.0, off=True))
    """Thickness of a section in nanometres, for new stacks. The x and y resolutions come from the calibration."""

    def full_names(self, owner: str, project: str) -> tuple[StackTemplates, StackTemplates]:
        """Return the templates of the raw and of the mipmapped stack.

        Parameters
        ----------
        owner, project : defaults, if the watch sets none.
        """
        home = (self.owner or owner, self.project or project)
        return (*home, self.raw), (*home, self.mipmapped or self.raw)

    @field_validator("owner", "project", "raw", "mipmapped")
    @classmethod
    def _names_known_fields(cls, value: str | None) -> str | None:
        if value is not None:
            check_with(legal_stack_name, value, _SHORTEST, subject=quoted(value))
        return value

    def require_short_names(self, owner: str, project: str) -> None:
        """Raise RefusedKeyError if a full name is too long for render-ws even with fields of one character."""
        for key, templates in zip(("raw", "mipmapped"), self.full_names(owner, project), strict=True):
            try:
                StackId(*(legal_stack_name(template, _SHORTEST) for template in templates))
            except Fault as fault:
                raise RefusedKeyError(f"stacks.{key}", f"{fault.subject} {fault.problem} ({fault.hint})") from None
