"""Connections to object stores: certificate authorities, proxies, endpoints, credentials and retries."""

import base64
import json
import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from handlers.errors import StoreFault
from handlers.images.encode import Encoding
from handlers.objects import connection
from handlers.objects.connection import reconnect
from handlers.place import Bucket, StoreAccess, parse_object
from handlers.stores.bucket import BucketStore
from tests import object_store, other_stores
from tests.certificates import Authority
from tests.object_store import FaultLayer, place_at
from tests.unit.store_suite import StoreSuite

NO_SERVER = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def server():
    object_store.require_moto()
    with object_store.environment(), object_store.moto() as url:
        object_store.make_bucket(url, "bucket")
        yield url


def put(place):
    encoding = Encoding("tif")
    return BucketStore(place.bucket).put(1, place, encoding.page(StoreSuite.pixels(), "text"), encoding)


def test_a_private_certificate_authority_is_trusted_if_it_is_configured(server, tmp_path):
    authority = Authority(tmp_path / "ca")
    certificate = authority.server()
    with FaultLayer(server, certificate=(certificate.file, certificate.key)).running() as layer:
        assert layer.url.startswith("https://")
        put(place_at(layer.url, "bucket", ca_file=authority.ca.file) / "tls.tif")
        with pytest.raises(StoreFault) as fault:
            put(place_at(layer.url, "bucket") / "tls.tif")
        assert fault.value.subject == "s3://bucket/tls.tif"


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_file_without_certificates_is_named(server, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(StoreFault, match="certificates") as fault:
        put(place_at(server, "bucket", ca_file=path) / "a.tif")
    assert (fault.value.subject, fault.value.hint) == (str(path), "check mipmaps.store.ca_file")


def test_requests_go_through_the_proxy(server):
    with FaultLayer(server).running() as proxy:
        put(place_at("http://store:9000", "bucket", proxy=proxy.url) / "a.tif")
        assert {request.headers["host"] for request in proxy.requests} == {"store:9000"}


def test_requests_go_through_the_proxy_of_the_environment_except_to_its_exceptions(server, monkeypatch):
    with FaultLayer(server).running() as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        put(place_at("http://store:9001", "bucket") / "a.tif")
        assert {request.headers["host"] for request in proxy.requests} == {"store:9001"}
        proxy.requests.clear()
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        place = place_at(server, "bucket", "direct") / "a.tif"
        reconnect(place.bucket)
        put(place)
        assert proxy.requests == []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_the_endpoint_can_be_in_the_environment(server, monkeypatch, name):
    monkeypatch.setenv(name, server)
    place = parse_object(f"s3://bucket/{name}.tif", StoreAccess(region="us-east-1"))
    reconnect(place.bucket)
    put(place)
    assert BucketStore(place.bucket).stat(place) is not None


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_a_configured_endpoint_has_precedence_over_that_of_the_environment(server, monkeypatch, name):
    monkeypatch.setenv(name, NO_SERVER)
    place = place_at(server, "bucket") / f"{name}.tif"
    reconnect(place.bucket)
    put(place)
    assert BucketStore(place.bucket).stat(place) is not None


@pytest.mark.parametrize(
    ("scheme", "name", "others"),
    [
        ("gs", "GOOGLE_BASE_URL", other_stores.GOOGLE),
        ("az", "AZURE_STORAGE_ENDPOINT", other_stores.AZURE),
        ("az", "AZURE_ENDPOINT", other_stores.AZURE),
    ],
)
def test_the_environment_can_name_a_store_without_tls(scheme, name, others, monkeypatch):
    pytest.importorskip("obstore")
    with FaultLayer(NO_SERVER, rule=lambda request: (404, b"")).running() as layer:
        for key, value in {**others, name: layer.url}.items():
            monkeypatch.setenv(key, value)
        place = parse_object(f"{scheme}://bucket/a.tif")
        reconnect(place.bucket)
        assert BucketStore(place.bucket).stat(place) is None
        reconnect(place.bucket)
        assert layer.requests


@pytest.mark.parametrize(
    ("path_style", "host", "path"),
    [
        (None, "store:9000", "/bucket/a%2Bb.tif"),
        (True, "store:9000", "/bucket/a%2Bb.tif"),
        (False, "bucket.store:9000", "/a%2Bb.tif"),
    ],
)
def test_the_bucket_is_in_the_path_or_in_the_host_and_the_region_in_the_signature(server, path_style, host, path):
    with FaultLayer(NO_SERVER, rule=lambda request: (404, b"")).running() as proxy:
        access = StoreAccess("http://store:9000", "us-gov-west-7", path_style, proxy=proxy.url)
        place = parse_object("s3://bucket/a+b.tif", access)
        assert BucketStore(place.bucket).stat(place) is None
    (request,) = proxy.requests
    assert (request.headers["host"], request.path) == (host, f"http://{host}{path}")
    assert "/us-gov-west-7/s3/aws4_request" in request.headers["authorization"]


def test_a_request_is_repeated_a_limited_number_of_times(server, monkeypatch):
    monkeypatch.setattr(connection, "MAX_RETRIES", 2)
    with FaultLayer(server, rule=lambda request: object_store.SLOW_DOWN).running() as layer:
        place = place_at(layer.url, "bucket") / "a.tif"
        with pytest.raises(StoreFault, match="503 Service Unavailable"):
            put(place)
    assert len(layer.requests) == 3


def test_retries_have_a_growing_and_limited_back_off(server):
    """By default the library would retry ten times in three minutes."""
    place = place_at(server, "bucket")
    config = connection.connection(place.bucket).retry_config
    assert (config["max_retries"], config["retry_timeout"]) == (4, timedelta(seconds=20))
    backoff = config["backoff"]
    assert timedelta(0) < backoff["init_backoff"] < backoff["max_backoff"] < config["retry_timeout"]
    assert backoff["base"] > 1
    options = connection.connection(place.bucket).client_options
    assert (options["connect_timeout"], options["timeout"]) == ("5s", "1m")


def test_a_request_that_a_store_never_answers_times_out(server, monkeypatch):
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    monkeypatch.setattr(connection, "MAX_RETRIES", 0)
    released = threading.Event()

    def hold(request):
        released.wait(60)

    with FaultLayer(server, rule=hold).running() as layer:
        place = place_at(layer.url, "bucket") / "a.tif"
        try:
            with pytest.raises(StoreFault, match="could not look it up"):
                BucketStore(place.bucket).stat(place)
        finally:
            released.set()


# --- credentials


def test_renewed_keys_are_used_at_the_first_request_after_a_refusal(server, tmp_path):
    """Otherwise obstore would use the former keys for another minute."""
    keys = tmp_path / "credentials"
    keys.touch(0o600)

    def write_key(name):
        keys.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = s\n")

    def refuse_old_key(request):
        return object_store.EXPIRED if "Credential=old/" in request.headers["authorization"] else None

    write_key("old")
    with FaultLayer(server, rule=refuse_old_key).running() as layer:
        place = place_at(layer.url, "bucket", credentials_file=keys) / "a.tif"
        with pytest.raises(StoreFault, match="token has expired"):
            put(place)
        write_key("new")
        put(place)


def test_keys_of_the_role_of_the_machine_are_requested_and_sign_requests(server, monkeypatch):
    keys = {"AccessKeyId": "of-role", "SecretAccessKey": "s", "Token": "session", "Code": "Success"}
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answers = {
        "/latest/api/token": b"token of the machine",
        "/latest/meta-data/iam/security-credentials/": b"em",
        "/latest/meta-data/iam/security-credentials/em": json.dumps({**keys, "Expiration": expires}).encode(),
    }
    for name in object_store.KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    with (
        FaultLayer(NO_SERVER, rule=lambda request: (200, answers[request.path])).running() as machine,
        FaultLayer(server).running() as layer,
    ):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", machine.url)
        place = place_at(layer.url, "bucket") / "role.tif"
        put(place)
    assert [request.path for request in machine.requests] == list(answers)
    for request in layer.requests:
        assert "Credential=of-role/" in request.headers["authorization"]
        assert request.headers["x-amz-security-token"] == "session"


@pytest.fixture(scope="module")
def service_account():
    """Function that writes the file of a service account. All accounts have the same key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout

    def write(path, email):
        account = {"type": "service_account", "client_email": email, "private_key_id": "k", "private_key": key}
        path.touch(0o600)
        path.write_text(json.dumps(account))
        return path

    return write


def test_an_account_file_that_other_users_can_read_is_refused(tmp_path, service_account):
    pytest.importorskip("obstore")
    path = service_account(tmp_path / "account.json", "em@facility")
    path.chmod(0o644)
    place = parse_object("gs://bucket/a.tif", StoreAccess(credentials_file=path))
    with pytest.raises(StoreFault, match=r"account.json is open to other users \(chmod 0640"):
        BucketStore(place.bucket).stat(place)


@pytest.mark.parametrize(
    "name",
    [
        *("", "GOOGLE_APPLICATION_CREDENTIALS", "SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT"),
        *("GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN"),
        *("GOOGLE_Bearer_Token", "GOOGLE_SKIP_SIGNATURE", "GOOGLE_BASE_URL", "GOOGLE_BUCKET", "GOOGLE_PROXY_URL"),
    ],
)
def test_a_configured_service_account_has_precedence_over_the_environment(monkeypatch, tmp_path, service_account, name):
    pytest.importorskip("obstore")
    path = service_account(tmp_path / "account.json", "em@facility")
    other = service_account(tmp_path / "other.json", "other@facility")
    special = {
        "GOOGLE_SERVICE_ACCOUNT_KEY": other.read_text(),
        "GOOGLE_SKIP_SIGNATURE": "true",
        "GOOGLE_BASE_URL": NO_SERVER,
        "GOOGLE_PROXY_URL": NO_SERVER,
    }
    monkeypatch.delenv("GOOGLE_BEARER_TOKEN", raising=False)
    if name:
        monkeypatch.setenv(name, special.get(name, str(other)))
    with FaultLayer(NO_SERVER, rule=lambda request: (404, b"")).running() as layer:
        access = StoreAccess(endpoint="http://store:9000", credentials_file=path, proxy=layer.url)
        assert BucketStore(Bucket("gs", "bucket", access)).stat(parse_object("gs://bucket/a.tif", access)) is None
    (request,) = layer.requests
    claims = request.headers["authorization"].removeprefix("Bearer ").split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"] == "em@facility"
    assert unquote(request.path) == "http://store:9000/bucket/a.tif"
    if name:
        assert os.environ[name] == special.get(name, str(other))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("AWS_ACCESS_KEY_ID", "other"), ("AWS_SKIP_SIGNATURE", "true"), ("AWS_SESSION_TOKEN", "other")),
        *(("AWS_PROFILE", "other"), ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")),
        *(("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent"), ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/other")),
        *(("AWS_REGION", "other"), ("AWS_DEFAULT_REGION", "other"), ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")),
        *((name, NO_SERVER) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
        *((name, NO_SERVER) for name in ("AWS_PROXY_URL", "HTTP_PROXY", "http_proxy")),
        *(("AWS_S3_EXPRESS", "true"), ("AWS_BUCKET", "other"), ("AWS_BUCKET_NAME", "other")),
        *(("AWS_CHECKSUM_ALGORITHM", "crc64nvme"), ("NO_PROXY", "store"), ("no_proxy", "store")),
    ],
)
def test_the_configuration_for_s3_has_precedence_over_the_environment(monkeypatch, tmp_path, name, value):
    pytest.importorskip("obstore")
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text("[em]\naws_access_key_id = of-file\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv(name, value)
    with FaultLayer(NO_SERVER, rule=lambda request: (404, b"")).running() as layer:
        access = StoreAccess("http://store:9000", "us-gov-west-7", True, "em", keys, proxy=layer.url)
        assert BucketStore(Bucket("s3", "bucket", access)).stat(parse_object("s3://bucket/a.tif", access)) is None
    (request,) = layer.requests
    assert unquote(request.path) == "http://store:9000/bucket/a.tif"
    signed = request.headers["authorization"]
    assert "Credential=of-file/" in signed
    assert "/us-gov-west-7/s3/aws4_request" in signed
    assert "x-amz-security-token" not in request.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("AZURE_STORAGE_ENDPOINT", NO_SERVER), ("AZURE_ENDPOINT", NO_SERVER), ("AZURE_STORAGE_USE_EMULATOR", "true")),
        *(("AZURE_USE_FABRIC_ENDPOINT", "true"), ("AZURE_CONTAINER_NAME", "other"), ("AZURE_PROXY_URL", NO_SERVER)),
    ],
)
def test_the_configuration_for_azure_has_precedence_over_the_environment(monkeypatch, name, value):
    pytest.importorskip("obstore")
    for each, given in {**other_stores.AZURE, name: value}.items():
        monkeypatch.setenv(each, given)
    with FaultLayer(NO_SERVER, rule=lambda request: (404, b"")).running() as layer:
        access = StoreAccess("http://store:9000", proxy=layer.url)
        assert BucketStore(Bucket("az", "bucket", access)).stat(parse_object("az://bucket/a.tif", access)) is None
    (request,) = layer.requests
    assert unquote(request.path) == "http://store:9000/bucket/a.tif"


# --- endpoints


@pytest.mark.parametrize(
    ("scheme", "environment"),
    [
        ("gs", {"GOOGLE_SKIP_SIGNATURE": "true"}),
        ("az", {"AZURE_STORAGE_ACCOUNT_NAME": "em", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
    ],
)
def test_requests_to_google_and_azure_go_to_the_configured_endpoint(scheme, environment, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setattr(connection, "MAX_RETRIES", 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with FaultLayer(NO_SERVER, rule=lambda request: (404, b"")).running() as layer:
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
