"""The tree of faults. Every fault names its subject, what is wrong, and a hint that an operator can act on.

Fault
|-- MetafileFault         the metafile is invalid: it fails, others go on
|   `-- MetafilePartial     the metafile may be incomplete: settling waits
|       `-- MetafileOpen    the microscope still acquires the region
|-- ImagesMissing         images of the metafile did not arrive in time
|-- ZFault                the rule finds no z for the metafile
|-- ImageFault            an image cannot be read, or contradicts its header
|   `-- ImageChanging       an image changed while it was read
|-- StorageFault          a disk or mount is full, gone or read-only
|   `-- StoreFault          an object store cannot be reached, refuses a request, or lost an object
|-- WorkerFault           a worker process died or hung
|   `-- WorkersUnavailable  no worker is available now
|-- SettingsFault         a setting is invalid
|-- BugFault              an unexpected exception: a bug in temwatch
`-- RenderFault           a fault of render-ws, or reported by it
    |-- RenderUnavailable   render-ws or its database cannot be reached, or a proxy answers in its place
    |   |-- AnswerLate        no answer in time: render-ws may still be working on it
    |   |   `-- ProxyTimedOut   a proxy stopped waiting for it
    |   |-- AnswerLost        the connection broke after the request was sent
    |   |-- StackNotCreated   a stack cannot be created, although render-ws answers queries
    |   `-- AccessRefused     the certificate of the server does not verify: a person must act
    |       `-- LoginRefused    the login is missing or refused: a person must act
    |           `-- RequestForbidden  the login is accepted, but must not make this request
    |-- RenderBroken        an internal error of render-ws, or an answer that cannot be parsed
    |   `-- NotRender         the answer comes from a proxy or another server
    |-- RenderRefused       render-ws refuses the request
    |   `-- UploadTooLarge    a proxy refuses the size of an upload: it is split
    |-- StackMissing        the stack does not exist
    |-- StackNotLoading     the stack is in another state than LOADING
    |-- StackLocked         the stack is READ_ONLY or OFFLINE: a person's decision
    |-- StackReopened       the stack is LOADING again: another client writes to it
    |-- SectionDataMissing  the stack has no section data now: another client is deriving them
    `-- ReadBackDiffers     the stack holds other values than were written

The code that detects a fault chooses its class. Retries depend on `waiting_helps`, never on the text.
"""

import errno
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from handlers.identity import FileIdentity
from handlers.text import printable, shorten

MAX_TEXT = 5_000
"""Characters of a fault's subject, problem and hint each: a path has at most 4,096 bytes."""


class Waiting(StrEnum):
    """Whether the same work can succeed later without a change to its input."""

    NEVER = "never"
    """The input or a setting must change first."""
    LIMITED = "limited"
    """Perhaps: retry a few times, then fail."""
    ALWAYS = "always"
    """Yes: a service, a mount or a disk fails, and recovers."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A file that must change before the work that failed because of it can succeed."""

    path: Path
    identity: FileIdentity | None
    """Identity before the work; None if the file was missing or could not be accessed."""
    or_gone: bool = False
    """Whether the removal of the file solves the problem, too."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the evidence of the file as it is now. Blocks for as long as a file server does not answer."""
        try:
            found = path.stat()
        except OSError:
            return cls(path, None)
        return cls(path, FileIdentity.of(found))

    def has_changed(self, now: Self) -> bool:
        """Whether the file has changed. A file that is gone or inaccessible has not, unless `or_gone` is set.

        >>> there = Evidence(Path("a"), FileIdentity(1, 2, 3, 4))
        >>> Evidence(Path("a"), None).has_changed(there), there.has_changed(Evidence(Path("a"), None))
        (True, False)
        """
        if now.identity is None:
            return self.or_gone and self.identity is not None
        return not now.identity.matches(self.identity)


class Fault(Exception):  # noqa: N818  subclasses name the fault itself
    """A problem with a named subject.

    It takes plain positional arguments, so that it survives pickling between processes. A text longer than MAX_TEXT
    loses its middle: it may quote values of any length from a metafile or render-ws, and the journal stores it.

    Parameters
    ----------
    subject : the file, tile, stack or setting concerned.
    problem : what was expected and what was found, in one sentence without a full stop.
    hint : what an operator can do, in one sentence without a full stop; empty: the usual hint of the class.
    """

    waiting_helps = Waiting.NEVER
    usual_hint = ""
    """What an operator can do about most faults of the class."""
    evidence: Evidence | None = None
    """The file that must change before the same work can succeed, if it is a single one; set by `with_evidence`."""

    def __init__(self, subject: str, problem: str, hint: str = "") -> None:
        self.subject, self.problem, self.hint = (
            shorten(text, MAX_TEXT) for text in (subject, problem, hint or self.usual_hint)
        )
        super().__init__(self.subject, self.problem, self.hint)

    def with_evidence(self, evidence: Evidence) -> Self:
        """Set the file that must change, and return the fault itself."""
        self.evidence = evidence
        return self

    def __str__(self) -> str:
        return printable(f"{self.subject}: {self.problem}" + (f" ({self.hint})" if self.hint else ""))


class MetafileFault(Fault):
    """A metafile is invalid."""

    usual_hint = "correct the metafile, or the program that wrote it"


class MetafilePartial(MetafileFault):
    """A metafile does not parse: it is still being copied, or it is broken."""

    waiting_helps = Waiting.LIMITED


class MetafileOpen(MetafilePartial):
    """The microscope has not finished the region. Minutes may pass between two of its images."""


class ImagesMissing(Fault):
    """Images of a metafile did not arrive within the time-out."""


class ZFault(Fault):
    """The configured rule finds no z for the metafile."""


class ImageFault(Fault):
    """An image cannot be decoded, or has an unexpected size or mode."""


class ImageChanging(ImageFault):
    """An image changed while it was read. It is read again when it no longer changes."""

    waiting_helps = Waiting.ALWAYS


class InvalidImage(Exception):  # noqa: N818  becomes a fault where the file's name is known
    """The problem and the hint of an ImageFault whose file is not known yet."""

    def __init__(self, problem: str, hint: str = "copy or acquire the image again") -> None:
        super().__init__(problem)
        self.hint = hint

    def fault(self, path: object) -> ImageFault:
        """Return the fault of an image file."""
        return ImageFault(str(path), str(self), self.hint)


class StorageFault(Fault):
    """A disk or mount cannot be read or written now."""

    waiting_helps = Waiting.ALWAYS


class StoreFault(StorageFault):
    """An object store cannot be reached or used now."""


class WorkerFault(Fault):
    """A worker process died or was stopped during a job."""

    waiting_helps = Waiting.LIMITED


class WorkersUnavailable(WorkerFault):
    """Workers do not start, or the scheduler does not answer. No job is the cause, so none fails."""

    waiting_helps = Waiting.ALWAYS


class SettingsFault(Fault):
    """A setting is invalid; the subject is the key's path, as in `watch[1].z.rule`."""


class BugFault(Fault):
    """An unexpected exception: a bug in temwatch. The log has the traceback."""

    waiting_helps = Waiting.LIMITED

    @classmethod
    def of(cls, subject: str, error: Exception) -> Self:
        """Return the fault of a montage or stack for an exception."""
        return cls(
            subject,
            f"{type(error).__name__}: {error}",
            "please report this bug of temwatch, with the traceback in the log",
        )


class RenderFault(Fault):
    """A fault of render-ws, or reported by it."""


class RenderUnavailable(RenderFault):
    """render-ws or its database cannot be reached."""

    waiting_helps = Waiting.ALWAYS


class AnswerLate(RenderUnavailable):
    """No answer in time. render-ws may still perform the request."""


class ProxyTimedOut(AnswerLate):
    """A proxy stopped waiting for the answer of render-ws."""


class AnswerLost(RenderUnavailable):
    """The connection broke after the request was sent. Only a query shows whether render-ws performed it."""


class StackNotCreated(RenderUnavailable):
    """render-ws fails to create a stack. The request contains no data of a montage, so no montage is the cause."""


class AccessRefused(RenderUnavailable):
    """render-ws cannot be used until a person changes a setting, a file or the proxy.

    The class itself stands for a certificate that does not verify.
    """


class LoginRefused(AccessRefused):
    """A proxy refuses the login, or asks for one. Retries are rare, since each may count towards an account lock."""


class RequestForbidden(LoginRefused):
    """A proxy forbids this login a request: it may allow reading and forbid writing."""


class RenderBroken(RenderFault):
    """render-ws has an internal error (a 500 not caused by a stack's state), or its answer cannot be parsed."""

    waiting_helps = Waiting.LIMITED


class NotRender(RenderBroken):
    """The answer comes from a proxy or another server: render-ws never gives such an answer."""


class RenderRefused(RenderFault):
    """render-ws refuses the request; a retry does not help."""


class UploadTooLarge(RenderRefused):
    """A proxy refuses the size of an upload. It can be split, unless it holds one tile."""


class StackMissing(RenderFault):
    """The stack does not exist. It is created and the work retried a few times: another client may delete it again."""

    waiting_helps = Waiting.LIMITED


class StackNotLoading(RenderFault):
    """The stack accepts no tiles in its present state: another client closed it. Reopen it and retry without limit."""

    waiting_helps = Waiting.ALWAYS


class StackLocked(RenderFault):
    """The stack is READ_ONLY or OFFLINE; only a person may change that."""


class StackReopened(RenderFault):
    """Another client reopened the stack right after it was completed. It is closed again later."""

    waiting_helps = Waiting.ALWAYS


class SectionDataMissing(RenderFault):
    """The completed stack has no section data: another client is deriving them, or created the stack again."""

    waiting_helps = Waiting.ALWAYS


class ReadBackDiffers(RenderFault):
    """The stack holds other values than were written."""

    waiting_helps = Waiting.LIMITED


_IS_THERE = "check that the disk or mount is there"
_STORAGE_HINTS = {
    errno.ENOSPC: "free space on the target",
    errno.EDQUOT: "raise the quota of the target",
    errno.EROFS: "remount the target writable; for a service, list it in ReadWritePaths= of the unit",
    errno.EBUSY: "close it in the other program that has it open; retries continue",
    errno.ETXTBSY: "close it in the other program that has it open; retries continue",
    errno.EIO: "check the disk's health",
    errno.ELOOP: "replace the link by its target: links below the configured directory are not followed",
    errno.ENOTDIR: "replace the file or link by a directory: links below the configured directory are not followed",
    errno.ESTALE: "remount the share",
    errno.ENOTCONN: "remount the share",
    errno.ETIMEDOUT: "check that the file server answers",
    errno.EHOSTDOWN: "check that the file server answers",
    errno.ENODEV: "remount the device",
    errno.EACCES: "let the user that runs temwatch read and write there",
    errno.EPERM: "let the user that runs temwatch read and write there",
    errno.EMFILE: "raise LimitNOFILE of the service",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENOMEM: "free memory",
}


_READING_HINTS = _STORAGE_HINTS | {
    errno.EACCES: "let the user that runs temwatch read it and enter each directory above it",
    errno.EPERM: "let the user that runs temwatch read it and enter each directory above it",
}
"""Hints for files that temwatch only reads. It never needs to write where microscopes do."""


def storage_fault(subject: str, tried: str, error: OSError) -> StorageFault:
    """Return the fault for an OSError where temwatch writes; `tried` names the operation, as in "write level 3"."""
    hint = _STORAGE_HINTS.get(error.errno or 0, _IS_THERE)
    return StorageFault(subject, f"could not {tried}: {error.strerror or error}", hint)


def reading_fault(subject: str, tried: str, error: OSError) -> StorageFault:
    """Return the fault for an OSError where temwatch only reads; `tried` is the operation, as in "read the image"."""
    return StorageFault(subject, f"could not {tried}: {error.strerror or error}", reading_hint(error))


def reading_hint(error: OSError) -> str:
    """Return what an operator can do about a file or directory that cannot be read."""
    return _READING_HINTS.get(error.errno or 0, _IS_THERE)
