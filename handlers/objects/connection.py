"""The connection of this process to a bucket.

obstore has its own threads, which a fork does not copy: a child process that uses a connection of its parent waits for
ever. So obstore is imported at the first use, and a process that was forked after that is refused.
docs/decisions/stores.md gives the reasons.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.errors import BugFault, SettingsFault, StoreFault
from handlers.objects.credentials import from_file, read_private
from handlers.place import Bucket, StoreAccess

if TYPE_CHECKING:
    from obstore.store import AzureConfig, GCSConfig, ObjectStore, S3Config

CONNECT_S, REQUEST_S = 5, 60
MAX_RETRIES, RETRY_S = 4, 20
"""Limits of the retries of one request. A store that does not answer for longer is reported, and the montage waits."""

_ENDPOINT_NAMES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Scheme -> variables of the environment that obstore reads; those of AWS in the order of its programs."""
_GOOGLE_CREDENTIALS = re.compile(
    "SERVICE_ACCOUNT|GOOGLE_(?i:service_account|service_account_path|service_account_key|bearer_token|skip_signature)"
)
"""Variables of the environment that take precedence over obstore's key `application_credentials`."""

_lock = threading.Lock()
_open: dict[Bucket, "ObjectStore"] = {}
_without_conditions: set[Bucket] = set()
"""Buckets whose stores have answered that they have no conditional writes."""
_opened_by: int | None = None
"""Process that opened the first connection."""


def connection(bucket: Bucket) -> "ObjectStore":
    """Return this process's connection to a bucket, opened at its first use.

    Raises
    ------
    StoreFault
        If a file for the connection cannot be read.
    SettingsFault
        If obstore is not installed, or a setting is invalid.
    BugFault
        If obstore was used before this process was forked.
    """
    global _opened_by  # noqa: PLW0603  of the process, as obstore's threads are
    found = _open.get(bucket)
    if found is not None and _opened_by == os.getpid():
        return found
    with _lock:
        if _opened_by not in (None, os.getpid()):
            problem = f"process {os.getpid()} was forked from process {_opened_by}, which had used obstore before"
            raise BugFault(str(bucket), problem, "please report this bug of temwatch")
        _opened_by = os.getpid()
        return _open.get(bucket) or _open.setdefault(bucket, _opened(bucket))


def reconnect(bucket: Bucket) -> None:
    """Drop the connection to a bucket. The next use opens a new one, and reads files and environment again."""
    with _lock:
        _open.pop(bucket, None)
        _without_conditions.discard(bucket)


def has_conditions(bucket: Bucket) -> bool:
    """Whether a store is asked for conditional writes: until it answers that it has none."""
    return bucket not in _without_conditions


def note_without_conditions(bucket: Bucket) -> None:
    """Ask the store of a bucket for no further conditional write: each refusal is retried, and takes seconds."""
    _without_conditions.add(bucket)


def environment_endpoint(scheme: str) -> str:
    """Return the URL of the store in the environment; empty if the environment names none."""
    return next((url for name in _ENDPOINT_NAMES[scheme] if (url := os.environ.get(name))), "")


def _opened(bucket: Bucket) -> "ObjectStore":
    try:
        from obstore import store  # it prepares threads, so the fork server must never import it
    except ImportError:
        hint = "install the extra: pip install 'temwatch[object-store]'"
        raise SettingsFault("mipmaps.output_dir", f"{bucket} needs the package obstore", hint) from None
    access = _with_endpoint(bucket)
    options: dict[str, Any] = {"client_options": _client_options(access), "retry_config": _retries()}
    try:
        match bucket.scheme:
            case "s3":
                if keys := from_file(access):
                    keys()  # raises a fault if the file is invalid
                    options["credential_provider"] = keys
                return store.S3Store(bucket.name, config=_s3_config(bucket, access), **options)
            case "gs":
                if access.credentials_file:
                    read_private(access.credentials_file)
                with _without_google_credentials() if access.credentials_file else nullcontext():
                    return store.GCSStore(bucket.name, config=_gs_config(access), **options)
            case _:
                return store.AzureStore(bucket.name, config=_az_config(bucket, access), **options)
    except (ValueError, store_errors()) as error:
        problem = f"no connection can be made: {str(error).splitlines()[0]}"
        raise SettingsFault(
            "mipmaps.store", f"{bucket}: {problem}", "check mipmaps.store and the environment"
        ) from None


def _with_endpoint(bucket: Bucket) -> StoreAccess:
    access = bucket.access
    return replace(access, endpoint=access.endpoint or environment_endpoint(bucket.scheme))


def store_errors() -> type[Exception]:
    """Return the base class of obstore's exceptions."""
    from obstore.exceptions import BaseError

    return BaseError


def _client_options(access: StoreAccess) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=REQUEST_S),
        "user_agent": "temwatch",
    }
    if access.endpoint.startswith("http://"):
        options["allow_http"] = True
    if access.ca_file:
        options["root_certificate"] = _certificates_in(access.ca_file)
    if access.proxy:
        options["proxy_url"] = access.proxy
    return options


def _certificates_in(path: Path) -> str:
    hint = "check mipmaps.store.ca_file"
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not a PEM file"
        raise StoreFault(str(path), f"the certificates cannot be read: {problem}", hint) from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise StoreFault(str(path), "expected certificates in PEM, found none", hint)
    return text


def _retries() -> dict[str, Any]:
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
    return {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_S), "backoff": backoff}


def _s3_config(bucket: Bucket, access: StoreAccess) -> "S3Config":
    path_style = bool(access.endpoint) if access.path_style is None else access.path_style
    # With SHA-256 the server compares the bytes that it received with those that were sent.
    config: S3Config = {"checksum_algorithm": "sha256", "virtual_hosted_style_request": not path_style}
    if access.endpoint:
        # Not the key "endpoint", over which AWS_ENDPOINT_URL_S3 in the environment would take precedence.
        config["aws_endpoint_url_s3"] = access.endpoint if path_style else host_style(access.endpoint, bucket.name)
    if access.region:
        config["region"] = access.region
    # Configured keys take precedence over the environment.
    if bucket.access.endpoint:
        config["s3_express"] = False
    if access.credentials_file or access.profile:
        config["skip_signature"] = False
    return config


def host_style(endpoint: str, bucket: str) -> str:
    """Return an endpoint with the bucket in the name of its host, as obstore requires it for this style.

    >>> host_style("https://store.example.org:9000", "em")
    'https://em.store.example.org:9000'
    >>> host_style("https://em.store.example.org", "em")
    'https://em.store.example.org'
    """
    scheme, _, host = endpoint.partition("://")
    return endpoint if host.startswith(f"{bucket}.") else f"{scheme}://{bucket}.{host}"


def _gs_config(access: StoreAccess) -> "GCSConfig":
    config: GCSConfig = {"base_url": access.endpoint} if access.endpoint else {}
    if access.credentials_file:
        config["application_credentials"] = str(access.credentials_file)
    return config


@contextmanager
def _without_google_credentials() -> Iterator[None]:
    """Context in which the environment has no credentials of Google, which no key of obstore undoes."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _GOOGLE_CREDENTIALS.fullmatch(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _az_config(bucket: Bucket, access: StoreAccess) -> "AzureConfig":
    config: AzureConfig = {"endpoint": access.endpoint} if access.endpoint else {}
    if bucket.access.endpoint:
        config["use_emulator"] = False
    return config
