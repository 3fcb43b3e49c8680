"""A real nginx as reverse proxy of a render-ws."""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.waiting import wait_for

PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
USER, PASSWORD = "em", "pw4711"
SUB_PATH = "/facility/em"
_MARKER = re.compile(r"GET /[0-9a-f]{32} 400 ")


class Nginx:
    """nginx with TLS of a private authority, basic authentication, a client certificate, a sub-path and usual limits.

    Parameters
    ----------
    directory : directory for its configuration, log, certificates and secrets.
    upstream : URL of the render-ws behind it, such as http://127.0.0.1:8080/render-ws/v1.
    host : address to listen on.
    """

    def __init__(self, directory: Path, upstream: str, *, host: str = "127.0.0.1") -> None:
        if PROGRAM is None:
            pytest.skip("nginx is not installed")
        self.directory, self.upstream, self.host = directory, upstream, host
        directory.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(directory / "ca")
        self.server = self.authority.server()
        self.client = self.authority.client()
        self.password_file = directory / "password"
        self.set_password(PASSWORD)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
            taken.bind((host, 0))
            self.port = taken.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of render-ws through this proxy."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}{SUB_PATH}/render-ws/v1"

    @property
    def settings(self) -> dict[str, str]:
        """Keys of [render] with which a client reaches render-ws through this proxy."""
        return {
            "url": self.url,
            "username": USER,
            "password_file": str(self.password_file),
            "ca_file": str(self.authority.ca.file),
            "client_certificate_file": str(self.client.file),
            "client_key_file": str(self.client.key),
        }

    def set_password(self, password: str, *, known_to_client: bool = True) -> None:
        """Change the password that nginx accepts, and by default also the password file of the client."""
        self._replace(self.directory / "users", f"{USER}:{{PLAIN}}{password}\n")
        if known_to_client:
            self._replace(self.password_file, password + "\n")

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.replace(path)

    def start(self, *, rules: str = "", server_rules: str = "") -> None:
        """Start or restart nginx.

        Parameters
        ----------
        rules, server_rules : directives of the location and of the server, in place of those of this class.
        """
        self.stop()
        config = self.directory / "nginx.conf"
        config.write_text(self._config(rules, server_rules))
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, "-p", str(self.directory), "-e", "error.log", "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.directory / "error.log").read_text()
            try:
                socket.create_connection((self.host, self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"nginx does not listen on {self.host}:{self.port}")

    def stop(self) -> None:
        """Stop it if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    @property
    def log(self) -> str:
        """Log of all answered requests: a line with method, path, status and length for each.

        nginx writes the line of a request after its answer. So another request is sent while nginx runs; nginx refuses
        it, because it has no TLS, and writes its line after those of all earlier requests.
        """
        path = self.directory / "access.log"
        if self._process is not None:
            marker = f"/{uuid.uuid4().hex}"
            with contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=60)) as connection:
                connection.request("GET", marker)
                connection.getresponse().read()
            wait_for(lambda: marker in path.read_text(), "nginx writes its log")
        return "".join(line for line in path.read_text().splitlines(keepends=True) if not _MARKER.match(line))

    def _config(self, rules: str, server_rules: str) -> str:
        location = {
            "client_max_body_size": "1m",
            "proxy_read_timeout": "5s",
            "auth_basic": '"em"',
            "proxy_pass": f"{self.upstream.removesuffix('/render-ws/v1')}/",
        }
        location = {name: value for name, value in location.items() if name not in rules}
        directives = "\n      ".join(f"{name} {value};" for name, value in location.items())
        tls = {
            "ssl_certificate": f'"{self.server.file}"',
            "ssl_certificate_key": f'"{self.server.key}"',
            "ssl_client_certificate": f'"{self.authority.ca.file}"',
            "ssl_verify_client": "on",
        }
        tls = {name: value for name, value in tls.items() if f"{name} " not in server_rules}
        secured = "\n    ".join(f"{name} {value};" for name, value in tls.items())
        listen = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"""
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
daemon off;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
  log_format short '$request_method $uri $status $request_length';
  access_log access.log short;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {listen} ssl;
    {secured}
    {server_rules}
    location {SUB_PATH}/ {{
      {directives}
      auth_basic_user_file users;
      {rules}
    }}
  }}
}}
"""
