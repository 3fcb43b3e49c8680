"""Requests to a bucket. A failure is a fault with the object, the store's reason and a hint."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from handlers.errors import StoreFault
from handlers.objects.connection import (
    connection,
    has_conditions,
    note_without_conditions,
    reconnect,
    store_errors,
)
from handlers.place import Bucket, ObjectPlace
from handlers.text import shorten

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

MAX_REASON = 300
"""Characters of a store's reason that a fault quotes."""
_CODE = re.compile(r"<Code>\s*([^<]{1,100}?)\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]*?)\s*</Message>", re.DOTALL)
_STATUS = re.compile(r"status code: (\d{3}[^:]*)")
_HOST = re.compile(r"Error performing \w+ (\w+://[^/\s]{1,300})")
_CAUSE = re.compile(r'(?:message|error): "([^"]{1,200})"')
"""obstore's text of an error ends with the Rust values of its causes, the innermost last."""
_CONTENT_TYPE = "Content-Type"
_REFUSED = ("401", "403")
"""Beginnings of a status that refuses the credentials."""
_REPLACED = "was replaced while it was read"

_HINTS = {
    "ExpiredToken": "renew the credentials; temwatch reads their file again by itself",
    "TokenRefreshRequired": "renew the credentials; temwatch reads their file again by itself",
    "InvalidAccessKeyId": "check the credentials",
    "XAdminUserNotFound": "check the credentials",
    "SignatureDoesNotMatch": "check the credentials and mipmaps.store.region",
    "AccessDenied": "allow these credentials to read, write and list there",
    "RequestTimeTooSkewed": "correct this machine's clock, or the store's",
    "NoSuchBucket": "create the bucket, or correct mipmaps.output_dir and mipmaps.store",
    "SlowDown": "the store limits the rate of requests; retries continue",
}
_REFUSED_HINT = "check the credentials, and allow them to read, write and list there"
_AWAY_HINT = "check the store and mipmaps.store; retries continue"


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Facts of an object from its store."""

    size: int
    etag: str | None
    """Tag that changes with the content; at S3 often the MD5."""
    content_type: str | None = None
    """None also in listings, which do not contain it."""
    version: str | None = None
    """Generation at Google, which is the condition of a write instead of the ETag."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata from the writer; empty in listings, which do not contain them."""
    modified: datetime | None = None
    """Time of the last change, by the clock of the store."""

    def is_of(self, other: "ObjectMeta") -> bool:
        """Whether an answer is about the same version; without an ETag, size and time decide."""
        if self.size != other["size"]:
            return False
        return self.etag == other["e_tag"] if self.etag else self.modified == other["last_modified"]

    def as_condition(self) -> dict[str, str]:
        """Return the condition of a write that replaces this object, in the form of obstore.

        >>> ObjectStat(9, '"e"', version="17").as_condition()
        {'e_tag': '"e"', 'version': '17'}
        """
        named = {"e_tag": self.etag, "version": self.version}
        return {name: value for name, value in named.items() if value is not None}


class Objects:
    """The objects of one bucket.

    Parameters
    ----------
    store : connection; None: this process's connection to the bucket, opened at the first request.
    """

    def __init__(self, bucket: Bucket, store: "ObjectStore | None" = None) -> None:
        self._bucket = bucket
        self._given = store

    @property
    def _store(self) -> "ObjectStore":
        return self._given or connection(self._bucket)

    def stat(self, place: ObjectPlace) -> ObjectStat | None:
        """Return the facts of an object; None if it does not exist. Raises StoreFault."""
        import obstore

        with self._asking(place, "look it up"):
            try:
                found = obstore.get(self._store, place.key, options={"head": True})
            except FileNotFoundError:
                return None
            except store_errors() as error:
                self._require_reason(place, error)
                raise
            meta, attributes = found.meta, found.attributes
            return ObjectStat(
                meta["size"],
                meta["e_tag"],
                attributes.get(_CONTENT_TYPE),
                meta["version"],
                dict(attributes),
                meta["last_modified"],
            )

    def put(
        self,
        place: ObjectPlace,
        content: bytes | bytearray,
        content_type: str,
        replaces: ObjectStat | None,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> str | None:
        """Write an object in one request, and return its ETag.

        It is never sent in parts: so no upload stays open, and no reader sees a part of the object.

        Parameters
        ----------
        replaces : the object that is replaced; None: the object must not exist.
        metadata : stored with the object; names of letters, digits and `_`, which every store accepts.

        Raises
        ------
        OtherObject
            If another program wrote the object meanwhile.
        StoreFault
            If the object cannot be written.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        errors = store_errors()
        mode: Any = "create" if replaces is None else replaces.as_condition()
        attributes: Any = {_CONTENT_TYPE: content_type, **metadata}
        options: Any = {"attributes": attributes, "use_multipart": False}
        with self._asking(place, "write it"):
            try:
                if has_conditions(self._bucket):
                    return obstore.put(self._store, place.key, content, mode=mode, **options)["e_tag"]
            except (AlreadyExistsError, PreconditionError) as error:
                problem = "was written by another program at the same time"
                raise OtherObject(str(place), problem, "retries continue") from error
            except errors as error:
                if "status code: 501" not in str(error):
                    raise
                note_without_conditions(self._bucket)
            # The store has no conditional writes: the last writer wins, as in a directory.
            return obstore.put(self._store, place.key, content, **options)["e_tag"]

    def range(self, place: ObjectPlace, start: int, end: int, version: ObjectStat) -> bytes:
        """Return bytes of a version of an object.

        The answer has to name the version, too: a store, or a proxy before it, may ignore the condition.

        Raises
        ------
        OtherObject
            If the object was replaced.
        FileNotFoundError
            If the object does not exist.
        StoreFault
            If the object cannot be read.
        """
        import obstore
        from obstore.exceptions import PreconditionError

        options: Any = {"range": (start, end)} | ({"if_match": version.etag} if version.etag else {})
        with self._asking(place, "read it"):
            try:
                found = obstore.get(self._store, place.key, options=options)
                if not version.is_of(found.meta):
                    raise OtherObject(str(place), _REPLACED, "retries continue")
                return bytes(found.bytes())
            except PreconditionError as error:
                raise OtherObject(str(place), _REPLACED, "retries continue") from error

    def list(self, directory: ObjectPlace) -> Iterator[tuple[str, ObjectStat]]:
        """Yield name and facts of each object in a directory, except those in directories below it."""
        import obstore

        with self._asking(directory, "list it"):
            pages = obstore.list_with_delimiter(self._store, directory.key or None)["objects"]
        for each in pages:
            yield each["path"].rpartition("/")[2], ObjectStat(each["size"], each["e_tag"])

    def delete(self, place: ObjectPlace) -> None:
        """Delete an object, if there is one. Raises StoreFault."""
        import obstore

        with self._asking(place, "delete it"):
            try:
                obstore.delete(self._store, place.key)
            except FileNotFoundError:
                return

    def _require_reason(self, place: ObjectPlace, error: Exception) -> None:
        """Raise a refusal with the store's reason, by a request whose answer may have a body, unlike that to a HEAD."""
        import obstore

        if _first(_STATUS, str(error)).startswith(_REFUSED) and not _first(_CODE, str(error)):
            with suppress(FileNotFoundError):
                obstore.get(self._store, place.key, options={"range": (0, 1)})

    @contextmanager
    def _asking(self, place: ObjectPlace, tried: str) -> Iterator[None]:
        """Context of a request, which turns its errors into StoreFault; reading may raise FileNotFoundError."""
        errors = store_errors()
        try:
            yield
        except FileNotFoundError as error:
            if tried == "read it" and "NoSuchBucket" not in str(error):
                raise FileNotFoundError(2, "No such object", str(place)) from error
            raise self._fault(place, tried, error, "NoSuchBucket") from error
        except (errors, ValueError, OSError, RuntimeError) as error:
            raise self._fault(place, tried, error) from error

    def _fault(self, place: ObjectPlace, tried: str, error: Exception, code: str = "") -> StoreFault:
        """Return the fault of an exception. If the credentials were refused, the next request reads them again."""
        text = str(error)
        code = _first(_CODE, text) or code
        status = _first(_STATUS, text)
        is_refused = status.startswith(_REFUSED)
        if is_refused or not status:
            reconnect(self._bucket)
        words = [word for word in (code, status, _first(_MESSAGE, text)) if word]
        reason = ": ".join(words) or _innermost(text)
        return StoreFault(
            str(place),
            f"could not {tried}: {shorten(reason, MAX_REASON)}",
            _HINTS.get(code, _REFUSED_HINT if is_refused else _AWAY_HINT),
        )


class OtherObject(StoreFault):
    """The object is not the expected one, since another program wrote it."""


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip() if found else ""


def _innermost(text: str) -> str:
    """Return the host that cannot be reached and why, or an error's first line without URL and numbers of retries."""
    host, causes = _first(_HOST, text), _CAUSE.findall(text)
    if host and "kind: Connect" in text:
        return f"{host} cannot be reached ({causes[-1] if causes else 'no reason given'})"
    first = text.splitlines()[0] if text else "no reason given"
    first = re.sub(r"Error performing \S+ \S+ ", "", first)
    return re.sub(r"in [\d.]+\w+(, after .*?retry_timeout: \S+)?\s+- ", "", first).strip()
