"""Access of the client and the workers to render-ws: logins, certificates, a real nginx, a forward proxy."""

import asyncio
import base64
import contextlib
import re
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from daemon.simulator.standin.server import serve_standin
from handlers.errors import (
    AccessRefused,
    AnswerLate,
    AnswerLost,
    Fault,
    LoginRefused,
    NotRender,
    RenderFault,
    RenderRefused,
    RenderUnavailable,
)
from handlers.images.reduction import Reduction
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import MipmapPlan, level0_of
from handlers.mipmaps.tile_jobs import tile_job
from handlers.path_map import NO_MAP
from handlers.render import uploading
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.http.access import Access
from handlers.render.opening import ensure_loading
from handlers.render.responses import StackState
from tests.certificates import Authority
from tests.integration.standin_control import RAW, RESOLUTION_NM, client_of, tile_spec
from tests.nginx import PASSWORD, USER, Nginx
from tests.waiting import wait_for

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Run a server that answers every request with this function; yield its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0, ssl_context=tls).start()
        literal = f"[{host}]" if ":" in host else host
        yield f"{'https' if tls else 'http'}://{literal}:{runner.addresses[0][1]}/sub/path/render-ws/v1"
    finally:
        await runner.cleanup()


def context_of(authority: Authority, *, client: bool = False, **server: object) -> ssl.SSLContext:
    made = authority.server(**server)  # type: ignore[arg-type]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca.file))
    context.load_cert_chain(made.file, made.key)
    context.verify_mode = ssl.CERT_REQUIRED if client else ssl.CERT_NONE
    return context


async def version(request: web.Request) -> web.StreamResponse:
    return web.json_response({})


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that replaces the password file, like programs that rotate secrets."""

    def write(text: str) -> Path:
        path, new = tmp_path / "password", tmp_path / "password.new"
        new.write_text(text)
        new.chmod(0o600)
        return new.replace(path)

    return write


# -- logins ------------------------------------------------------------------------------------------------------------


class PasswordServer:
    """A server that accepts one password."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.requests = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        expected = "Basic " + base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != expected:
            return web.Response(status=401, text="who are you?", headers={"WWW-Authenticate": "Basic"})
        return web.json_response([1.0, 2.0])


async def test_a_rotated_secret_is_read_again_when_the_old_one_is_refused(secret: Callable[[str], Path]) -> None:
    server = PasswordServer("old")
    access = Access(username=USER, password_file=secret("old"))
    async with serving(server.answer) as url, client_of(url, access=access) as client:
        assert await client.z_values(RAW) == (1.0, 2.0)
        secret("new")
        server.password, server.requests = "new", 0
        assert await asyncio.gather(*(client.z_values(RAW) for _ in range(5))) == [(1.0, 2.0)] * 5
        assert server.requests <= 10
        server.requests = 0
        await client.z_values(RAW)
        assert server.requests == 1


async def test_a_refused_login_is_sent_once_and_never_retried(secret: Callable[[str], Path]) -> None:
    server = PasswordServer("right")
    access = Access(username=USER, password_file=secret("wrong pw4711"))
    async with serving(server.answer) as url, client_of(url, access=access) as client:
        with pytest.raises(LoginRefused) as refused:
            await client.z_values(RAW)
    assert server.requests == 1
    assert f"the proxy at {url.removesuffix('/sub/path/render-ws/v1')} asks for a login (401: who are you?)" in str(
        refused.value
    )
    assert "check user 'em' with render.password_file" in str(refused.value)
    assert PASSWORD not in str(refused.value)


async def test_the_reason_why_a_rotated_secret_cannot_be_used_is_in_the_fault(secret: Callable[[str], Path]) -> None:
    server = PasswordServer("old")
    path = secret("old")
    async with (
        serving(server.answer) as url,
        client_of(url, access=Access(username=USER, password_file=path)) as client,
    ):
        secret("new").chmod(0o644)
        server.password = "new"
        with pytest.raises(LoginRefused, match=rf"asks for a login .*{path} is open to other users"):
            await client.z_values(RAW)
        path.chmod(0o600)
        assert await client.z_values(RAW) == (1.0, 2.0)


@pytest.mark.parametrize("content", ["", "open"])
async def test_a_client_without_a_usable_secret_cannot_be_opened(secret: Callable[[str], Path], content: str) -> None:
    path = secret(content)
    path.chmod(0o644 if content else 0o600)
    with pytest.raises(Fault, match=r"render\.password_file"):
        async with client_of("http://127.0.0.1:1/v1", access=Access(username=USER, password_file=path)):
            pass


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_private_authority_is_trusted_at_ipv4_and_ipv6_literals(tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path / "ca")
    access = Access(ca_file=authority.ca.file)
    async with serving(version, context_of(authority), host) as url, client_of(url + "/", access=access) as client:
        await client.ping()


async def test_the_authorities_of_the_system_are_read_when_the_client_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca.file))
    async with serving(version, context_of(authority)) as url, client_of(url) as client:
        await client.ping()


@pytest.mark.parametrize(
    ("server", "trusted", "why"),
    [
        ({}, False, "self-signed certificate in certificate chain|unable to get local issuer certificate"),
        ({"days": -1}, True, "certificate has expired"),
        ({"names": "DNS:other.facility"}, True, "IP address mismatch"),
    ],
)
async def test_a_certificate_that_does_not_verify_is_refused_with_the_reason(
    tmp_path: Path, server: dict[str, object], trusted: bool, why: str
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other CA")
    access = Access(ca_file=(authority if trusted else other).ca.file)
    async with serving(version, context_of(authority, **server)) as url, client_of(url, access=access) as client:
        with pytest.raises(AccessRefused) as refused:
            await client.ping()
    text = str(refused.value)
    assert re.search(rf"the certificate of 127\.0\.0\.1:\d+ does not verify: ({why})", text), text
    assert "the certificate is for 'render.facility', issued by 'facility CA', valid until 20" in text
    assert "trust its authority by render.ca_file" in text


async def test_a_certificate_authority_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other CA")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(other.ca.file.read_bytes())
    async with serving(version, context_of(authority)) as url, client_of(url, access=Access(ca_file=trusted)) as client:
        with pytest.raises(AccessRefused):
            await client.ping()
        trusted.write_bytes(authority.ca.file.read_bytes())
        await client.ping()


@contextlib.contextmanager
def openssl_server(authority: Authority) -> Iterator[str]:
    """Run a server that refuses clients without a certificate with a TLS alert, like Apache and HAProxy."""
    made = authority.server()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", made.file, "-key", made.key, "-www"]
    command += ["-CAfile", authority.ca.file, "-Verify", "1", "-verify_return_error", "-naccept", "9"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        assert any(line == b"ACCEPT\n" for line in process.stdout), "openssl does not listen"
        yield f"https://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_server_that_requires_a_client_certificate_gets_it(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other CA")
    known, unknown = authority.client(), other.client()
    access = Access(ca_file=authority.ca.file)
    identified = replace(access, client_certificate_file=known.file, client_key_file=known.key)
    async with serving(version, context_of(authority, client=True)) as url, client_of(url, access=identified) as client:
        await client.ping()
    wrong = replace(access, client_certificate_file=unknown.file, client_key_file=unknown.key)
    with openssl_server(authority) as url:
        for refused in (access, wrong):
            async with client_of(url, access=refused) as client:
                with pytest.raises(LoginRefused, match=r"refuses the client certificate .*client_certificate_file"):
                    await client.ping()


async def test_https_to_a_port_without_tls_is_a_fault_with_the_reason() -> None:
    async with serving(version) as url, client_of(url.replace("http://", "https://")) as client:
        with pytest.raises(RenderUnavailable, match=r"cannot be reached .*TLS: (wrong version number|record layer)"):
            await client.ping()


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_a_worker_fetches_images_through_nginx_with_login_and_certificate(tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (77, 101), np.uint8)).save(image)
    spec = tile_spec("a.1050.0", width=101, height=77, mipmapLevels={"0": {"imageUrl": image.as_uri()}})
    async with serve_standin() as upstream:
        with running(Nginx(tmp_path / "nginx", upstream)) as nginx:
            async with client_through(nginx) as client:
                await ensure_loading(client, RAW, RESOLUTION_NM)
                await client.put_tiles(RAW, 1050.0, [spec])
                plan = MipmapPlan(tmp_path / "m", levels=2, reduction=Reduction("render"))
                job = tile_job(level0_of(spec, NO_MAP), plan.served_by(client.address, RAW, client.access))
            assert PASSWORD not in repr(job)
            report = await asyncio.to_thread(make_mipmaps, job)
            assert report.fault is None
            assert (tmp_path / "m" / "2").is_dir()
            nginx.set_password("other", known_to_client=False)
            refused = await asyncio.to_thread(make_mipmaps, replace(job, force=True))
            assert refused.fault is not None
            assert isinstance(refused.fault.to_fault(), LoginRefused)
            assert "asks for a login" in str(refused.fault.to_fault())
            nginx.set_password("other")
            assert (await asyncio.to_thread(make_mipmaps, job)).fault is None
            assert "/source/png-image 200" in nginx.log


# -- nginx -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(nginx: Nginx) -> Iterator[Nginx]:
    nginx.start()
    try:
        yield nginx
    finally:
        nginx.stop()


def access_through(nginx: Nginx) -> Access:
    keys = {key: value for key, value in nginx.settings.items() if key not in ("url", "username")}
    return Access(username=USER, **{key: Path(value) for key, value in keys.items()})


def client_through(nginx: Nginx, **access: object) -> RenderClient:
    return client_of(nginx.url, access=replace(access_through(nginx), **access))


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Nginx]:
    async with serve_standin() as upstream:
        with running(Nginx(tmp_path / "nginx", upstream)) as nginx:
            yield nginx


async def test_tiles_reach_their_stack_through_nginx(nginx: Nginx) -> None:
    async with client_through(nginx) as client:
        await ensure_loading(client, RAW, RESOLUTION_NM)
        await client.put_tiles(RAW, 1050.0, [tile_spec("a b;c.1050.0")])
        assert [tile.tile_id for tile in await client.tile_bounds(RAW, 1050.0)] == ["a b;c.1050.0"]
        await client.delete_tile(RAW, "a b;c.1050.0")
        assert await client.tile_bounds(RAW, 1050.0) == ()


async def fault_through(nginx: Nginx, **access: object) -> RenderFault:
    async with client_through(nginx, **access) as client:
        with pytest.raises(RenderFault) as refused:
            await client.z_values(RAW)
    assert PASSWORD not in str(refused.value)
    return refused.value


async def test_nginx_without_a_login_is_a_login_fault(nginx: Nginx) -> None:
    fault = await fault_through(nginx, username="", password_file=None)
    assert isinstance(fault, LoginRefused)
    assert f"the proxy at https://127.0.0.1:{nginx.port} asks for a login (401: 401 Authorization Required" in str(
        fault
    )
    assert "set render.username and render.password_file" in str(fault)


async def test_nginx_with_a_wrong_password_is_a_login_fault(nginx: Nginx) -> None:
    nginx.set_password("other", known_to_client=False)
    fault = await fault_through(nginx)
    assert isinstance(fault, LoginRefused)
    assert "asks for a login" in str(fault)
    assert "check user 'em' with render.password_file" in str(fault)
    wait_for(lambda: nginx.log, "nginx writes its log after its answer")
    assert nginx.log.count(" 401 ") == 1


async def test_a_request_that_nginx_forbids_is_a_login_fault(nginx: Nginx) -> None:
    nginx.start(rules="limit_except GET { deny all; }")
    async with client_through(nginx) as client:
        await client.ping()
        with pytest.raises(LoginRefused, match=r"asks for a login that is allowed to do this .403: 403 Forbidden"):
            await client.delete_tile(RAW, "a")


async def test_nginx_without_a_client_certificate_is_a_login_fault(nginx: Nginx) -> None:
    fault = await fault_through(nginx, client_certificate_file=None, client_key_file=None)
    assert isinstance(fault, LoginRefused)
    assert "asks for a client certificate that it accepts (400 No required SSL certificate was sent" in str(fault)
    assert "check render.client_certificate_file" in str(fault)


async def test_nginx_with_an_unknown_authority_is_a_certificate_fault(nginx: Nginx, tmp_path: Path) -> None:
    fault = await fault_through(nginx, ca_file=Authority(tmp_path / "other", "other CA").ca.file)
    assert type(fault) is AccessRefused
    assert "does not verify" in str(fault)
    assert "issued by 'facility CA'" in str(fault)


async def test_a_login_page_of_nginx_is_refused_with_its_title(nginx: Nginx) -> None:
    page = "<html><title>Facility sign-in</title><form><input type=password></form></html>"
    nginx.start(rules=f"auth_basic off; default_type text/html; return 200 '{page}';")
    fault = await fault_through(nginx)
    assert isinstance(fault, NotRender)
    assert "answered with a page, perhaps a login page: Facility sign-in" in str(fault)


async def test_a_redirect_of_nginx_to_another_host_is_refused(nginx: Nginx) -> None:
    nginx.start(rules="auth_basic off; return 302 https://sso.facility/login?return=$uri;")
    fault = await fault_through(nginx)
    assert isinstance(fault, NotRender)
    assert "redirects to https://sso.facility/login (302)" in str(fault)
    assert "redirects to another host are refused" in str(fault)


async def test_plain_http_to_an_https_port_gets_the_hint_to_use_https(nginx: Nginx) -> None:
    async with client_of(nginx.url.replace("https://", "http://")) as client:
        with pytest.raises(NotRender, match=r"write https:// in render\.url"):
            await client.ping()


# -- a forward proxy ---------------------------------------------------------------------------------------------------


class ForwardProxy:
    """A proxy that tunnels TLS and forwards plain requests; records requests and logins."""

    def __init__(self, refuse: bool = False) -> None:
        self.requests: list[tuple[str, str | None]] = []
        """Method and target, and the login, of each request."""
        self._refuse = refuse

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().splitlines()
        method, target, _ = line.split()
        login = [field.partition(": ")[2] for field in fields if field.lower().startswith("proxy-authorization")]
        self.requests.append((f"{method} {target}", login[0] if login else None))
        if self._refuse:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        parts = urllib.parse.urlsplit(target if "://" in target else f"//{target}")
        to_server = await asyncio.open_connection(parts.hostname, parts.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            to_server[1].write(f"{method} {parts.path} HTTP/1.1\r\nConnection: close\r\n".encode())
            kept = [field for field in fields if field and not field.lower().startswith(("proxy-", "connection"))]
            to_server[1].write("\r\n".join([*kept, "", ""]).encode())
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, to_server[1]))
            group.create_task(_copy(to_server[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize("secure", [True, False])
async def test_requests_go_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    authority, proxy = Authority(tmp_path / "ca"), ForwardProxy()
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    access = Access(ca_file=authority.ca.file if secure else None, use_environment_proxy=True)
    async with (
        serving(version, context_of(authority) if secure else None) as url,
        await asyncio.start_server(proxy, "127.0.0.1", 0) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy" if secure else "http_proxy", f"http://px:pw4711@127.0.0.1:{port}")
        async with client_of(url, access=access) as client:
            await client.ping()
        host = urllib.parse.urlsplit(url).netloc
        request = f"CONNECT {host}" if secure else f"GET {url}/versionInfo"
        assert proxy.requests == [(request, "Basic " + base64.b64encode(b"px:pw4711").decode())]
        async with client_of(url, access=replace(access, use_environment_proxy=False)) as client:
            await client.ping()
        assert len(proxy.requests) == 1


async def test_a_proxy_of_the_environment_that_refuses_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, proxy = Authority(tmp_path / "ca"), ForwardProxy(refuse=True)
    access = Access(ca_file=authority.ca.file, use_environment_proxy=True)
    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://px:pw4711@127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of("https://render.example/render-ws/v1", access=access) as client:
            with pytest.raises(AccessRefused, match=rf"proxy http://127\.0\.0\.1:{port} answered 407") as refused:
                await client.ping()
    assert PASSWORD not in str(refused.value)


# -- limits of a proxy -------------------------------------------------------------------------------------------------


def many_tiles(count: int, bytes_each: int = 1000) -> list[dict[str, Any]]:
    return [tile_spec(f"t{number}.1050.0", x=100 * number, padding="x" * bytes_each) for number in range(count)]


async def put_through(client: RenderClient, specs: list[dict[str, Any]]) -> int:
    await ensure_loading(client, RAW, RESOLUTION_NM)
    return await client.put_tiles(RAW, 1050.0, specs)


async def test_an_upload_larger_than_nginx_allows_is_split_and_the_learned_limit_is_used_again(nginx: Nginx) -> None:
    specs = many_tiles(2500)
    async with client_through(nginx) as client:
        assert client.upload_limit.learned == ""
        requests = await put_through(client, specs)
        assert {tile.tile_id for tile in await client.tile_bounds(RAW, 1050.0)} == {spec["tileId"] for spec in specs}
        refused = nginx.log.count(" 413 ")
        assert 1 <= refused <= 3
        assert requests >= 3
        assert 0 < client.upload_limit.max_bytes <= 2**20
        assert "kB" in client.upload_limit.learned
        await put_through(client, specs)
        assert nginx.log.count(" 413 ") == refused, "the learned limit is kept"


async def test_a_single_tile_larger_than_nginx_allows_is_refused_with_its_size(nginx: Nginx) -> None:
    async with client_through(nginx) as client:
        with pytest.raises(RenderRefused) as refused:
            await put_through(client, many_tiles(3, 1_200_000))
    text = str(refused.value)
    assert (
        f"the proxy at https://127.0.0.1:{nginx.port} refuses its size (413), although it holds one tile: 1.20 MB"
        in text
    )
    assert "client_max_body_size of nginx" in text


async def test_a_time_out_of_nginx_is_reported_and_later_uploads_are_smaller(
    nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "MIN_TILES", 2)
    nginx.start(rules="proxy_read_timeout 1s;")
    async with client_through(nginx) as client, aiohttp.ClientSession() as http:
        await ensure_loading(client, RAW, RESOLUTION_NM)
        slow = {"match": "PUT .*resolvedTiles", "kind": "slow", "seconds": 2.5, "times": 1}
        async with http.post(nginx.upstream.replace("/render-ws/v1", "/faults"), json=slow) as answer:
            assert answer.status < 300
        specs = many_tiles(10, 10)
        with pytest.raises(AnswerLate) as late:
            await client.put_tiles(RAW, 1050.0, specs)
        assert f"the proxy at https://127.0.0.1:{nginx.port} stopped waiting for render-ws (504)" in str(late.value)
        assert "render-ws may still be working: raise the time limit of the proxy" in str(late.value)
        assert await client.put_tiles(RAW, 1050.0, specs) == 2
        assert client.upload_limit.learned == "5 tiles"


async def test_a_stack_is_closed_although_nginx_times_out_while_render_ws_continues(tmp_path: Path) -> None:
    async with serve_standin(derive_s=2.5) as upstream:
        with running(Nginx(tmp_path / "nginx", upstream)) as nginx:
            nginx.start(rules="proxy_read_timeout 1s;")
            async with client_through(nginx) as client:
                await put_through(client, many_tiles(3, 10))
                report = await close_stack(client, RAW, [1050.0])
    assert report.meta.state is StackState.COMPLETE
    assert "/state/COMPLETE 504" in nginx.log
    assert nginx.log.count("/state/COMPLETE") == 1


async def test_a_render_ws_that_is_down_behind_nginx_is_reported(tmp_path: Path) -> None:
    with running(Nginx(tmp_path / "nginx", "http://127.0.0.1:1/render-ws/v1")) as nginx:
        async with client_through(nginx) as client:
            with pytest.raises(
                AnswerLost, match=r"the proxy at https://127\.0\.0\.1:\d+ got no answer of render-ws .502"
            ):
                await client.z_values(RAW)
