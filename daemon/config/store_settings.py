"""The section [watch.mipmaps.store], and addresses in object stores. Pure."""

import importlib.util
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from daemon.config.errors import RefusedKeyError, quoted
from daemon.config.section import OptionalPath, OptionalText, Section, absolute_path
from daemon.config.text import example
from handlers.place import ObjectPlace, StoreAccess, is_object_address, parse_object


def _output_place(value: object) -> object:
    if isinstance(value, ObjectPlace):
        return value
    if isinstance(value, str) and is_object_address(value):
        return store_place(value)
    return absolute_path(value)


def store_place(address: str) -> ObjectPlace:
    """Return the place of an address. Raises ValueError if it is invalid, or if obstore is not installed."""
    place = parse_object(address)
    if importlib.util.find_spec("obstore") is None:
        raise ValueError(f"{quoted(address)} needs the extra object-store: pip install 'temwatch[object-store]'")
    return place


def http_url(value: str) -> str:
    """Return an address for tile specs without its final slash. Raises ValueError if render-ws cannot use it."""
    if not value:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{quoted(value)} is not an address like https://store.example.org/bucket")
    if parts.username is not None:
        raise ValueError("contains a login, which every reader of the stack would see")
    if parts.query or parts.fragment or re.search(r"[^A-Za-z0-9._~:/\[\]@!$&'()*,;=%-]", value):
        raise ValueError(f"{quoted(value)} has a query, a fragment, or characters that need percent-encoding")
    return value.rstrip("/")


def _endpoint(value: str) -> str:
    if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
        raise ValueError(f"{quoted(value)} is not an address like https://store.example.org:9000")
    return value.rstrip("/")


OutputPlace = Annotated[Path | ObjectPlace, BeforeValidator(_output_place)]
LevelUrl = Annotated[str, AfterValidator(http_url)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]


class StoreSettings(Section):
    """Access to the object store of `output_dir`. Credentials come from the usual places of its provider."""

    endpoint: Endpoint = Field("", **example("https://store.example.org:9000", off=True))
    """URL of the store. Empty: that of the provider, or of the environment (`AWS_ENDPOINT_URL`)."""
    region: OptionalText = Field(None, **example("us-east-1", off=True))
    """Region, for s3. Empty: that of the environment (`AWS_REGION`), else us-east-1."""
    path_style: bool | None = Field(None, **example(True, off=True))
    """For s3: whether the bucket is in the path of a URL, not in the name of the host. Not set: true with an
    endpoint."""
    profile: OptionalText = Field(None, **example("em", off=True))
    """For s3: profile in the credentials file. Empty: `AWS_PROFILE`, else default."""
    credentials_file: OptionalPath = Field(None, **example("/etc/temwatch/s3-credentials", off=True))
    """For s3 a file like ~/.aws/credentials, for gs the JSON of a service account. Empty: the usual places. Other users
    must not be able to read it. It is read again when the store refuses its keys, and for s3 every minute."""
    ca_file: OptionalPath = Field(None, **example("/etc/ssl/store-ca.pem", off=True))
    """PEM file of certificate authorities to trust in addition to the system's."""
    proxy: Endpoint = Field("", **example("http://proxy:3128", off=True))
    """URL of an HTTP proxy. Empty: that of the environment (`HTTPS_PROXY`)."""

    def access(self) -> StoreAccess:
        """Return the access to the store."""
        return StoreAccess(
            self.endpoint,
            self.region or "",
            self.path_style,
            self.profile or "",
            self.credentials_file,
            self.ca_file,
            self.proxy,
        )

    def refuse_unused_keys(self, place: Path | ObjectPlace) -> None:
        """Raise RefusedKeyError for a key that has no effect with the store of a place."""
        given = {name for name in type(self).model_fields if getattr(self, name) not in (None, "")}
        if isinstance(place, Path):
            known: set[str] = set()
            kind = "a directory"
        else:
            known = {"endpoint", "ca_file", "proxy"}
            known |= {"s3": {"region", "path_style", "profile", "credentials_file"}, "gs": {"credentials_file"}}.get(
                place.bucket.scheme, set()
            )
            kind = f"{place.bucket.scheme}://"
        for key in sorted(given - known):
            raise RefusedKeyError(f"store.{key}", f"has no effect where output_dir is {kind}: leave it out")
