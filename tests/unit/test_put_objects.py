"""Faults of writing and reading an object: a lost content type, changed bytes, a size above the limit."""

from dataclasses import replace

import pytest

from handlers.errors import ImageFault, StoreFault
from handlers.images.encode import Encoding
from handlers.objects import connection
from handlers.objects.files import open_object
from handlers.stores.bucket import BucketStore
from tests import object_store
from tests.object_store import FaultLayer, place_at
from tests.unit.store_suite import StoreSuite


def put(place, side=40):
    encoding = Encoding("tif")
    BucketStore(place.bucket).put(1, place, encoding.page(StoreSuite.pixels(side=side), "text"), encoding)


@pytest.fixture
def layer():
    with object_store.moto_with_keys() as url, FaultLayer(url).running() as layer:
        object_store.make_bucket(url, "bucket")
        yield layer


def without_type(request):
    """Return the request without the content type of its object."""
    headers = {name: value for name, value in request.headers.items() if name.lower() != "content-type"}
    return replace(request, headers=headers) if request.method == "PUT" else request


def test_an_object_whose_type_was_lost_is_a_fault(layer):
    """render-ws reads an image by its Content-Type and does not guess."""
    layer.translated = without_type
    with pytest.raises(StoreFault, match="expected the type image/tiff, found binary/octet-stream"):
        put(place_at(layer.url, "bucket") / "a.tif")


def test_an_object_above_the_size_limit_is_not_read(layer, monkeypatch):
    place = place_at(layer.url, "bucket") / "a.tif"
    put(place)
    layer.requests.clear()
    monkeypatch.setattr("handlers.objects.files.MAX_BYTES", 1000)
    with pytest.raises(ImageFault, match=r"expected at most 1\.00 kB of an image"), open_object(place):
        pass
    assert [request.method for request in layer.requests] == ["HEAD"]


def corrupted(request):
    """Return the request with another first byte of its object."""
    return replace(request, body=b"x" + request.body[1:]) if request.method == "PUT" else request


def test_a_store_refuses_bytes_that_changed_during_the_transfer(tmp_path, monkeypatch):
    """versitygw compares what it received with the checksum that was sent; moto does not."""
    monkeypatch.setattr(connection, "MAX_RETRIES", 0)
    pytest.importorskip("obstore")
    with object_store.environment(), object_store.versitygw(tmp_path) as url, FaultLayer(url).running() as layer:
        (tmp_path / "objects" / "bucket").mkdir()
        layer.translated = corrupted
        place = place_at(layer.url, "bucket") / "a.tif"
        with pytest.raises(StoreFault, match="could not write it: "):
            put(place)
        assert BucketStore(place.bucket).stat(place) is None
