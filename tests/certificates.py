"""A private certificate authority, made by openssl, for tests of TLS."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"
_AUTHORITY = """\
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in PEM."""

    file: Path
    key: Path


class Authority:
    """Signs certificates in a directory."""

    def __init__(self, directory: Path, name: str = "facility CA") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = self._make("ca", name, _AUTHORITY, signed=False)

    def server(self, names: str = "DNS:localhost, IP:127.0.0.1, IP:::1", days: int = 2) -> Certificate:
        """Return a server's certificate for these subject alternative names; with negative days it has expired."""
        return self._make("server", "render.facility", f"subjectAltName = {names}\n{_KEY_IDS}", days=days)

    def client(self, file: str = "client") -> Certificate:
        """Return a client's certificate."""
        return self._make(file, "temwatch", f"extendedKeyUsage = clientAuth\n{_KEY_IDS}")

    def _make(self, file: str, name: str, extensions: str, *, signed: bool = True, days: int = 2) -> Certificate:
        made = Certificate(self._directory / f"{file}.pem", self._directory / f"{file}.key")
        config = self._directory / f"{file}.cnf"
        config.write_text(f"{_CONFIG}[extensions]\n{extensions}")
        request = self._directory / f"{file}.csr"
        _openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", config,
            "-subj", f"/O=Facility/CN={name}", "-keyout", made.key, "-out", request,
        )  # fmt: skip
        signing = ("-CA", self.ca.file, "-CAkey", self.ca.key) if signed else ("-signkey", made.key)
        _openssl(
            "x509", "-req", "-in", request, *signing, "-days", str(days), "-extfile", config,
            "-extensions", "extensions", "-out", made.file,
        )  # fmt: skip
        made.key.chmod(0o600)
        return made


_KEY_IDS = "subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n"


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
