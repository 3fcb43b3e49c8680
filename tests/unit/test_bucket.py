"""Rules for writing levels into an object store, tested with a bucket in memory."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import xxhash

from handlers.errors import SettingsFault, StoreFault
from handlers.objects.requests import ObjectStat, OtherObject
from handlers.place import Bucket, ObjectPlace
from handlers.stores import bucket as module
from handlers.stores.bucket import TRIES, BucketStore

BUCKET = Bucket("s3", "em")
PLACE = ObjectPlace(BUCKET, "mips/1/a.tif")
CONTENT, OTHER = b"ten bytes!", b"others' 10"


@dataclass
class Object:
    content: bytes
    etag: str | None
    content_type: str
    metadata: dict[str, str]


class Objects:
    """A bucket in memory with conditional writes. Its ETags are MD5s, as in S3."""

    def __init__(self) -> None:
        self.objects: dict[ObjectPlace, Object] = {}
        self.before_put: Callable[[], object] = lambda: None
        self.after_put: Callable[[], object] = lambda: None
        self.etag_of: Callable[[bytes], str | None] = lambda content: f'"{hashlib.md5(content).hexdigest()}"'
        self.stored: Callable[[bytes], bytes] = bytes
        """Returns the bytes that are stored for the bytes of a request."""
        self.puts, self.ranges = 0, []

    def write_as_another_program(self) -> None:
        self.objects[PLACE] = Object(OTHER, self.etag_of(OTHER + bytes(self.puts)), "image/tiff", {})

    def stat(self, place: ObjectPlace) -> ObjectStat | None:
        found = self.objects.get(place)
        if found is None:
            return None
        return ObjectStat(len(found.content), found.etag, found.content_type, None, dict(found.metadata))

    def put(self, place: ObjectPlace, content: bytes, content_type: str, replaces: Any, metadata: Any) -> str | None:
        self.before_put()
        self.puts += 1
        present = self.stat(place)
        if (present and present.etag) != (replaces and replaces.etag):
            raise OtherObject(str(place), "was written by another program at the same time", "")
        etag = self.etag_of(content)
        self.objects[place] = Object(self.stored(content), etag, content_type, dict(metadata))
        self.after_put()
        return etag

    def range(self, place: ObjectPlace, start: int, end: int, version: ObjectStat) -> bytes:
        self.ranges.append((start, end, version.etag))
        return self.objects[place].content[start:end]

    def list(self, directory: ObjectPlace) -> Iterator[tuple[str, ObjectStat]]:
        for place in self.objects:
            found = self.stat(place)
            assert found is not None
            yield place.below(directory), found

    def delete(self, place: ObjectPlace) -> None:
        self.objects.pop(place, None)


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def store(objects: Objects) -> BucketStore:
    return BucketStore(BUCKET, objects)  # type: ignore[arg-type]


def write(store: BucketStore, content: bytes = CONTENT) -> bool:
    return store.write(PLACE, content, "image/tiff")


def once(act: Callable[[], object]) -> Callable[[], object]:
    """Return a function that acts at its first call."""
    left = [act]
    return lambda: left.pop()() if left else None


def test_a_written_object_has_type_and_digests_and_replaces_an_existing_one(store: BucketStore, objects: Objects):
    assert write(store, OTHER) is False
    assert write(store) is True
    found = objects.objects[PLACE]
    assert (found.content, found.content_type) == (CONTENT, "image/tiff")
    md5, digest = hashlib.md5(CONTENT).hexdigest(), xxhash.xxh3_128_hexdigest(CONTENT)
    assert found.metadata == {"md5": md5, "xxh128": digest}
    assert objects.ranges == []  # the ETag is the MD5 of the bytes, so they are not read back


def test_an_object_that_another_program_writes_just_before_is_replaced_at_the_next_try(
    store: BucketStore, objects: Objects
):
    objects.before_put = once(objects.write_as_another_program)
    assert write(store) is True
    assert (objects.puts, objects.objects[PLACE].content) == (2, CONTENT)


def test_an_object_that_another_program_writes_just_after_is_detected_and_replaced(
    store: BucketStore, objects: Objects
):
    objects.after_put = once(objects.write_as_another_program)
    assert write(store) is True
    assert (objects.puts, objects.objects[PLACE].content) == (2, CONTENT)


@pytest.mark.parametrize("moment", ["before_put", "after_put"])
def test_another_program_that_writes_at_every_try_is_a_fault(store: BucketStore, objects: Objects, moment: str):
    setattr(objects, moment, objects.write_as_another_program)
    with pytest.raises(OtherObject, match="by another program at the same time"):
        write(store)
    assert objects.puts == TRIES


@pytest.mark.parametrize("etag", ["0x8DC", '"d41d8cd98f00b204e9800998ecf8427e-2"', None])
def test_the_bytes_are_read_back_if_the_etag_is_not_an_md5(
    store: BucketStore, objects: Objects, monkeypatch: pytest.MonkeyPatch, etag: str | None
):
    monkeypatch.setattr(module, "RANGE_BYTES", 4)
    objects.etag_of = lambda _: etag
    assert write(store) is False
    assert objects.ranges == [(0, 4, etag), (4, 8, etag), (8, 10, etag)]


@pytest.mark.parametrize("position", [0, 5, 9])
def test_a_byte_that_differs_is_a_fault(
    store: BucketStore, objects: Objects, monkeypatch: pytest.MonkeyPatch, position: int
):
    monkeypatch.setattr(module, "RANGE_BYTES", 4)
    objects.etag_of = lambda _: "no MD5"
    objects.stored = lambda content: content[:position] + b"?" + content[position + 1 :]
    with pytest.raises(StoreFault, match="its bytes differ") as fault:
        write(store)
    assert fault.value.subject == str(PLACE)
    assert objects.puts == 1


def test_the_bytes_are_read_back_if_the_etag_is_the_md5_of_other_bytes(store: BucketStore, objects: Objects):
    objects.etag_of = lambda content: hashlib.md5(b"encrypted" + content).hexdigest()
    assert write(store) is False
    assert len(objects.ranges) == 1


def test_another_size_or_type_or_a_missing_object_is_a_fault(store: BucketStore, objects: Objects):
    objects.stored = lambda content: content[:-1]
    with pytest.raises(StoreFault, match="expected 10 bytes, found 9"):
        write(store)
    objects.stored = bytes
    objects.after_put = lambda: setattr(objects.objects[PLACE], "content_type", "text/html")
    with pytest.raises(StoreFault, match="expected the type image/tiff, found text/html"):
        write(store)
    objects.after_put = objects.objects.clear
    with pytest.raises(StoreFault, match="it is not there"):
        write(store)


def test_an_invalid_key_is_refused_before_any_request(
    store: BucketStore, objects: Objects, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(objects, "stat", None)
    monkeypatch.setattr(objects, "put", None)
    with pytest.raises(SettingsFault, match="has an empty name in its key"):
        store.write(ObjectPlace(BUCKET, "mips//a.tif"), CONTENT, "image/tiff")


def test_a_digest_is_known_only_while_the_etag_is_the_md5_in_the_metadata(store: BucketStore, objects: Objects):
    assert store.known_digest(PLACE) is None
    write(store)
    assert store.known_digest(PLACE) == xxhash.xxh3_128_digest(CONTENT)
    found = objects.objects[PLACE]
    for name, value in (("md5", "0" * 32), ("xxh128", "no digest"), ("xxh128", "0" * 31)):
        before, found.metadata = found.metadata, {**found.metadata, name: value}
        assert store.known_digest(PLACE) is None
        found.metadata = before
    before, found.metadata = found.metadata, {"md5": found.metadata["md5"]}
    assert store.known_digest(PLACE) is None
    found.metadata = before
    found.etag = '"d41d8cd98f00b204e9800998ecf8427e"'  # another program has replaced the object
    assert store.known_digest(PLACE) is None
    found.etag = "no MD5"
    assert store.known_digest(PLACE) is None


def test_objects_are_described_listed_and_deleted(store: BucketStore, objects: Objects):
    assert store.stat(PLACE) is None
    write(store)
    stat = store.stat(PLACE)
    assert stat is not None
    assert (stat.size, stat.version) == (len(CONTENT), objects.objects[PLACE].etag)
    assert [(name, each.size) for name, each in store.list(ObjectPlace(BUCKET, "mips/1"))] == [("a.tif", 10)]
    store.delete(PLACE)
    assert objects.objects == {}
    assert (store.url(PLACE), store.free_bytes(PLACE)) == ("s3://em/mips/1/a.tif", None)


@pytest.mark.parametrize(
    ("extension", "content_type"), [("tif", "image/tiff"), ("png", "image/png"), ("jpg", "image/jpeg")]
)
def test_a_page_is_put_with_the_type_of_its_encoding_and_reported_after_the_put(
    store: BucketStore, objects: Objects, extension: str, content_type: str
):
    page, encoding = SimpleNamespace(content=CONTENT), SimpleNamespace(extension=extension)
    reported: list[tuple[bytes, int]] = []
    for replaces in (False, True):
        put: Any = store.put
        assert put(1, PLACE, page, encoding, lambda content: reported.append((content, objects.puts))) is replaces
    assert reported == [(CONTENT, 1), (CONTENT, 2)]
    assert (objects.objects[PLACE].content, objects.objects[PLACE].content_type) == (CONTENT, content_type)
    assert put(1, PLACE, page, encoding) is True
    with store.open(PLACE) as file:
        assert file.read() == CONTENT


def test_an_object_without_an_etag_has_an_empty_version(store: BucketStore, objects: Objects):
    objects.etag_of = lambda _: None
    write(store)
    stat = store.stat(PLACE)
    assert stat is not None
    assert stat.version == ""
