"""Places for mipmaps in acceptance tests: a local directory, and object stores of S3, Azure and Google."""

import contextlib
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from handlers.objects.connection import connection
from handlers.place import ObjectPlace, Place, StoreAccess, parse_object
from handlers.stores.choose import store_of
from tests import object_store, other_stores

BUCKET = "mipmaps"
MARKER = ".temwatch"


@dataclass(frozen=True)
class Stored:
    """A place for mipmaps, with the settings that temwatch needs for it."""

    output: Place
    url: str = ""
    """URL below which render-ws reads the levels; empty: it reads them by their paths."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment in which the import commands can access it."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a rig."""
        if isinstance(self.output, Path):
            return {"watch.mipmaps.output_dir": str(self.output)}
        return {
            "watch.mipmaps.output_dir": str(self.output),
            "watch.mipmaps.url": self.url,
            "watch.mipmaps.store.endpoint": self.output.bucket.access.endpoint,
        }

    def beside(self, name: str) -> "Stored":
        """Return another place in the same store."""
        url = f"{self.url.rpartition('/')[0]}/{name}" if self.url else ""
        return Stored(self.output.parent / name, url, self.environment)


@contextlib.contextmanager
def directory(root: Path) -> Iterator[Stored]:
    """A local directory."""
    yield Stored(root / "mipmaps")


@contextlib.contextmanager
def moto(root: Path) -> Iterator[Stored]:
    """moto's server, with a bucket that is public for reading."""
    object_store.require_moto()
    with object_store.moto() as url:
        object_store.make_bucket(url, BUCKET)
        yield _of_s3(url, url)


@contextlib.contextmanager
def versitygw(root: Path) -> Iterator[Stored]:
    """versitygw, which requires a login for reading; so a web server serves its directory."""
    object_store.require_moto()
    with object_store.versitygw(root) as url, web_server(root / "objects") as shown:
        (root / "objects" / BUCKET).mkdir()
        yield _of_s3(url, shown)


def _of_s3(url: str, shown: str) -> Stored:
    output = object_store.place_at(url, BUCKET, "levels")
    return Stored(output, f"{shown}/{BUCKET}/levels", {**object_store.KEYS, "AWS_ENDPOINT_URL_S3": url})


@contextlib.contextmanager
def azurite(root: Path) -> Iterator[Stored]:
    """Azurite, with a container that is public for reading."""
    object_store.require_moto()
    with other_stores.azurite() as url:
        other_stores.make_container(url, BUCKET, is_public=True)
        output = parse_object(f"az://{BUCKET}/levels", StoreAccess(endpoint=url))
        yield Stored(output, f"{url}/{BUCKET}/levels", {**other_stores.AZURE, "AZURE_STORAGE_ENDPOINT": url})


@contextlib.contextmanager
def google(root: Path) -> Iterator[Stored]:
    """fake-gcs-server, which has no logins."""
    object_store.require_moto()
    with other_stores.fake_gcs(BUCKET) as url, other_stores.translating(url).running() as layer:
        output = parse_object(f"gs://{BUCKET}/levels", StoreAccess(endpoint=layer.url))
        yield Stored(output, f"{layer.url}/{BUCKET}/levels", {**other_stores.GOOGLE, "GOOGLE_BASE_URL": layer.url})


KINDS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Stored]]] = {
    "directory": directory,
    "moto": moto,
    "versitygw": versitygw,
    "azurite": azurite,
    "google": google,
}


@contextlib.contextmanager
def web_server(root: Path) -> Iterator[str]:
    """Serve the files of a directory; yield the URL."""
    handler = functools.partial(_Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="web server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


# --- contents of a store


def files_in(directory: Place) -> dict[str, Place]:
    """Return all files below a directory, except for the marker, by their relative path."""
    if isinstance(directory, Path):
        places = [path for path in directory.rglob("*") if path.is_file()]
        found = {str(path.relative_to(directory)): path for path in places}
    else:
        found = {name.key.removeprefix(f"{directory.key}/"): name for name in _objects(directory)}
    return {name: found[name] for name in sorted(found) if name != MARKER}


def _objects(directory: ObjectPlace) -> Iterator[ObjectPlace]:
    import obstore

    pages = obstore.list(connection(directory.bucket), f"{directory.key}/")
    for each in itertools.chain.from_iterable(pages):
        yield ObjectPlace(directory.bucket, each["path"])


def digests_in(directory: Place) -> dict[str, str]:
    """Return the SHA-256 of each file by its relative path."""
    return {name: hashlib.sha256(content_of(place)).hexdigest() for name, place in files_in(directory).items()}


def content_of(place: Place) -> bytes:
    """Return the bytes of a file."""
    with store_of(place).open(place) as file:
        return file.read()


def overwrite(place: Place, content: bytes) -> None:
    """Write a file as another program does, without its type and digest."""
    if isinstance(place, Path):
        place.write_bytes(content)
        return
    import obstore

    obstore.put(connection(place.bucket), place.key, content, use_multipart=False)
