"""Path map: a path as this machine sees it, and as render-ws sees it, in both directions. Pure.

render-ws may see the same storage at another path: in a container, on another server, or as a Windows drive or share.
The two directions are inverse to each other: a path or URL for which they are not is refused, because render-ws and
this machine would then use different files under one name.
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
"""Characters that a name on Windows cannot have, and endings that Windows drops."""
_MOST_CACHED = 4096
"""Directories whose URL is kept; one montage has one directory."""


@dataclass(frozen=True, slots=True)
class Place:
    """A path on render's side."""

    anchor: str
    """Empty for a POSIX path, `Z:` for a drive, `//server/share` for a share."""
    parts: tuple[str, ...]

    @property
    def is_windows(self) -> bool:
        """Whether it is a path of Windows, where upper and lower case are the same."""
        return bool(self.anchor)

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Key of equal places."""
        return (self.anchor.lower(), tuple(part.lower() for part in self.parts)) if self.anchor else ("", self.parts)

    @property
    def path(self) -> str:
        """The path with slashes, as Java accepts it on every system."""
        return "/".join((self.anchor, *self.parts)) if self.parts else f"{self.anchor}/"

    @property
    def url(self) -> str:
        """The `file:` URL. A share has no host in it, since Java's `File` accepts none: `file:////server/share/a.tif`.

        >>> Place("Z:", ("data", "a b.tif")).url, Place("//nas/em", ("a.tif",)).url
        ('file:///Z:/data/a%20b.tif', 'file:////nas/em/a.tif')
        """
        return ("file:///" if self.anchor.endswith(":") else "file://") + quoted(self.path)

    def below(self, other: "Place") -> tuple[str, ...] | None:
        """Return the parts of this place below another one; None if it is not below it."""
        length = len(other.parts)
        is_below = Place(self.anchor, self.parts[:length]).key == other.key
        return self.parts[length:] if is_below else None


def parse_place(text: str) -> Place:
    r"""Return the place that a text names: `/data`, `Z:\data`, `Z:/data`, `\\server\share\data` or `//server/share`.

    Raises SettingsFault for any other text, and for a path with `..`.

    >>> parse_place(r"Z:\data\temca2"), parse_place("//nas/em")
    (Place(anchor='Z:', parts=('data', 'temca2')), Place(anchor='//nas/em', parts=()))
    """
    place = _windows_place(text)
    if place is None and text.startswith("/"):
        place = Place("", _names(text, "/"))
    if place is None:
        raise SettingsFault(
            _KEY, f"{text!r} is not an absolute path of render-ws", r"write /data, Z:\data or \\server\share\data"
        )
    if ".." in place.parts or "\0" in text:
        raise SettingsFault(_KEY, f"{text!r} contains '..' or a zero byte", "write the path without it")
    if invalid := next((part for part in place.parts if place.is_windows and _NO_WINDOWS_NAME.search(part)), None):
        raise SettingsFault(_KEY, f"{text!r} contains {invalid!r}, which is no name on Windows", "correct the path")
    return place


def _windows_place(text: str) -> Place | None:
    """Return the drive or share that a text begins with, and the names after it; None for another text."""
    if drive := _DRIVE.match(text):
        return Place(f"{drive[1]}:", _names(text[drive.end() :], r"/\\"))
    if share := _SHARE.match(text):
        return Place(f"//{share[1]}/{share[2]}", _names(text[share.end() :], r"/\\"))
    return None


def _names(text: str, separators: str) -> tuple[str, ...]:
    return tuple(name for name in re.split(f"[{separators}]+", text) if name not in ("", "."))


@dataclass(frozen=True, slots=True)
class _Pair:
    local: tuple[str, ...]
    """Names of the path on this machine, from the root on."""
    render: Place

    @property
    def last_names(self) -> Iterator[str]:
        """The last name on either side, lower case."""
        return (parts[-1].lower() for parts in (self.local, self.render.parts) if parts)


@dataclass(frozen=True, slots=True)
class PathMap:
    """Pairs of paths; of several that match, the longest counts. Without pairs both sides see the same paths."""

    pairs: tuple[_Pair, ...] = ()
    _last_names: frozenset[str] = frozenset()
    """A file of such a name may itself be one side of a pair."""
    _bases: dict[str, tuple[str, bool]] = field(default_factory=dict, compare=False, repr=False)
    """From a directory to its URL with a final slash, and whether it is a path of Windows."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[Path, str]]) -> Self:
        """Return the map of pairs (path on this machine, path on render's side).

        Raises
        ------
        SettingsFault
            If a path is invalid, or one of the sides is named twice.
        """
        made = [_Pair(_local_names(local), parse_place(render)) for local, render in pairs]
        for side, keys in (
            ("local", ["/" + "/".join(pair.local) for pair in made]),
            ("render", [Place(*pair.render.key).path for pair in made]),
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
            If the path is not absolute, if Windows cannot name it, or if render-ws has another file at its place.

        >>> PathMap.of([(Path("/data"), "/storage/em")]).to_url("/data/temca2/a.tif")
        'file:///storage/em/temca2/a.tif'
        """
        if not self.pairs:
            return path_to_uri(path)
        text = os.fspath(path)
        directory, _, name = text.rpartition("/")
        if not directory or name in ("", ".", "..") or name.lower() in self._last_names:
            return self.place_of(text).url
        base, is_windows = self._bases.get(directory) or self._base_of(directory)
        if not base:
            return self.place_of(text).url
        _require_name(text, name, is_windows=is_windows)
        return base + quoted(name)

    def _base_of(self, directory: str) -> tuple[str, bool]:
        """Return the URL of a directory, empty if it is refused, and whether it is a path of Windows."""
        try:
            place = self.place_of(directory)
        except Fault:  # the file will be refused under its own name
            return "", False
        if len(self._bases) >= _MOST_CACHED:
            self._bases.clear()
        base = place.url if place.url.endswith("/") else f"{place.url}/"
        self._bases[directory] = (base, place.is_windows)
        return self._bases[directory]

    def place_of(self, path: Path | str) -> Place:
        """Return the place of a path on render's side. Raises Fault as `to_url` does."""
        text = os.fspath(path)
        names = _local_names(text)
        place = self._mapped(names)
        for name in place.parts:
            _require_name(text, name, is_windows=place.is_windows)
        if self._unmapped(place) != names:
            other = "another path" if (back := self._unmapped(place)) is None else "/" + "/".join(back)
            raise Fault(
                text,
                f"would be {place.path} for render-ws, which is {other} here by render.path_map",
                f"correct {_KEY}",
            )
        return place

    def _mapped(self, names: tuple[str, ...]) -> Place:
        for pair in self.pairs:
            if names[: len(pair.local)] == pair.local:
                return Place(pair.render.anchor, pair.render.parts + names[len(pair.local) :])
        return Place("", names)

    def base_of(self, path: Path) -> Path | None:
        """Return the directory of this machine whose entry counts for a path; None without an entry."""
        names = _local_names(path)
        matching = (pair.local for pair in self.pairs if names[: len(pair.local)] == pair.local)
        return next((Path("/", *local) for local in matching), None)

    def root_path(self, directory: Path) -> str:
        """Return a directory as the root path of a stack's path builder, with a final slash."""
        return self.place_of(directory).path.rstrip("/") + "/" if self.pairs else f"{directory}/"

    def derived(self, level0: Path) -> Path:
        """Return the path of level 0 that render's path builder copies below its root: that on render's side.

        Raises SettingsFault for a drive: the builder makes no valid path of a URL with a second colon.
        """
        if not self.pairs:
            return level0
        place = self.place_of(level0)
        if place.anchor.endswith(":"):
            raise SettingsFault(
                "mipmaps.apply", f"'path_builder' cannot be used: {place.path} is on a drive", "use 'tiles'"
            )
        return Path("/" + place.path.lstrip("/"))

    # --- from render-ws to this machine

    def to_path(self, url: str) -> Path:
        """Return the path on this machine of a URL or path that a tile spec of render-ws names.

        Raises
        ------
        Fault
            As `uri_to_path` does for what is no file; and if render-ws sees the path of this machine elsewhere.

        >>> PathMap.of([(Path("/data"), "Z:\\\\em")]).to_path("file:///z:/EM/temca2/a.tif")
        PosixPath('/data/temca2/a.tif')
        """
        if not self.pairs:
            return uri_to_path(url)
        for place in _places(url):
            if (names := self._through_pair(place)) is not None:
                return self._required(url, names, place)
        path = uri_to_path(url)
        return self._required(url, _local_names(path), None)

    def _required(self, url: str, names: tuple[str, ...], place: Place | None) -> Path:
        """Return the local path. Raises Fault unless render-ws sees it at the place, or unmapped if there is none."""
        seen = self._mapped(names)
        if ".." in names or seen.key != (place or Place("", names)).key:
            here = "/" + "/".join(names)
            raise Fault(
                url,
                f"would be {here} here, which is {seen.path} for render-ws by render.path_map",
                f"ingest its metafile again, or correct {_KEY}",
            )
        return Path("/" + "/".join(names))

    def _unmapped(self, place: Place) -> tuple[str, ...] | None:
        mapped = self._through_pair(place)
        return mapped if mapped is not None or place.is_windows else place.parts

    def _through_pair(self, place: Place) -> tuple[str, ...] | None:
        """Return the local names of a place by the longest pair that matches; None without one."""
        matching = [(pair, rest) for pair in self.pairs if (rest := place.below(pair.render)) is not None]
        if not matching:
            return None
        pair, rest = max(matching, key=lambda each: len(each[0].render.parts))
        return pair.local + rest


NO_MAP = PathMap()
"""Both sides see the same paths."""


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


def _places(url: str) -> Iterator[Place]:
    """Yield the places that a URL or a bare path may mean on render's side: of Windows first, then of POSIX."""
    uri = _FILE_URI.match(url)
    if uri is None:
        text = url
    elif "#" in url or "?" in url:
        return  # `uri_to_path` refuses it
    else:
        text = os.fsdecode(unquote_to_bytes(_with_share(url[uri.end() :])))
    if (place := _windows_place(text)) is not None:
        yield place
    if text.startswith("/"):
        yield Place("", _names(text, "/"))


def _with_share(rest: str) -> str:
    """Return what follows `file:` as a path: without the two slashes of an empty host, or with the host as a server."""
    host = _HOST.match(rest)
    if host is None:
        return rest.removeprefix("//") if rest.startswith("//") else rest
    return rest[host.end() :] if host[1].lower() == "localhost" else rest
