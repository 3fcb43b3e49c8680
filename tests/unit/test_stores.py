"""Stores of levels: the conformance suite with directories and object stores, and the behaviour of object stores."""

import shutil
import subprocess
import threading
from dataclasses import replace

import pytest

from handlers.errors import ImageChanging, StoreFault
from handlers.images.encode import Encoding
from handlers.objects import connection
from handlers.objects.files import open_object, reading_once
from handlers.objects.requests import Objects, OtherObject
from handlers.place import StoreAccess, parse_object
from handlers.stores.bucket import BucketStore
from handlers.stores.directory import DirectoryStore
from tests import object_store, other_stores
from tests.object_store import FaultLayer, place_at
from tests.unit.store_suite import StoreSuite


class TestDirectory(StoreSuite):
    @pytest.fixture
    def root(self, tmp_path):
        return tmp_path

    @pytest.fixture
    def store(self):
        return DirectoryStore()

    def test_temporary_files_are_not_listed(self, store, root):
        self.put(store, root / "a.tif")
        (root / ".b.tif.0a1b2c3d-17-99-0.tmp").write_bytes(b"half")
        assert [name for name, _ in store.list(root)] == ["a.tif"]


class ObjectSuite(StoreSuite):
    """The suite for object stores. Objects are opened by the connection of the store that is tested."""

    @pytest.fixture
    def store(self, root, monkeypatch, engine):
        monkeypatch.setattr("handlers.objects.requests.connection", lambda bucket: engine)
        return BucketStore(root.bucket)


class TestMemory(ObjectSuite):
    @pytest.fixture
    def root(self):
        return parse_object("s3://bucket/mipmaps")

    @pytest.fixture
    def engine(self):
        return pytest.importorskip("obstore.store").MemoryStore()


class TestMoto(ObjectSuite):
    """moto's server, with the connection that workers use."""

    has_checksums = True

    @pytest.fixture
    def root(self, bucket):
        return bucket / "mipmaps"

    @pytest.fixture
    def store(self, root):
        return BucketStore(root.bucket)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    directory = tmp_path_factory.mktemp("versitygw")
    with object_store.environment(), object_store.versitygw(directory) as url:
        (directory / "objects" / "bucket").mkdir()
        yield url


class TestVersitygw(ObjectSuite):
    """versitygw keeps objects in a directory. Unlike moto it checks signatures."""

    has_checksums = True

    @pytest.fixture
    def root(self, gateway, request):
        return place_at(gateway, "bucket", f"t{abs(hash(request.node.nodeid)):x}")

    @pytest.fixture
    def store(self, root):
        return BucketStore(root.bucket)

    def test_invalid_keys_are_refused_with_the_reason(self, root, tmp_path):
        keys = tmp_path / "keys"
        keys.touch(0o600)
        keys.write_text("[default]\naws_access_key_id = temwatch\naws_secret_access_key = wrong\n")
        place = place_at(root.bucket.access.endpoint, "bucket", credentials_file=keys) / "a.tif"
        with pytest.raises(StoreFault, match=r"403 Forbidden.*check the credentials"):
            put(place)
        keys.write_text("[default]\naws_access_key_id = temwatch\naws_secret_access_key = not-secret\n")
        put(place)  # the file is read again


@pytest.fixture
def small_gateway(tmp_path):
    """URL of a versitygw with a disk of 2 MB, and the directory of that disk."""
    objects = tmp_path / "objects"
    objects.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(objects)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        (objects / "bucket").mkdir()
        with object_store.environment(), object_store.versitygw(tmp_path) as url:
            yield url, objects
    finally:
        subprocess.run(["umount", str(objects)], check=True)


def test_a_store_with_a_full_disk_keeps_its_objects_and_accepts_others_when_it_has_space(small_gateway, monkeypatch):
    monkeypatch.setattr(connection, "MAX_RETRIES", 1)
    url, objects = small_gateway
    place = place_at(url, "bucket", "mips")
    _, before = put(place / "a.tif", side=900)
    (objects / "filler").write_bytes(bytes(shutil.disk_usage(objects).free - (256 << 10)))
    for name in ("a.tif", "b.tif"):
        with pytest.raises(StoreFault) as fault:
            put(place / name, seed=2, side=900)
        assert fault.value.waiting_helps == "always"
    assert content(place / "a.tif") == before
    assert [name for name, _ in BucketStore(place.bucket).list(place)] == ["a.tif"]
    (objects / "filler").unlink()
    _, after = put(place / "b.tif", seed=2, side=900)
    assert content(place / "b.tif") == after


def test_an_interrupted_upload_leaves_no_partial_object(gateway, monkeypatch):
    monkeypatch.setattr(connection, "MAX_RETRIES", 1)
    with FaultLayer(gateway).running() as layer:
        place = place_at(layer.url, "bucket", "torn")
        _, before = put(place / "a.tif", side=900)
        layer.rule = lambda request: "torn" if request.method == "PUT" else None
        for name in ("a.tif", "b.tif"):
            with pytest.raises(StoreFault, match="retries continue"):
                put(place / name, seed=2, side=900)
        layer.rule = lambda request: None
        assert content(place / "a.tif") == before
        assert [name for name, _ in BucketStore(place.bucket).list(place)] == ["a.tif"]
        _, after = put(place / "b.tif", seed=2, side=900)
        assert content(place / "b.tif") == after


@pytest.fixture(scope="module")
def azure():
    pytest.importorskip("obstore")
    with other_stores.azurite() as url:
        other_stores.make_container(url, "container")
        yield url


class TestAzurite(ObjectSuite):
    """Azurite speaks Azure's protocol and checks signatures. Its ETags are not MD5 sums, so bytes are read back."""

    @pytest.fixture
    def root(self, azure, request, monkeypatch):
        for name, value in other_stores.AZURE.items():
            monkeypatch.setenv(name, value)
        return in_store("az://container", azure, request)

    @pytest.fixture
    def store(self, root):
        return BucketStore(root.bucket)


@pytest.fixture(scope="module")
def google():
    pytest.importorskip("obstore")
    with other_stores.fake_gcs("bucket") as url:
        yield url


class TestFakeGcs(ObjectSuite):
    """fake-gcs-server has generations for conditional writes, like Google."""

    @pytest.fixture
    def root(self, google, request, monkeypatch):
        for name, value in other_stores.GOOGLE.items():
            monkeypatch.setenv(name, value)
        with other_stores.translating(google).running() as layer:
            yield in_store("gs://bucket", layer.url, request)

    @pytest.fixture
    def store(self, root):
        return BucketStore(root.bucket)


def test_fake_gcs_needs_the_layer_that_translates_uploads(google, request, monkeypatch):
    """If this test fails, the server supports uploads by Google's XML API: remove `other_stores.translating`."""
    monkeypatch.setenv(*next(iter(other_stores.GOOGLE.items())))
    with pytest.raises(StoreFault, match="could not write it: 400 Bad Request"):
        put(in_store("gs://bucket", google, request) / "a.tif")


def in_store(bucket, endpoint, request):
    return parse_object(f"{bucket}/t{abs(hash(request.node.nodeid)):x}", StoreAccess(endpoint=endpoint))


@pytest.fixture(scope="module")
def server():
    with object_store.moto_with_keys() as url:
        yield url


@pytest.fixture
def bucket(server, request):
    name = f"b{abs(hash(request.node.nodeid)):x}"
    object_store.make_bucket(server, name)
    return place_at(server, name)


@pytest.fixture
def faulty(server, bucket):
    """A layer that injects faults, and the bucket behind it."""
    with FaultLayer(server).running() as layer:
        yield layer, place_at(layer.url, bucket.bucket.name)


def put(place, seed=1, side=40):
    encoding = Encoding("tif")
    page = encoding.page(StoreSuite.pixels(seed, side), "text")
    return BucketStore(place.bucket).put(1, place, page, encoding), bytes(page.content)


def content(place):
    with open_object(place) as file:
        return file.read()


class TestMotoThroughFaults(ObjectSuite):
    """Each third request fails. The suite passes, because requests are repeated."""

    has_checksums = True

    @pytest.fixture
    def root(self, faulty):
        layer, place = faulty
        layer.every(3, object_store.SERVER_ERROR, object_store.SLOW_DOWN, "reset", "cut")
        return place / "mipmaps"

    @pytest.fixture
    def store(self, root):
        return BucketStore(root.bucket)


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (object_store.EXPIRED, ("ExpiredToken", "renew the credentials")),
        (object_store.SKEWED, ("RequestTimeTooSkewed", "clock")),
        (object_store.FULL, ("XMinioStorageFull", "retries continue")),
        (object_store.SLOW_DOWN, ("SlowDown", "retries continue")),
        ("reset", ("retries continue",)),
    ],
)
def test_a_lasting_fault_names_object_reason_and_hint_and_leaves_no_partial_object(faulty, answer, texts):
    layer, place = faulty
    put(place / "a.tif")
    before = content(place / "a.tif")
    layer.rule = lambda request: answer if request.method == "PUT" else None
    for name in ("a.tif", "new.tif"):
        with pytest.raises(StoreFault) as fault:
            put(place / name, seed=2)
        assert fault.value.subject == str(place / name)
        assert fault.value.waiting_helps == "always"
        for text in texts:
            assert text in str(fault.value)
    layer.rule = lambda request: None
    assert content(place / "a.tif") == before
    assert BucketStore(place.bucket).stat(place / "new.tif") is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (object_store.EXPIRED, "403 Forbidden: The provided token has expired. (renew the credentials"),
        (object_store.SKEWED, "the server's is too large. (correct this machine's clock"),
        ((403, b""), "could not look it up: 403 Forbidden (check the credentials"),
    ],
)
def test_the_reason_of_a_refused_look_up_is_named_although_answers_to_head_have_none(faulty, answer, text):
    layer, place = faulty
    layer.rule = lambda request: answer
    with pytest.raises(StoreFault) as fault:
        BucketStore(place.bucket).stat(place / "a.tif")
    assert text in str(fault.value)
    layer.rule = lambda request: answer if request.method == "HEAD" else None  # a policy that refuses only HEAD
    with pytest.raises(StoreFault, match="403 Forbidden"):
        BucketStore(place.bucket).stat(place / "a.tif")


def test_a_level_is_one_upload_with_type_checksum_and_condition(faulty):
    layer, place = faulty
    put(place / "a.tif", side=3000)  # 9 MB, which many programs would upload in parts
    put(place / "a.tif", seed=2)
    first, second = [request for request in layer.requests if request.method == "PUT"]
    assert {request.method for request in layer.requests} == {"HEAD", "PUT"}
    for request in (first, second):
        assert request.headers["content-type"] == "image/tiff"
        assert request.headers["x-amz-checksum-sha256"]
    assert first.headers["if-none-match"] == "*"
    assert second.headers["if-match"]


def test_a_put_whose_answer_was_lost_is_recognised_as_done(faulty):
    layer, place = faulty
    lost = iter(["cut"])

    def lose_first(request):
        if request.method != "PUT":
            return None
        return next(lost, None)

    layer.rule = lose_first
    _, written = put(place / "a.tif")
    assert content(place / "a.tif") == written


def test_levels_are_written_to_a_store_without_conditional_writes(faulty):
    layer, place = faulty
    layer.rule = lambda request: (
        object_store.error(501, "NotImplemented")
        if request.method == "PUT" and {"if-match", "if-none-match"} & request.headers.keys()
        else None
    )
    put(place / "a.tif")
    layer.requests.clear()
    _, written = put(place / "a.tif", seed=2, side=3000)  # 9 MB: programs that upload in parts would
    assert content(place / "a.tif") == written
    assert [request.method for request in layer.requests if request.method not in ("HEAD", "GET")] == ["PUT"]
    connection.reconnect(place.bucket)  # the store may have been replaced by one that has conditional writes
    layer.rule = lambda request: None
    put(place / "a.tif", seed=3)
    assert "if-match" in layer.requests[-2].headers


def test_a_store_that_keeps_other_bytes_is_a_fault(faulty, monkeypatch):
    _, place = faulty
    true_put = Objects.put
    monkeypatch.setattr(
        Objects, "put", lambda self, place, content, *rest: true_put(self, place, b"x" + content[1:], *rest)
    )
    with pytest.raises(StoreFault, match="its bytes differ"):
        put(place / "a.tif")


def without_condition(request):
    headers = {name: value for name, value in request.headers.items() if name != "if-match"}
    return replace(request, headers=headers) if request.method == "GET" else request


@pytest.mark.parametrize("translated", [lambda request: request, without_condition], ids=["compared", "ignored"])
def test_an_object_that_is_replaced_while_it_is_read_is_a_changing_image(faulty, translated):
    """A store compares the version with that of the request. A proxy in front of it may drop this condition."""
    layer, place = faulty
    layer.translated = translated
    put(place / "a.tif", side=2300)
    direct = place_at(layer.target, place.bucket.name) / "a.tif"
    gets = iter(range(100))

    def replace_before_the_second_range(request):
        if request.method == "GET" and next(gets) == 1:
            put(direct, seed=2, side=2300)

    layer.rule = replace_before_the_second_range
    with pytest.raises(ImageChanging):
        content(place / "a.tif")
    assert all("if-match" in request.headers for request in layer.requests if request.method == "GET")


def test_an_object_that_is_opened_several_times_is_read_once(faulty):
    layer, place = faulty
    _, written = put(place / "a.tif")
    layer.requests.clear()
    with reading_once():
        assert [content(place / "a.tif") for _ in range(3)] == [written] * 3
    assert len([request for request in layer.requests if request.method == "GET"]) == 1


def test_one_of_two_concurrent_writers_leaves_its_complete_object(faulty):
    _, place = faulty
    contents = [bytes(Encoding("tif").page(StoreSuite.pixels(seed), "text").content) for seed in (1, 2)]
    faults = []

    def write(seed):
        try:
            put(place / "a.tif", seed)
        except OtherObject as fault:  # the other one was faster at each attempt
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(place / "a.tif") in contents
    assert len(faults) < 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1 cannot be reached (Connection refused)"),
        ("http://nowhere.invalid", "http://nowhere.invalid cannot be reached (failed to lookup address information"),
    ],
)
def test_a_store_that_cannot_be_reached_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setattr("handlers.objects.connection.MAX_RETRIES", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    place = place_at(url, "away") / "x"
    with pytest.raises(StoreFault) as caught:
        Objects(place.bucket).stat(place)
    assert caught.value.problem.startswith(f"could not look it up: {reason}")
