"""A directory mounted a second time by FUSE. Its server can be stopped, so that every access hangs, or answer late.

`python -m tests.acceptance.passthrough DIRECTORY MOUNT [DELAY_S [CACHED_S]]` runs the server; `Mount` starts, stops and
ends it.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH208
# Paths are bytes here, as libfuse gives them.

import ctypes
import ctypes.util
import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS = (
    "getattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "chmod", "chown",
    "truncate", "open", "read", "write", "statfs", "flush", "release", "fsync", "setxattr", "getxattr", "listxattr",
    "removexattr", "opendir", "readdir", "releasedir", "fsyncdir", "init", "destroy", "access", "create", "lock",
    "utimens", "bmap", "ioctl", "poll", "write_buf", "read_buf", "flock", "fallocate", "copy_file_range", "lseek",
)  # fmt: skip
"""Members of libfuse's `struct fuse_operations`, version 3, in order."""

MAX_READS, LOOKUPS = "user.max_reads_at_once", "user.lookups"
"""Extended attributes of the mount in which the server returns its counts."""
CACHED_S = 3.0
"""Time for which the kernel caches the attributes of files on a late server; it caches names ten times as long. NFS has
the same times by default."""
AT_ONCE = 128
"""Number of requests that a late server processes at once."""
END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG: the kernel signals this process when its parent has ended; libfuse then unmounts."""
READ = 0
"""Number of the system call in which the server waits for a request; it reads files with other calls."""
WHY_NOT = (
    "no /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK)
    else "fusermount3 is not installed: apt install fuse3"
    if shutil.which("fusermount3") is None or ctypes.util.find_library("fuse3") is None
    else "the structures of libfuse are defined for x86-64 only"
    if platform.machine() != "x86_64"
    else "FUSE mounts need root here"
    if os.geteuid() != 0
    else ""
)
"""The reason why nothing can be mounted; empty if mounting works."""


class Mount:
    """A mount of `source` at `target`, until `close`.

    Parameters
    ----------
    delay_s : delay of each answer, as of a distant file server. The server then answers many requests at once, and the
        kernel caches the pages of files that have not changed, as with NFS.
    cached_s : time for which the kernel caches attributes if there is a delay; names are cached ten times as long.
    """

    def __init__(self, source: Path, target: Path, delay_s: float = 0.0, *, cached_s: float = CACHED_S) -> None:
        self.target = target
        target.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.acceptance.passthrough", str(source), str(target)]
        command += [str(delay_s), str(cached_s)]
        self._server = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + 60
        while not os.path.ismount(target):
            assert self._server.poll() is None, "the FUSE server ended"
            assert time.monotonic() < deadline, "the FUSE mount did not come up"
            time.sleep(0.02)

    def hang(self) -> None:
        """Make every access hang, as on a hard NFS mount. A hanging process can be killed.

        A process whose request the server is processing cannot be killed, so the server is stopped while it waits for a
        request.
        """
        while True:
            self._server.send_signal(signal.SIGSTOP)
            if Path(f"/proc/{self._server.pid}/syscall").read_text().startswith(f"{READ} "):
                return
            self._server.send_signal(signal.SIGCONT)
            time.sleep(0.001)

    def answer(self) -> None:
        """Let hanging accesses continue."""
        self._server.send_signal(signal.SIGCONT)

    def max_reads_at_once(self) -> int:
        """Return the largest number of reads that were processed at the same time."""
        return int(os.getxattr(self.target, MAX_READS))

    def lookups(self) -> int:
        """Return how often a file was opened, or its name or attributes were requested."""
        return int(os.getxattr(self.target, LOOKUPS))

    def close(self) -> None:
        """Unmount the directory. Hanging accesses end with an error."""
        self._server.kill()
        self._server.wait()
        subprocess.run(["umount", "-l", str(self.target)], check=False)


class _Stat(ctypes.Structure):
    _fields_ = [
        *((f"st_{name}", ctypes.c_ulong) for name in ("dev", "ino", "nlink")),
        *((f"st_{name}", ctypes.c_uint) for name in ("mode", "uid", "gid", "pad")),
        *((f"st_{name}", ctypes.c_ulong) for name in ("rdev", "size", "blksize", "blocks")),
        ("times", ctypes.c_long * 6),
        ("reserved", ctypes.c_long * 3),
    ]


class _Statvfs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_ulong)
        for name in (
            "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_fsid",
            "f_flag", "f_namemax",
        )
    ] + [("spare", ctypes.c_int * 6)]  # fmt: skip


_Fill = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_int)
_PATH, _ADDRESS, _NUMBER, _OFFSET = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_long
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "getattr": (_PATH, ctypes.POINTER(_Stat), _ADDRESS),
    "mkdir": (_PATH, _NUMBER),
    "unlink": (_PATH,),
    "rmdir": (_PATH,),
    "rename": (_PATH, _PATH, _NUMBER),
    "chmod": (_PATH, _NUMBER, _ADDRESS),
    "chown": (_PATH, _NUMBER, _NUMBER, _ADDRESS),
    "truncate": (_PATH, _OFFSET, _ADDRESS),
    "open": (_PATH, _ADDRESS),
    "read": (_PATH, _ADDRESS, ctypes.c_size_t, _OFFSET, _ADDRESS),
    "write": (_PATH, _ADDRESS, ctypes.c_size_t, _OFFSET, _ADDRESS),
    "statfs": (_PATH, ctypes.POINTER(_Statvfs)),
    "fsync": (_PATH, ctypes.c_int, _ADDRESS),
    "fsyncdir": (_PATH, ctypes.c_int, _ADDRESS),
    "readdir": (_PATH, _ADDRESS, _Fill, _OFFSET, _ADDRESS, ctypes.c_int),
    "create": (_PATH, _NUMBER, _ADDRESS),
    "utimens": (_PATH, ctypes.POINTER(ctypes.c_long * 4), _ADDRESS),
    "getxattr": (_PATH, _PATH, _ADDRESS, ctypes.c_size_t),
}


class _Passthrough:
    """Performs each operation on the underlying directory, by path."""

    def __init__(self, source: str) -> None:
        self._source = os.fsencode(source)
        self._lock = threading.Lock()
        self._reads = self._max_reads = self._lookups = 0

    def begin_read(self) -> None:
        with self._lock:
            self._reads += 1
            self._max_reads = max(self._max_reads, self._reads)

    def end_read(self) -> None:
        with self._lock:
            self._reads -= 1

    def _count_lookup(self, path: bytes) -> None:
        with self._lock:
            self._lookups += path != b"/"  # the kernel requests those of the root at any time

    def getxattr(self, _: bytes, name: bytes, buffer: int, size: int) -> int:
        numbers = {MAX_READS: self._max_reads, LOOKUPS: self._lookups}
        if os.fsdecode(name) not in numbers:
            raise OSError(errno.ENODATA, "no such attribute")
        text = str(numbers[os.fsdecode(name)]).encode()
        if size:
            ctypes.memmove(buffer, text, len(text))
        return len(text)

    def at(self, path: bytes) -> bytes:
        return self._source + path

    def getattr(self, path: bytes, stat: Any, _: Any) -> None:
        self._count_lookup(path)
        found, into = os.lstat(self.at(path)), stat.contents
        for name in ("ino", "nlink", "mode", "uid", "gid", "rdev", "size", "blksize", "blocks"):
            setattr(into, f"st_{name}", getattr(found, f"st_{name}"))
        for index, at_ns in enumerate((found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)):
            into.times[2 * index], into.times[2 * index + 1] = divmod(at_ns, 10**9)

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def rename(self, path: bytes, onto: bytes, _: int) -> None:
        os.rename(self.at(path), self.at(onto))

    def chmod(self, path: bytes, mode: int, _: Any) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: bytes, user: int, group: int, _: Any) -> None:
        os.chown(self.at(path), *((-1 if each == 2**32 - 1 else each) for each in (user, group)))

    def truncate(self, path: bytes, size: int, _: Any) -> None:
        os.truncate(self.at(path), size)

    def open(self, path: bytes, _: Any) -> None:
        self._count_lookup(path)
        os.lstat(self.at(path))

    def create(self, path: bytes, mode: int, _: Any) -> None:
        os.close(os.open(self.at(path), os.O_CREAT | os.O_WRONLY, mode))

    def read(self, path: bytes, buffer: int, size: int, offset: int, _: Any) -> int:
        descriptor = os.open(self.at(path), os.O_RDONLY)
        try:
            return os.preadv(descriptor, [(ctypes.c_char * size).from_address(buffer)], offset)
        finally:
            os.close(descriptor)

    def write(self, path: bytes, buffer: int, size: int, offset: int, _: Any) -> int:
        descriptor = os.open(self.at(path), os.O_WRONLY)
        try:
            return os.pwrite(descriptor, ctypes.string_at(buffer, size), offset)
        finally:
            os.close(descriptor)

    def statfs(self, path: bytes, into: Any) -> None:
        found = os.statvfs(self.at(path))
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "flag", "namemax"):
            setattr(into.contents, f"f_{name}", getattr(found, f"f_{name}"))

    def fsync(self, *_: Any) -> None:
        """Do nothing: writes are not buffered."""

    fsyncdir = fsync

    def readdir(self, path: bytes, buffer: int, fill: Any, _: int, __: Any, ___: int) -> None:
        for name in (b".", b"..", *os.listdir(self.at(path))):
            fill(buffer, name, None, 0, 0)

    def utimens(self, path: bytes, times: Any, _: Any) -> None:
        accessed_s, accessed_ns, modified_s, modified_ns = times.contents
        os.utime(self.at(path), ns=(accessed_s * 10**9 + accessed_ns, modified_s * 10**9 + modified_ns))


def _answering(method: Callable[..., int | None]) -> Callable[..., int]:
    def answer(*arguments: Any) -> int:
        try:
            return method(*arguments) or 0
        except OSError as error:
            return -(error.errno or errno.EIO)

    return answer


def _late(method: Callable[..., int], delay_s: float) -> Callable[..., int]:
    def answer(*arguments: Any) -> int:
        time.sleep(delay_s)
        return method(*arguments)

    return answer


def _counted(passthrough: _Passthrough, method: Callable[..., int]) -> Callable[..., int]:
    def answer(*arguments: Any) -> int:
        passthrough.begin_read()
        try:
            return method(*arguments)
        finally:
            passthrough.end_read()

    return answer


def _serve_many(connection: Any, _: int) -> None:
    """Set max_background and congestion_threshold of `struct fuse_conn_info`, for many requests of the read-ahead."""
    connection[7] = connection[8] = AT_ONCE


def serve(source: str, target: str, delay_s: float = 0.0, cached_s: float = CACHED_S) -> int:
    """Serve a directory at another one until it is unmounted, or until the test ends or is killed."""
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGTERM)
    library = ctypes.CDLL(ctypes.util.find_library("fuse3"))
    operations = (ctypes.c_void_p * len(OPERATIONS))()
    passthrough, kept = _Passthrough(source), []
    for name, signature in _SIGNATURES.items():
        method = _answering(getattr(passthrough, name))
        if delay_s and name != "getxattr":
            method = _late(method, delay_s)
        function = ctypes.CFUNCTYPE(ctypes.c_int, *signature)(
            _counted(passthrough, method) if name == "read" else method
        )
        kept.append(function)
        operations[OPERATIONS.index(name)] = ctypes.cast(function, ctypes.c_void_p)
    words = [b"passthrough", os.fsencode(target), b"-f"]
    if delay_s:
        begin = ctypes.CFUNCTYPE(_ADDRESS, ctypes.POINTER(_NUMBER), _ADDRESS)(_serve_many)
        operations[OPERATIONS.index("init")] = ctypes.cast(begin, ctypes.c_void_p)
        cached = f"attr_timeout={cached_s:g},entry_timeout={10 * cached_s:g}"
        threads = f"max_threads={AT_ONCE + 8},max_idle_threads={AT_ONCE + 8}"
        words += [b"-o", f"allow_other,auto_cache,{cached},{threads}".encode()]
    else:
        words += [b"-s", b"-o", b"allow_other,attr_timeout=0,entry_timeout=0"]
    argv = (ctypes.c_char_p * len(words))(*words)
    return int(library.fuse_main_real(len(words), argv, operations, ctypes.sizeof(operations), None))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])))
