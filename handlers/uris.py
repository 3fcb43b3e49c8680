"""Paths and URIs: quoting, unquoting, and the rule for the place of a mipmap file. Pure."""

import functools
import os
import re
from pathlib import Path
from typing import overload
from urllib.parse import quote, unquote_to_bytes

from handlers.errors import Fault, SettingsFault
from handlers.place import ObjectPlace, Place, key_problem
from handlers.text import printable

_UNQUOTED = "/!$&'()*+,;=:@"
"""Characters that are not escaped, beside letters, digits and `_.-~`: RFC 3986 allows them in a path. render's
MipmapPathBuilder copies the text of URIs, so it finds only files whose URIs have no escapes."""

_PLAIN = re.compile(r"[A-Za-z0-9_.~/!$&'()*+,;=:@-]*")
"""Text that needs no escapes, like nearly every file name of a microscope."""

_EXTENSIONS = {"tif": "tif", "tiff": "tif", "png": "png", "jpg": "jpg", "jpeg": "jpg"}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")

_USERINFO = re.compile(r"(?<=://)[^\s/?#]*@")


def without_userinfo(text: str) -> str:
    """Return the text without the user and password of any URL, so that it may be printed and logged.

    >>> without_userinfo("cannot reach http://em:secret@render:8080/render-ws/v1")
    'cannot reach http://render:8080/render-ws/v1'
    """
    return _USERINFO.sub("", text) if "@" in text else text


def path_to_uri(path: Path | str) -> str:
    """Return the `file:///...` URI of an absolute path, percent-encoded. Repeated slashes become one slash.

    Raises Fault if the path is not absolute or holds a zero byte.

    >>> path_to_uri("/data/tape 151/a#1.tif")
    'file:///data/tape%20151/a%231.tif'
    """
    text = os.fspath(path)
    if not text.startswith("/"):
        raise Fault(text, "is not an absolute path", "give the full path, from / on")
    if "\0" in text:
        raise Fault(repr(text), "holds a zero byte, which is invalid in a path")
    return "file://" + quoted(re.sub("/+", "/", text) if "//" in text else text)


def place_uri(place: Place) -> str:
    """Return the URI of a path of this machine, or the address of an object."""
    return place.url if isinstance(place, ObjectPlace) else path_to_uri(place)


def quoted(text: str) -> str:
    """Return a path, or a part of one, percent-encoded for a URI."""
    if _PLAIN.fullmatch(text):
        return text
    return quote(os.fsencode(text), safe=_UNQUOTED)


def uri_to_path(uri: str) -> Path:
    """Return the path of a `file:` URI. In an absolute path, `%` is an ordinary character.

    Raises Fault for another scheme or host, a relative path, and an unquoted `#` or `?`: the path of a URI ends there,
    so the URIs of several tiles would name the same file.

    >>> uri_to_path("file:/data/tape%20151/a.tif"), uri_to_path("/data/100%25.tif")
    (PosixPath('/data/tape 151/a.tif'), PosixPath('/data/100%25.tif'))
    """
    if uri.startswith("/"):
        return _absolute_path(uri, uri)
    scheme = _SCHEME.match(uri)
    if scheme is None:
        raise Fault(uri, "is neither a file: URI nor an absolute path", "give the full path, from / on")
    if scheme[1].lower() != "file":
        raise Fault(uri, f"has the scheme {scheme[1]!r}", "give a file: URI or an absolute path")
    if "#" in uri or "?" in uri:
        raise Fault(uri, "has an unquoted # or ?, where a URI's path ends", "write # as %23 and ? as %3F")
    return _absolute_path(os.fsdecode(unquote_to_bytes(_without_host(uri, uri[scheme.end() :]))), uri)


@functools.lru_cache(maxsize=16)
def canonical_extension(fmt: str) -> str:
    """Return the file name extension of an image format: tif, png or jpg.

    Raises SettingsFault for another format, which render-ws would not read.

    >>> canonical_extension("TIFF"), canonical_extension(".jpeg")
    ('tif', 'jpg')
    """
    extension = _EXTENSIONS.get(fmt.lower().removeprefix("."))
    if extension is None:
        raise SettingsFault("mipmaps.format", f"{fmt!r} is not one of {', '.join(_EXTENSIONS)}")
    return extension


@overload
def mipmap_path(output_dir: Path, level: int, level0: Place, extension: str) -> Path: ...
@overload
def mipmap_path(output_dir: Place, level: int, level0: Place, extension: str) -> Place: ...
def mipmap_path(output_dir: Place, level: int, level0: Place, extension: str) -> Place:
    """Return the place of a level of the image `level0`: `{output_dir}/{level}/{level0 without leading /}.{ext}`.

    This is the layout of render's MipmapPathBuilder: the new extension is appended to that of level 0. The path of an
    object is its bucket and key.

    Parameters
    ----------
    output_dir, level0 : absolute, or in an object store; level0 without `..`, which would lead out of output_dir.
    level : 1 or more; level 0 is the raw file.
    extension : format or extension in any spelling that `canonical_extension` accepts.

    Raises
    ------
    Fault
        If a path is not absolute or contains `..`, the level is below 1, or the extension is unknown.
    SettingsFault
        If an object store does not accept the key.

    >>> mipmap_path(Path("/mips"), 2, Path("/data/a.tif"), "tiff")
    PosixPath('/mips/2/data/a.tif.tif')
    """
    for path in (output_dir, level0):
        if isinstance(path, Path) and not path.is_absolute():
            raise Fault(str(path), "is not an absolute path", "give the full path, from / on")
    if isinstance(level0, Path) and ".." in str(level0) and ".." in level0.parts:
        raise Fault(str(level0), "has a '..', which would lead out of the mipmap directory")
    if level < 1:
        raise Fault(str(level0), f"expected a mipmap level of 1 or more, found {level}: level 0 is the raw file")
    inside = f"{level0.bucket.name}/{level0.key}" if isinstance(level0, ObjectPlace) else str(level0).lstrip("/")
    place = output_dir / f"{level}/{inside}.{canonical_extension(extension)}"
    if isinstance(place, ObjectPlace) and (problem := key_problem(place.key)):
        raise SettingsFault(
            "mipmaps.output_dir", f"leads to a key that object stores do not accept: {printable(str(place))} {problem}"
        )
    return place


def extracted_path(output_dir: Path, stack: Path, section: int) -> Path:
    """Return the path of the level-0 file that temwatch makes for a section of a stack file (MRC).

    >>> extracted_path(Path("/mips"), Path("/data/a.mrc"), 12)
    PosixPath('/mips/0/data/a.mrc/section_00012.tif')
    """
    return output_dir / "0" / str(stack).lstrip("/") / f"section_{section:05d}.tif"


def _without_host(uri: str, rest: str) -> str:
    """Return the path after `file:`; an empty host and `localhost` stand for this machine."""
    if not rest.startswith("//"):
        return rest
    host, slash, path = rest[2:].partition("/")
    if host.lower() not in {"", "localhost"}:
        raise Fault(uri, f"names the host {host!r}", "mount its share and give the local path")
    return slash + path


def _absolute_path(text: str, uri: str) -> Path:
    if not text.startswith("/"):
        raise Fault(uri, "has a relative path", "give the full path, from / on")
    if "\0" in text:
        raise Fault(uri, "holds a zero byte, which is invalid in a path")
    return Path(re.sub("/+", "/", text))
