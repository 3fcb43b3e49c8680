"""The tree of faults. Every fault names its subject, what is wrong, and a hint that an operator can act on.

Fault
|-- MetafileFault         the metafile cannot be meant: it fails, others go on
|   `-- MetafilePartial   ... or is not complete yet: settling waits
|-- ImagesMissing         images that the metafile names did not arrive in time
|-- ZFault                no z can be found for the metafile
|-- ImageFault            an image cannot be read, or is not what its header says
|   `-- ImageChanging       ... or changed while it was read
|-- StorageFault          a disk or mount that is full, gone or read-only
|-- WorkerFault           a worker process died or hung
|   `-- WorkersUnavailable  ... or no worker can be had at all now
|-- SettingsFault         a setting that cannot be obeyed
|-- BugFault              an exception that nobody expected: temwatch itself is wrong
`-- RenderFault           render-ws ...
    |-- RenderUnavailable   ... cannot be reached, nor its database, or a proxy answers for it
    |   |-- AnswerLate        ... not in time: it may still be at work
    |   `-- AnswerLost        ... never: the connection broke after the request had gone out
    |-- RenderBroken        ... fails inside, or its answer cannot be read
    |   `-- NotRender         ... does not answer: a proxy or another server does in its place
    |-- RenderRefused       ... refuses what it was sent
    |-- StackMissing        ... has no such stack
    |-- StackNotLoading     ... has the stack in another state than LOADING
    |-- StackLocked         ... has it READ_ONLY or OFFLINE: a person's decision
    |-- StackReopened       ... has the stack LOADING again: another client writes to it
    |-- SectionDataMissing  ... has no section data of the stack now: another client derives them
    `-- ReadBackDiffers     ... shows something else than what was written

The edge that sees a fault chooses its class; whoever decides on a retry asks `waiting_helps`, and never reads the text.
"""

import errno
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from handlers.identity import FileIdentity


class Waiting(StrEnum):
    """Whether the same work can succeed later."""

    NEVER = "never"
    """The input or a setting must change first."""
    LIMITED = "limited"
    """Perhaps: a few attempts, then a person looks."""
    ALWAYS = "always"
    """The cause lies outside and passes: a service, a mount, a disk."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A file that has to change before work that failed of it can succeed."""

    path: Path
    identity: FileIdentity | None
    """As it was before the work; None if it was not there, or could not be looked at."""
    or_gone: bool = False
    """Whether its being gone mends the fault, too: it stands in the way."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file as it is now. May block for as long as its server likes."""
        try:
            found = path.stat()
        except OSError:
            return cls(path, None)
        return cls(path, FileIdentity.of(found))

    def has_changed(self, now: Self) -> bool:
        """Whether there is another file now. One that is gone, or cannot be looked at, mends nothing by default.

        >>> there = Evidence(Path("a"), FileIdentity(1, 2, 3, 4))
        >>> Evidence(Path("a"), None).has_changed(there), there.has_changed(Evidence(Path("a"), None))
        (True, False)
        """
        if now.identity is None:
            return self.or_gone and self.identity is not None
        return not now.identity.matches(self.identity)


class Fault(Exception):  # noqa: N818  the word of the field; subclasses name the fault itself
    """Something that went wrong with a named subject.

    Takes plain positional arguments, so that it survives pickling between processes.

    Parameters
    ----------
    subject : the file, tile, stack or setting concerned.
    problem : what was tried and what came of it, one sentence without a final stop.
    hint : what a person can do, one sentence without a final stop; may be empty.
    """

    waiting_helps = Waiting.NEVER
    evidence: Evidence | None = None
    """What has to change before the same work can succeed, if it is one file; set by `with_evidence`."""

    def __init__(self, subject: str, problem: str, hint: str = "") -> None:
        super().__init__(subject, problem, hint)
        self.subject = subject
        self.problem = problem
        self.hint = hint

    def with_evidence(self, evidence: Evidence) -> Self:
        """The fault itself, which from now on names the file that has to change."""
        self.evidence = evidence
        return self

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


class MetafileFault(Fault):
    """A metafile that cannot be meant."""


class MetafilePartial(MetafileFault):
    """A metafile that does not parse: cut short by a copy under way, or broken. Time tells which."""

    waiting_helps = Waiting.LIMITED


class ImagesMissing(Fault):
    """Images named by a metafile that were waited for and did not come."""


class ZFault(Fault):
    """No z follows from the metafile by the rule configured."""


class ImageFault(Fault):
    """An image that cannot be decoded, or whose size or mode is not the one expected."""


class ImageChanging(ImageFault):
    """An image that changed while it was read: somebody still writes it. Read again once it is quiet."""

    waiting_helps = Waiting.ALWAYS


class InvalidImage(Exception):  # noqa: N818  it becomes a fault as soon as the file's name is known
    """Why an image file cannot be used, as what follows its name."""

    def __init__(self, problem: str, hint: str = "copy or acquire the image again") -> None:
        super().__init__(problem)
        self.hint = hint

    def of(self, path: Path) -> ImageFault:
        """The fault of an image."""
        return ImageFault(str(path), str(self), self.hint)


class StorageFault(Fault):
    """A disk or mount that cannot be read or written now."""

    waiting_helps = Waiting.ALWAYS


class WorkerFault(Fault):
    """A worker process that died or was stopped in the middle of a job."""

    waiting_helps = Waiting.LIMITED


class WorkersUnavailable(WorkerFault):
    """Workers that do not start, or whose scheduler does not answer: no job's doing, and no reason to give one up."""

    waiting_helps = Waiting.ALWAYS


class SettingsFault(Fault):
    """A setting that cannot be obeyed; the subject is the key's path, as in `watch[1].z.rule`."""


class BugFault(Fault):
    """An exception that nobody expected: a fault of temwatch itself. Its traceback is in the log."""

    waiting_helps = Waiting.LIMITED

    @classmethod
    def of(cls, subject: str, error: Exception) -> Self:
        """The fault of the montage or stack that was worked on."""
        return cls(subject, f"{type(error).__name__}: {error}", "a bug in temwatch; please report it")


class RenderFault(Fault):
    """A fault of, or reported by, render-ws."""


class RenderUnavailable(RenderFault):
    """render-ws or its database cannot be reached."""

    waiting_helps = Waiting.ALWAYS


class AnswerLate(RenderUnavailable):
    """No answer in time. Giving up does not stop render-ws: what was asked may be done, or be done later."""


class AnswerLost(RenderUnavailable):
    """The connection broke after the request had gone out: whether it was obeyed has to be looked up."""


class RenderBroken(RenderFault):
    """render-ws fails inside (a 500 that is no word about a state), or its answer cannot be read."""

    waiting_helps = Waiting.LIMITED


class NotRender(RenderBroken):
    """An answer that render-ws never gives: a proxy or another server answers in its place."""


class RenderRefused(RenderFault):
    """render-ws refuses the request; repeating it changes nothing."""


class StackMissing(RenderFault):
    """render-ws does not know the stack. Who may create it tries again a few times; somebody may go on deleting it."""

    waiting_helps = Waiting.LIMITED


class StackNotLoading(RenderFault):
    """The stack takes no tiles in its present state; somebody closed it. Reopen and repeat, however often."""

    waiting_helps = Waiting.ALWAYS


class StackLocked(RenderFault):
    """The stack is READ_ONLY or OFFLINE; only a person may change that."""


class StackReopened(RenderFault):
    """The stack was completed, and another client reopened it before that could be seen. It is closed again later."""

    waiting_helps = Waiting.ALWAYS


class SectionDataMissing(RenderFault):
    """The stack was completed, and has no section data: another client derives them, or created the stack anew."""

    waiting_helps = Waiting.ALWAYS


class ReadBackDiffers(RenderFault):
    """What the stack shows is not what was written."""

    waiting_helps = Waiting.LIMITED


_GONE_OR_FULL = {
    errno.ENOSPC: "free space on the target",
    errno.EDQUOT: "raise the quota of the target",
    errno.EROFS: "remount the target writable; a service must have it below a path of ReadWritePaths= of its unit",
    errno.EBUSY: "another program has it open: it is tried again until that has closed it",
    errno.ETXTBSY: "another program has it open: it is tried again until that has closed it",
    errno.EIO: "look at the disk's health",
    errno.ESTALE: "remount the share",
    errno.ENOTCONN: "remount the share",
    errno.ETIMEDOUT: "see that the file server answers",
    errno.EHOSTDOWN: "see that the file server answers",
    errno.ENODEV: "remount the device",
    errno.EACCES: "let the service's user read and write there",
    errno.EPERM: "let the service's user read and write there",
    errno.EMFILE: "raise LimitNOFILE of the service",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENOMEM: "free memory",
}


def storage_fault(subject: str, tried: str, error: OSError) -> StorageFault:
    """The fault that an OSError on a disk or mount stands for; `tried` reads as in "write level 3"."""
    hint = _GONE_OR_FULL.get(error.errno or 0, "see that the disk or mount is there")
    return StorageFault(subject, f"could not {tried}: {error.strerror or error}", hint)
