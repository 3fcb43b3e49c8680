"""Stores without S3: Azurite for Azure, and fake-gcs-server for Google, behind a layer that translates uploads."""

import base64
import contextlib
import hashlib
import hmac
import json
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from urllib.parse import quote, unquote, urlsplit

from tests.object_store import FaultLayer, Request, free_port, installed, serving

# --- Azure

AZURITE = "azurite@3"
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Key of every Azurite. It is not secret."""
AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY}


@contextlib.contextmanager
def azurite() -> Iterator[str]:
    """Run Azurite; yields the URL of its account. Skips the test if it is not installed."""
    program = installed("azurite-blob", f"npm install {AZURITE}")
    port = free_port()
    options = ("--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry")
    with serving(program, *options, "--skipApiVersionCheck", port=port) as url:
        yield f"{url}/{_ACCOUNT}"


def make_container(url: str, name: str, *, is_public: bool = False) -> None:
    """Make a container by a signed request. `is_public`: its objects can be read without a login."""
    public = {"x-ms-blob-public-access": "blob"} if is_public else {}
    headers = {**public, "x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    lines = [f"{key}:{value}\n" for key, value in headers.items()]
    text = "PUT" + "\n" * 12 + "".join(lines) + f"/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
    digest = hmac.digest(base64.b64decode(_ACCOUNT_KEY), text.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(f"{url}/{name}?restype=container", headers=headers, method="PUT")
    with urllib.request.urlopen(request):
        pass


# --- Google

FAKE_GCS = "github.com/fsouza/fake-gcs-server@v1.56.1"
GOOGLE = {"GOOGLE_BEARER_TOKEN": "not-secret"}


@contextlib.contextmanager
def fake_gcs(bucket: str) -> Iterator[str]:
    """Run fake-gcs-server with a bucket; yields its URL. Skips the test if it is not installed."""
    program = installed("fake-gcs-server", f"go install {FAKE_GCS}")
    port = free_port()
    options = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory")
    named = ("-public-host", f"127.0.0.1:{port}")
    with serving(program, *options, *named, port=port) as url:
        body = json.dumps({"name": bucket}).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=em", body, headers)):
            pass
        yield url


def translating(url: str) -> FaultLayer:
    """Return a layer in front of fake-gcs-server that sends uploads by the JSON API of Google.

    obstore uploads by the XML API. The server does not support uploads by that API, only the other requests.
    """
    return FaultLayer(
        url, translated=lambda request: _json_upload(request, urlsplit(url).netloc), answered=_xml_headers
    )


def _json_upload(request: Request, host: str) -> Request:
    headers = {name: value for name, value in request.headers.items() if name.lower() != "host"} | {"Host": host}
    if request.method != "PUT":
        return Request(request.method, request.path, headers, request.body)
    bucket, _, key = urlsplit(request.path).path.lstrip("/").partition("/")
    generation = next((value for name, value in headers.items() if name.lower() == "x-goog-if-generation-match"), None)
    condition = "" if generation is None else f"&ifGenerationMatch={generation}"
    path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(unquote(key), safe='')}{condition}"
    return Request("POST", path, headers, request.body)


def _xml_headers(request: Request, headers: dict[str, str], body: bytes) -> dict[str, str]:
    if request.method != "POST" or b"generation" not in body:
        return headers
    found = json.loads(body)
    return {**headers, "ETag": f'"{found["etag"]}"', "x-goog-generation": str(found["generation"])}
