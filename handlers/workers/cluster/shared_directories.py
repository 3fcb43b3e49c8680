"""The directories of a job, and the proof that a worker sees the same directories as the daemon.

On another host, a directory of the same name may be a different one: if its mount is missing there, an empty directory
is left. So there are three tests: the daemon writes a token beside the output and the worker reads it; the worker
writes a reply and the daemon reads it; both read the same bytes of a level-0 file.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from handlers.errors import Fault, storage_fault
from handlers.mipmaps.job import MipmapJob
from handlers.place import ObjectPlace, Place
from handlers.regular_file import NotRegular, read_regular
from handlers.sharing import Sharing, make_directories

PROOF_PREFIX = ".temwatch-proof-"
"""Prefix of the files that are written beside the output and deleted after the proof."""
SAMPLE_BYTES = 1 << 16
"""Bytes that are compared, at the beginning of level 0."""
ABANDONED_S = 3600.0
"""Age from which a token counts as left by a daemon that was killed."""
_MAX_TOKEN_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Ground:
    """The directories in which a job reads and writes. Jobs of one watch have the same ground."""

    images: Place
    """Directory of level 0."""
    output: Place
    """Directory of the levels."""

    def __str__(self) -> str:
        return f"{self.images} and {self.output}"


@dataclass(frozen=True, slots=True)
class Sample:
    """Size and first bytes of a level-0 file."""

    path: Path
    size: int
    """Bytes of the whole file."""
    digest: bytes
    """Digest of the first SAMPLE_BYTES."""


@dataclass(frozen=True, slots=True)
class Task:
    """The proof that a worker must give."""

    ground: Ground
    sample: Sample | None
    """None: level 0 is in an object store, or does not exist."""
    token: Path | None
    """File beside the output that the worker reads; None: the output is in an object store."""
    level0: Place
    text: str
    """Content of the token."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A worker's answer to a task."""

    problem: str = ""
    """Why the worker cannot take jobs; empty if its own tests pass."""
    reply: Path | None = None
    """The file that the worker wrote beside the output."""


def ground_of(job: Any) -> Ground | None:
    """Return the ground of a job; None for work other than mipmaps, which any worker may do."""
    if not isinstance(job, MipmapJob) or not job.outputs:
        return None
    images = job.root.path if job.root else job.level0.parent
    output = job.output_dir or job.outputs[0][1].parent
    return Ground(images, output)


def sharing_of(job: Any) -> Sharing:
    """Return mode and group of the directories that the job makes."""
    assert isinstance(job, MipmapJob)
    return job.sharing


# --- on the daemon's machine


def begin_proof(ground: Ground, level0: Place, token: str, sharing: Sharing) -> Task:
    """Write the token, and return the task for a worker. Blocking.

    Raises
    ------
    StorageFault
        If the daemon itself cannot write beside the output.
    """
    written = None
    if not isinstance(ground.output, ObjectPlace):
        written = ground.output / f"{PROOF_PREFIX}{token}"
        try:
            make_directories(ground.output, sharing)
            _remove_abandoned(ground.output)
            _write(written, token)
        except OSError as error:
            raise storage_fault(str(ground.output), "write a proof beside the output", error) from error
    return Task(ground, _sample_of(level0), written, level0, token)


def conclude_proof(task: Task, proof: Proof) -> str:
    """Read the worker's reply, and return why the worker cannot take jobs; empty if it can. Blocking."""
    if proof.problem or task.token is None:
        return proof.problem
    try:
        found = read_regular(proof.reply, _MAX_TOKEN_BYTES)[0] if proof.reply else b""
    except (OSError, NotRegular):
        found = b""
    if found != task.text.encode():
        what = f"files that it writes to {task.ground.output} do not reach the daemon"
        return f"{what}: another file system is mounted there"
    return ""


def end_proof(task: Task, proof: Proof | None) -> None:
    """Delete the files of a proof. Blocking."""
    for path in (task.token, proof.reply if proof else None):
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def _sample_of(level0: Place) -> Sample | None:
    if isinstance(level0, ObjectPlace):
        return None
    try:
        content, status = read_regular(level0, SAMPLE_BYTES)
    except (OSError, NotRegular):
        return None  # the job itself reports it
    return Sample(level0, status.st_size, _digest(content))


def _remove_abandoned(output: Path) -> None:
    oldest = time.time() - ABANDONED_S
    for path in output.glob(f"{PROOF_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()


# --- on the worker's host


def prove(task: Task, name: str) -> Proof:
    """Test what this process sees, and return the answer. The paths of the task are those of this host. Blocking.

    Parameters
    ----------
    name : name of this worker, for the file that it writes.
    """
    try:
        problem = next(_problems(task, name), "")
    except Fault as fault:
        problem = str(fault)
    if problem or task.token is None:
        return Proof(problem)
    reply = task.token.with_name(f"{task.token.name}-{name}")
    try:
        _write(reply, task.text)
        found = read_regular(reply, _MAX_TOKEN_BYTES)[0]
    except (OSError, NotRegular) as error:
        return Proof(f"cannot write to {task.ground.output}: {_text(error)}")
    differs = found != task.text.encode()
    return Proof(f"reads other bytes than it wrote in {task.ground.output}" if differs else "", reply)


def _problems(task: Task, name: str) -> Iterator[str]:
    if task.sample is not None:
        yield from _sample_problems(task.sample)
    elif isinstance(task.level0, ObjectPlace):
        from handlers.objects.requests import Objects

        Objects(task.level0.bucket).stat(task.level0)
    if task.token is not None:
        yield from _token_problems(task.token, task)
    elif isinstance(task.ground.output, ObjectPlace):
        _write_object(task.ground.output / f"{PROOF_PREFIX}{task.text}-{name}", task.text)


def _token_problems(token: Path, task: Task) -> Iterator[str]:
    try:
        found = read_regular(token, _MAX_TOKEN_BYTES)[0]
    except (OSError, NotRegular) as error:
        yield f"cannot read the daemon's file in {task.ground.output}: {_text(error)}"
        return
    if found != task.text.encode():
        yield f"reads other bytes than the daemon wrote in {task.ground.output}"


def _write_object(place: ObjectPlace, text: str) -> None:
    """Write an object, compare it and delete it. Raises StorageFault."""
    from handlers.stores.bucket import BucketStore

    store = BucketStore(place.bucket)
    try:
        store.write(place, text.encode(), "application/octet-stream")
    except Fault:
        with contextlib.suppress(Fault):  # the object may have been written
            store.delete(place)
        raise
    store.delete(place)


def _sample_problems(sample: Sample) -> Iterator[str]:
    try:
        content, status = read_regular(sample.path, SAMPLE_BYTES)
    except (OSError, NotRegular) as error:
        yield f"does not see {sample.path}: {_text(error)}"
        return
    if status.st_size != sample.size or _digest(content) != sample.digest:
        yield f"sees another file than the daemon at {sample.path}"


def _text(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _digest(content: bytes) -> bytes:
    return xxhash.xxh3_128_digest(content)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
