"""Path map: translates between paths of this machine and paths of render-ws. Pure.

render-ws may see the same storage at another path: in a container, on another server, or as a Windows drive or share.
The two directions are inverse to each other. A path or URL for which they are not is refused: render-ws and this
machine would use different files under one name.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import unquote_to_bytes

from handlers.errors import Fault, SettingsFault
from handlers.uris import path_to_uri, quoted, uri_to_path

_KEY = "render.path_map"
_DRIVE = re.compile(r"/?([A-Za-z]):(?=[/\\]|\Z)")
_SHARE = re.compile(r"(?://|\\\\)([^/\\]+)[/\\]+([^/\\]+)")
_FILE_URI = re.compile(r"file:", re.IGNORECASE)
_HOST = re.compile(r"//([^/]+)(?=/)")
_NO_WINDOWS_NAME = re.compile(r'[\\/:*?"<>|\x00-\x1f]|[. ]\Z')
"""Characters that a Windows name cannot contain, and endings that Windows drops."""
_MAX_CACHED = 4096
"""Largest number of directories whose URLs are cached; a montage has one directory."""


@dataclass(frozen=True, slots=True)
class RenderPath:
    """An absolute path of the machine of render-ws, POSIX or Windows."""

    anchor: str
    """Empty for a POSIX path, `Z:` for a drive, `//server/share` for a share."""
    parts: tuple[str, ...]

    @property
    def is_windows(self) -> bool:
        """Whether it is a Windows path, in which upper and lower case are the same."""
        return bool(self.anchor)

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Key for comparing paths: in lower case for Windows."""
        return (self.anchor.lower(), tuple(part.lower() for part in self.parts)) if self.anchor else ("", self.parts)

    @property
    def path(self) -> str:
        """The path with slashes, which Java accepts on every system."""
        return "/".join((self.anchor, *self.parts)) if self.parts else f"{self.anchor}/"

    @property
    def url(self) -> str:
        """The `file:` URL. For a share it has no host, since Java's `File` accepts none: `file:////server/share/a.tif`.

        >>> RenderPath("Z:", ("data", "a b.tif")).url, RenderPath("//nas/em", ("a.tif",)).url
        ('file:///Z:/data/a%20b.tif', 'file:////nas/em/a.tif')
        """
        return ("file:///" if self.anchor.endswith(":") else "file://") + quoted(self.path)

    def below(self, other: "RenderPath") -> tuple[str, ...] | None:
        """Return the parts of this path below another path; None if it is not below it."""
        length = len(other.parts)
        is_below = RenderPath(self.anchor, self.parts[:length]).key == other.key
        return self.parts[length:] if is_below else None


def parse_render_path(text: str) -> RenderPath:
    r"""Return the path that a text names: `/data`, `Z:\data`, `Z:/data`, `\\server\share\data` or `//server/share`.

    Raises SettingsFault for any other text, and for a path with `..`.

    >>> parse_render_path(r"Z:\data\temca2"), parse_render_path("//nas/em")
    (RenderPath(anchor='Z:', parts=('data', 'temca2')), RenderPath(anchor='//nas/em', parts=()))
    """
    place = _windows_path(text)
    if place is None and text.startswith("/"):
        place = RenderPath("", _names(text, "/"))
    if place is None:
        raise SettingsFault(
            _KEY, f"{text!r} is not an absolute path of render-ws", r"write /data, Z:\data or \\server\share\data"
        )
    if ".." in place.parts or "\0" in text:
        raise SettingsFault(_KEY, f"{text!r} contains '..' or a zero byte", "write the path without it")
    if invalid := next((part for part in place.parts if place.is_windows and _NO_WINDOWS_NAME.search(part)), None):
        raise SettingsFault(
            _KEY, f"{text!r} contains {invalid!r}, which is not a valid name on Windows", "correct the path"
        )
    return place


def _windows_path(text: str) -> RenderPath | None:
    """Return the Windows path of a text that begins with a drive or a share; None for another text."""
    if drive := _DRIVE.match(text):
        return RenderPath(f"{drive[1]}:", _names(text[drive.end() :], r"/\\"))
    if share := _SHARE.match(text):
        return RenderPath(f"//{share[1]}/{share[2]}", _names(text[share.end() :], r"/\\"))
    return None


def _names(text: str, separators: str) -> tuple[str, ...]:
    return tuple(name for name in re.split(f"[{separators}]+", text) if name not in ("", "."))


@dataclass(frozen=True, slots=True)
class _Pair:
    local: tuple[str, ...]
    """Names of the path of this machine, from the root on."""
    render: RenderPath

    @property
    def last_names(self) -> Iterator[str]:
        """The last names of both sides, in lower case."""
        return (parts[-1].lower() for parts in (self.local, self.render.parts) if parts)


@dataclass(frozen=True, slots=True)
class PathMap:
    """Pairs of a local path and a render path; the longest match applies. Without pairs, both sides use equal paths."""

    pairs: tuple[_Pair, ...] = ()
    _last_names: frozenset[str] = frozenset()
    """Last names of both sides of all pairs: a file of such a name may itself be one side of a pair."""
    _bases: dict[str, tuple[str, bool]] = field(default_factory=dict, compare=False, repr=False)
    """Cache: directory -> its URL with a final slash, and whether that is a Windows path."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[Path, str]]) -> Self:
        """Return the map of pairs (path of this machine, path of render-ws).

        Raises
        ------
        SettingsFault
            If a path is invalid, or two pairs have the same path on one side.
        """
        made = [_Pair(_local_names(local), parse_render_path(render)) for local, render in pairs]
        for side, keys in (
            ("local", ["/" + "/".join(pair.local) for pair in made]),
            ("render", [RenderPath(*pair.render.key).path for pair in made]),
        ):
            if twice := next((key for index, key in enumerate(keys) if key in keys[:index]), None):
                raise SettingsFault(_KEY, f"{side} = {twice!r} stands in two entries", "keep one of them")
        longest_first = sorted(made, key=lambda pair: len(pair.local), reverse=True)
        return cls(tuple(longest_first), frozenset(name for pair in made for name in pair.last_names))

    def __bool__(self) -> bool:
        return bool(self.pairs)

    # --- from this machine to render-ws

    def to_url(self, path: Path | str) -> str:
        """Return the URL by which render-ws reads a file of this machine.

        Raises
        ------
        Fault
            If the path is not absolute, is invalid on Windows, or if its render path maps back to another path.

        >>> PathMap.of([(Path("/data"), "/storage/em")]).to_url("/data/temca2/a.tif")
        'file:///storage/em/temca2/a.tif'
        """
        if not self.pairs:
            return path_to_uri(path)
        text = os.fspath(path)
        directory, _, name = text.rpartition("/")
        if not directory or name in ("", ".", "..") or name.lower() in self._last_names:
            return self.render_path_of(text).url
        base, is_windows = self._bases.get(directory) or self._base_of(directory)
        if not base:
            return self.render_path_of(text).url
        _require_name(text, name, is_windows=is_windows)
        return base + quoted(name)

    def _base_of(self, directory: str) -> tuple[str, bool]:
        """Return the URL of a directory, empty if it is refused, and whether it is a Windows path."""
        try:
            place = self.render_path_of(directory)
        except Fault:  # the caller refuses the file by its own path
            return "", False
        if len(self._bases) >= _MAX_CACHED:
            self._bases.clear()
        base = place.url if place.url.endswith("/") else f"{place.url}/"
        self._bases[directory] = (base, place.is_windows)
        return self._bases[directory]

    def render_path_of(self, path: Path | str) -> RenderPath:
        """Return the render path of a path of this machine. Raises Fault as `to_url` does."""
        text = os.fspath(path)
        names = _local_names(text)
        place = self._mapped(names)
        for name in place.parts:
            _require_name(text, name, is_windows=place.is_windows)
        if self._unmapped(place) != names:
            other = "another path" if (back := self._unmapped(place)) is None else "/" + "/".join(back)
            raise Fault(
                text,
                f"maps to {place.path} of render-ws, which maps back to {other} of this machine",
                f"correct {_KEY}",
            )
        return place

    def _mapped(self, names: tuple[str, ...]) -> RenderPath:
        for pair in self.pairs:
            if names[: len(pair.local)] == pair.local:
                return RenderPath(pair.render.anchor, pair.render.parts + names[len(pair.local) :])
        return RenderPath("", names)

    def base_of(self, path: Path) -> Path | None:
        """Return the local directory of the pair that applies to a path; None if no pair does."""
        names = _local_names(path)
        matching = (pair.local for pair in self.pairs if names[: len(pair.local)] == pair.local)
        return next((Path("/", *local) for local in matching), None)

    def root_path(self, directory: Path) -> str:
        """Return a directory as the root path of a stack's path builder: as render-ws sees it, with a final slash."""
        return self.render_path_of(directory).path.rstrip("/") + "/" if self.pairs else f"{directory}/"

    def derived(self, level0: Path) -> Path:
        """Return level 0 as render-ws sees it: its path builder appends this path to its root.

        Raises SettingsFault for a drive: the builder makes no valid path from a URL with a second colon.
        """
        if not self.pairs:
            return level0
        place = self.render_path_of(level0)
        if place.anchor.endswith(":"):
            raise SettingsFault(
                "mipmaps.apply", f"'path_builder' cannot be used: {place.path} is on a drive", "use 'tiles'"
            )
        return Path("/" + place.path.lstrip("/"))

    # --- from render-ws to this machine

    def to_path(self, url: str) -> Path:
        """Return the path of this machine for a URL or path in a tile spec of render-ws.

        Raises
        ------
        Fault
            As `uri_to_path`; and if the path of this machine maps back to another render path.

        >>> PathMap.of([(Path("/data"), "Z:\\\\em")]).to_path("file:///z:/EM/temca2/a.tif")
        PosixPath('/data/temca2/a.tif')
        """
        if not self.pairs:
            return uri_to_path(url)
        for place in _render_paths(url):
            if (names := self._through_pair(place)) is not None:
                return self._required(url, names, place)
        path = uri_to_path(url)
        return self._required(url, _local_names(path), None)

    def _required(self, url: str, names: tuple[str, ...], place: RenderPath | None) -> Path:
        """Return the local path. Raises Fault unless it maps back to `place`, or to itself if `place` is None."""
        seen = self._mapped(names)
        if ".." in names or seen.key != (place or RenderPath("", names)).key:
            here = "/" + "/".join(names)
            raise Fault(
                url,
                f"maps to {here} of this machine, which maps back to {seen.path} of render-ws",
                f"ingest its metafile again, or correct {_KEY}",
            )
        return Path("/" + "/".join(names))

    def _unmapped(self, place: RenderPath) -> tuple[str, ...] | None:
        mapped = self._through_pair(place)
        return mapped if mapped is not None or place.is_windows else place.parts

    def _through_pair(self, place: RenderPath) -> tuple[str, ...] | None:
        """Return the local names of a render path by the longest pair that matches; None if none matches."""
        matching = [(pair, rest) for pair in self.pairs if (rest := place.below(pair.render)) is not None]
        if not matching:
            return None
        pair, rest = max(matching, key=lambda each: len(each[0].render.parts))
        return pair.local + rest


NO_MAP = PathMap()
"""The map without pairs: both sides use equal paths."""


def _local_names(path: Path | str) -> tuple[str, ...]:
    """Return the names of an absolute path of this machine. Raises Fault for another path, and for `..`."""
    path_to_uri(path)
    names = PurePosixPath(os.fspath(path)).parts[1:]
    if ".." in names:
        raise Fault(os.fspath(path), "contains '..'", "give the path without it")
    return names


def _require_name(path: str, name: str, *, is_windows: bool) -> None:
    if is_windows and _NO_WINDOWS_NAME.search(name):
        raise Fault(path, f"has the name {name!r}, which Windows does not allow", "rename it: render-ws cannot read it")
    if "\0" in name:
        raise Fault(repr(path), "holds a zero byte, which is invalid in a path")


def _render_paths(url: str) -> Iterator[RenderPath]:
    """Yield the render paths that a URL or a bare path may mean: the Windows path first, then the POSIX path."""
    uri = _FILE_URI.match(url)
    if uri is None:
        text = url
    elif "#" in url or "?" in url:
        return  # `uri_to_path` refuses it
    else:
        text = os.fsdecode(unquote_to_bytes(_with_share(url[uri.end() :])))
    if (place := _windows_path(text)) is not None:
        yield place
    if text.startswith("/"):
        yield RenderPath("", _names(text, "/"))


def _with_share(rest: str) -> str:
    """Return the rest of a URL after `file:` as a path. An empty host is dropped; another host is a share's server."""
    host = _HOST.match(rest)
    if host is None:
        return rest.removeprefix("//") if rest.startswith("//") else rest
    return rest[host.end() :] if host[1].lower() == "localhost" else rest
