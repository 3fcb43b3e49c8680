"""Access to a dask scheduler: its address, the TLS files, and the paths on the hosts of its workers."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.errors import SettingsFault, WorkersUnavailable
from handlers.secret_file import read_named, read_secret

_PROTOCOLS = ("tcp", "tls", "ws", "wss", "ucx", "inproc")
_FOR_TLS = ("dask_ca_file", "dask_certificate_file", "dask_key_file")


@dataclass(frozen=True, slots=True)
class WorkerPath:
    """An entry of the path map: a directory as this machine and as some workers see it."""

    hosts: str
    """Pattern of host names, as in "node*"."""
    local: Path
    worker: Path


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Access to a scheduler. Contains names of files, and no secret.

    Parameters
    ----------
    scheduler : address, as in "tcp://host:8786" or "tls://host:8786".
    ca_file : certificates of the authorities that signed the certificates of the cluster.
    certificate_file, key_file : in PEM; the key may be in the certificate's file.
    """

    scheduler: str
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheduler.startswith("tls://")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield key and problem of each setting that contradicts another one."""
        protocol, separator, _ = self.scheduler.partition("://")
        if separator and protocol not in _PROTOCOLS:
            problem = f"'{protocol}' is not a protocol of dask: write tcp://HOST:PORT or tls://HOST:PORT"
            yield "dask_scheduler", problem
        files = dict(zip(_FOR_TLS, (self.ca_file, self.certificate_file, self.key_file), strict=True))
        if self.is_tls:
            for key in _FOR_TLS[:2]:
                if not files[key]:
                    yield key, "is required with an address that begins with tls://"
        else:
            for key, path in files.items():
                if path:
                    yield key, "is only valid with an address that begins with tls://"

    def security(self) -> Any:
        """Return dask's `Security`, after a check of the files; None without TLS. Blocking.

        Raises
        ------
        WorkersUnavailable
            If a file cannot be read, is open to other users, or contains no certificate or key. The text shows no
            content.
        """
        if not self.is_tls:
            return None
        from distributed.security import Security

        assert self.ca_file is not None
        assert self.certificate_file is not None
        try:
            self._check_files()
        except SettingsFault as fault:
            raise WorkersUnavailable(fault.subject, fault.problem, fault.hint) from None
        key_file = self.key_file or self.certificate_file
        return Security(  # type: ignore[no-untyped-call]
            require_encryption=True,
            tls_ca_file=str(self.ca_file),
            tls_client_cert=str(self.certificate_file),
            tls_client_key=str(key_file),
        )

    def _check_files(self) -> None:
        assert self.ca_file is not None
        assert self.certificate_file is not None
        read_named(self.ca_file, "workers.dask_ca_file")
        key_name = "dask_key_file" if self.key_file else "dask_certificate_file"
        key_file = self.key_file or self.certificate_file
        read_named(self.certificate_file, "workers.dask_certificate_file")
        read_secret(key_file, f"workers.{key_name}")
        try:
            ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError):
            raise SettingsFault("workers.dask_ca_file", f"{self.ca_file} holds no certificate in PEM") from None
        try:
            context = ssl.create_default_context()
            # Without a passphrase here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate_file, key_file, password=b"")
        except (ssl.SSLError, OSError, ValueError):
            problem = f"{self.certificate_file} and {key_file} hold no certificate and its key in PEM"
            hint = "write them without a passphrase"
            raise SettingsFault("workers.dask_certificate_file", problem, hint) from None
