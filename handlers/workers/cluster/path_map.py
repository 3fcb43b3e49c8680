"""Translating paths between the daemon's machine and the workers' hosts. Pure.

The two directions are inverse to each other. A path for which they are not is refused: a worker would read or write
another file.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from handlers.container import Container
from handlers.errors import SettingsFault
from handlers.mipmaps.report import FaultReport
from handlers.workers.cluster.access import WorkerPath

T = TypeVar("T")
_KEY = "workers.path_map"
_PATH = re.compile(r"""(?<![^\s('"\[`=<])/\S*""")
"""An absolute path in a text, up to the next space, with the punctuation that follows it. A slash elsewhere is inside
of a longer path, a URL, or an address such as `nas:/data`."""
_ENDS = """.,:;!?)'"]`>"""
"""Punctuation that may follow a path."""


def of_host(entries: Iterable[WorkerPath], names: Iterable[str]) -> "HostPaths":
    """Return the path pairs of a host, whose name matches the pattern of an entry.

    Parameters
    ----------
    names : names of the host, with and without its domain.

    >>> of_host([WorkerPath("node*", Path("/data"), Path("/mnt/em"))], ["node7"]).to_worker(Path("/data/a.tif"))
    PosixPath('/mnt/em/a.tif')
    >>> of_host([WorkerPath("node*", Path("/data"), Path("/mnt/em"))], ["gpu1"]).to_worker(Path("/data/a.tif"))
    PosixPath('/data/a.tif')
    """
    known = tuple(names)
    return HostPaths(
        tuple(
            (entry.local, entry.worker)
            for entry in entries
            if any(fnmatch.fnmatchcase(name, entry.hosts) for name in known)
        )
    )


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Pairs of directories (on the daemon's machine, on a worker's host); the longest match applies."""

    pairs: tuple[tuple[Path, Path], ...] = ()

    def to_worker(self, path: Path) -> Path:
        """Return a path as the host sees it. Raises SettingsFault if that maps back to another path of the daemon."""
        seen = _moved(path, self.pairs)
        if self.to_local(seen) != path:
            problem = f"{path} maps to {seen} of the workers, which maps back to {self.to_local(seen)} of the daemon"
            raise SettingsFault(_KEY, problem, "correct the entries")
        return seen

    def to_local(self, path: Path) -> Path:
        """Return a path of the host as the daemon sees it."""
        return _moved(path, [(worker, local) for local, worker in self.pairs])

    def text_to_local(self, text: str) -> str:
        """Return a text with the paths of the host replaced by those of the daemon.

        A path is replaced as a whole name after another: neither `/data2` nor `/mnt/data` contains `/data`. Only a name
        that continues after a space is not recognised, as of `/data old` where `/data` is a directory of the map.

        >>> paths = HostPaths(((Path("/data"), Path("/mnt/em")),))
        >>> paths.text_to_local("/mnt/em/a.tif: is not in /mnt/em (see /mnt/em2, /old/mnt/em)")
        '/data/a.tif: is not in /data (see /mnt/em2, /old/mnt/em)'
        """
        return _PATH.sub(lambda found: self._shown_local(found[0]), text) if self.pairs else text

    def _shown_local(self, text: str) -> str:
        """Return a text that begins with a path of the host, with the daemon's path instead."""
        for local, worker in sorted(self.pairs, key=lambda pair: len(pair[1].parts), reverse=True):
            before, after = (str(each).rstrip("/") for each in (worker, local))
            rest = text.removeprefix(before)
            if text.startswith(before) and (rest.startswith("/") or not rest.strip(_ENDS)):
                return f"{after}{rest}" if rest.startswith("/") else f"{after or '/'}{rest}"
        return text

    def job_to_worker(self, job: T) -> T:
        """Return a job with its paths replaced by those of the host."""
        return _with_paths(job, self.to_worker, lambda text: text) if self.pairs else job

    def report_to_local(self, report: T) -> T:
        """Return a report with its paths replaced by those of the daemon, also in the texts of faults and notes."""
        return _with_paths(report, self.to_local, self.text_to_local) if self.pairs else report


def _moved(path: Path, pairs: Iterable[tuple[Path, Path]]) -> Path:
    matching = [pair for pair in pairs if path.is_relative_to(pair[0])]
    if not matching:
        return path
    before, after = max(matching, key=lambda pair: len(pair[0].parts))
    return after / path.relative_to(before)


def _with_paths(value: Any, moved: Callable[[Path], Path], text: Callable[[str], str]) -> Any:
    """Return a value with all paths and texts in it replaced, also in nested tuples and dataclasses."""
    if isinstance(value, Path):
        return moved(value)
    if isinstance(value, Container):
        path = moved(value.path)
        # Resolved on another machine at another path: host "" makes the worker resolve it again.
        return value if path == value.path else Container(path, path, host="")
    if isinstance(value, FaultReport):
        return replace(value, subject=text(value.subject), problem=text(value.problem), hint=text(value.hint))
    if type(value) is tuple:
        return tuple(text(each) if isinstance(each, str) else _with_paths(each, moved, text) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _with_changes(
            value, {each.name: _with_paths(getattr(value, each.name), moved, text) for each in fields(value)}
        )
    return value


def _with_changes(value: Any, found: Mapping[str, Any]) -> Any:
    changes = {name: each for name, each in found.items() if each is not getattr(value, name)}
    return replace(value, **changes) if changes else value
