"""How an object store is reached: TLS with a certificate authority of one's own, a proxy, Google and Azure."""

import threading
from urllib.parse import unquote

import pytest

from handlers.errors import SettingsFault, StoreFault
from handlers.images.encode import Encoding
from handlers.objects import connection
from handlers.objects.connection import reconnect
from handlers.place import Bucket, StoreAccess, parse_object
from handlers.stores.bucket import BucketStore
from tests import object_store
from tests.certificates import Authority
from tests.object_store import FaultLayer, place_at
from tests.unit.store_suite import StoreSuite

NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def server():
    object_store.require_moto()
    with object_store.keys_in_environment(), object_store.moto() as url:
        object_store.make_bucket(url, "bucket")
        yield url


def put(place):
    encoding = Encoding("tif")
    return BucketStore(place.bucket).put(1, place, encoding.page(StoreSuite.pixels(), "text"), encoding)


def test_a_certificate_authority_of_ones_own_is_trusted_where_it_is_named(server, tmp_path):
    authority = Authority(tmp_path / "ca")
    certificate = authority.server()
    with FaultLayer(server, certificate=(certificate.file, certificate.key)).running() as layer:
        assert layer.url.startswith("https://")
        put(place_at(layer.url, "bucket", ca_file=authority.ca.file) / "tls.tif")
        with pytest.raises(StoreFault) as fault:
            put(place_at(layer.url, "bucket") / "tls.tif")
        assert fault.value.subject == "s3://bucket/tls.tif"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_cannot_be_used_is_named(server, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises((StoreFault, SettingsFault)) as fault:
        put(place_at(server, "bucket", ca_file=path) / "a.tif")
    assert "certificate" in str(fault.value)


def test_requests_go_through_the_proxy(server):
    with FaultLayer(server).running() as proxy:
        put(place_at("http://store:9000", "bucket", proxy=proxy.url) / "a.tif")
        assert {request.headers["host"] for request in proxy.requests} == {"store:9000"}


def test_the_endpoint_may_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    place = parse_object("s3://bucket/environment.tif", StoreAccess(region="us-east-1"))
    put(place)
    assert BucketStore(place.bucket).stat(place) is not None


@pytest.mark.parametrize(
    ("scheme", "environment"),
    [
        ("gs", {"GOOGLE_SKIP_SIGNATURE": "true"}),
        ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "em", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
    ],
)
def test_google_and_azure_are_asked_at_the_endpoint(scheme, environment, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setattr(connection, "MOST_RETRIES", 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with FaultLayer(NOBODY, rule=lambda request: (404, b"")).running() as layer:
        bucket = Bucket(scheme, "bucket", StoreAccess(endpoint=layer.url))
        place = parse_object(f"{scheme}://bucket/a.tif", bucket.access)
        assert BucketStore(bucket).stat(place) is None
        assert "bucket" in layer.requests[0].path
        assert unquote(layer.requests[0].path).endswith("/a.tif")


def test_threads_share_one_connection(server):
    place = place_at(server, "bucket", "shared")
    reconnect(place.bucket)
    found = []
    threads = [threading.Thread(target=lambda: found.append(connection.connection(place.bucket))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1
