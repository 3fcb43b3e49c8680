"""The place of a file: a path of this machine, or an object in the bucket of an object store. Pure."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

SCHEMES = ("s3", "gs", "az")
"""Schemes of bucket addresses: S3 and stores with its protocol, Google Cloud Storage, Azure Blob Storage."""
MAX_KEY_BYTES = 1024
"""Longest key of S3, Google Cloud Storage and Azure."""
_ADDRESS = re.compile(
    rf"(?P<scheme>{'|'.join(SCHEMES)})://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?:/(?P<key>.*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """Access to an object store. Secrets are read from the environment or files when a connection is opened."""

    endpoint: str = ""
    """URL of the store; empty: from the environment, else that of the provider."""
    region: str = ""
    path_style: bool | None = None
    """Whether the bucket is in the path of the URL and not in the host's name; None: if there is an endpoint."""
    profile: str = ""
    """Section of the credentials file; empty: from the environment, else "default"."""
    credentials_file: Path | None = None
    """None: the provider's usual files."""
    ca_file: Path | None = None
    """Certificates that are trusted beside those of the system."""
    proxy: str = ""
    """URL of a proxy; empty: from the environment."""


DEFAULT_ACCESS = StoreAccess()
"""Access by the environment and the provider's usual files."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket (an Azure container), and the access to it."""

    scheme: str
    name: str
    access: StoreAccess = DEFAULT_ACCESS

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}"


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """An object, or a prefix of keys that stands for a directory.

    >>> place = parse_object("s3://em/mipmaps")
    >>> str(place / "1/data/a.tif.tif"), (place / "1/a.tif").name, str((place / "1/a.tif").parent)
    ('s3://em/mipmaps/1/data/a.tif.tif', 'a.tif', 's3://em/mipmaps/1')
    """

    bucket: Bucket
    key: str
    """Names with slashes between them; empty: the whole bucket."""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> Self:
        return self._at(f"{self.key}/{name}".strip("/"))

    def _at(self, key: str) -> Self:
        return type(self)(self.bucket, key)

    @property
    def name(self) -> str:
        """The last name of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        """The directory of the object."""
        return self._at(self.key.rpartition("/")[0])

    def with_access(self, access: StoreAccess) -> Self:
        """Return the same place with another access."""
        return type(self)(Bucket(self.bucket.scheme, self.bucket.name, access), self.key)

    @property
    def url(self) -> str:
        """The address, percent-encoded.

        >>> parse_object("s3://em/100%/a+b c.tif").url
        's3://em/100%25/a%2Bb%20c.tif'
        """
        return f"{self.bucket}/{encoded_key(self.key)}".rstrip("/")

    def below(self, directory: "ObjectPlace") -> str:
        """Return the part of the key below a directory. Raises ValueError if it is not below it."""
        start = f"{directory.key}/" if directory.key else ""
        if directory.bucket != self.bucket or not self.key.startswith(start):
            raise ValueError(f"{self} is not below {directory}")
        return self.key[len(start) :]


Place = Path | ObjectPlace
"""Place of a file."""


def is_object_address(text: str) -> bool:
    """Whether a text has the form of an address in an object store, valid or not.

    >>> is_object_address("s3://em/mipmaps"), is_object_address("/data/s3:/em")
    (True, False)
    """
    return text.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def parse_object(text: str, access: StoreAccess = DEFAULT_ACCESS) -> ObjectPlace:
    """Return the place of an address like `s3://bucket/prefix`, as it stands: nothing in it is decoded.

    Raises
    ------
    ValueError
        If it is invalid; the text says why.

    >>> parse_object("gs://em").key
    ''
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"expected an address like s3://bucket/prefix (or gs://, az://), found {text!r}")
    key = (found["key"] or "").rstrip("/")
    if problem := key_problem(key):
        raise ValueError(f"{text!r} {problem}")
    return ObjectPlace(Bucket(found["scheme"], found["bucket"], access), key)


def unreadable_by_render(bucket: Bucket, *, has_endpoint: bool) -> str:
    """Return why tile specs need http addresses of the objects; empty if render-ws reads the bucket's own address.

    >>> unreadable_by_render(Bucket("s3", "em"), has_endpoint=False)
    ''
    """
    if bucket.scheme != "s3":
        return f"is required: render-ws cannot read {bucket.scheme}://"
    return "is required with an endpoint: render-ws reads s3:// of AWS alone" if has_endpoint else ""


def key_problem(key: str) -> str:
    """Return why a store cannot have an object of this key; empty if it can. The empty key stands for the bucket.

    >>> key_problem("a//b"), key_problem("a/../b"), key_problem("a/b+c%20")
    ('has an empty name in its key', "has the name '..' in its key", '')
    """
    if not key:
        return ""
    for name in key.split("/"):
        if not name:
            return "has an empty name in its key"
        if name in (".", ".."):
            return f"has the name {name!r} in its key"
    try:
        key_bytes = len(key.encode())
    except UnicodeEncodeError:
        return "has a name that is not UTF-8, as keys of object stores must be"
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        return "has a control character in its key"
    return f"has a key of {key_bytes} bytes, more than {MAX_KEY_BYTES}" if key_bytes > MAX_KEY_BYTES else ""


def encoded_key(key: str) -> str:
    """Return a key for the path of a URL. Only letters, digits, `-._~` and `/` stay unescaped.

    Stores decode `+` as a space, and some proxies do not accept the other characters that RFC 3986 allows.

    >>> encoded_key("1/tape 7/a+b%20.tif")
    '1/tape%207/a%2Bb%2520.tif'
    """
    return quote(key, safe="/-._~")


def path_of(place: Place) -> Path:
    """Return a place as a path. The caller knows that it is not an object."""
    assert isinstance(place, Path), place
    return place
