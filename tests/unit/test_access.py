"""Login, TLS and proxies: settings that contradict each other, files that are refused, and the faults of a login."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config.errors import ConfigError
from daemon.config.load import load_settings
from handlers.errors import LoginRefused, NotRender, SettingsFault
from handlers.render.foreign_answers import Service
from handlers.render.http.access import Access, read_login
from handlers.render.http.certificate import describe_certificate
from handlers.render.http.environment_proxy import Proxy, environment_proxy
from handlers.render.responses import fault_of
from tests.certificates import Authority
from tests.settings_text import settings_text

URL = "https://render.example/em/render-ws/v1"
SECRET = "pw4711"


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a file that other users cannot access, unless a mode is given."""

    def write(name: str, content: str, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(content)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration with these keys of [render]."""

    def write(url: str = URL, **render: str) -> Path:
        keys = "".join(f'{key} = "{value}"\n' for key, value in render.items())
        path = tmp_path / "config.toml"
        text = settings_text(url=url).replace("[[watch]]", f"{keys}[[watch]]")
        path.write_text(f'{text}[journal]\npath = "{tmp_path}/j.sqlite"\n')
        return path

    return write


def test_user_and_password_are_sent_and_never_shown(secret_file):
    access = Access(username="em", password_file=secret_file("password", "pw4711 ü\n"))
    login = read_login(access)
    assert login.headers == {"Authorization": "Basic ZW06cHc0NzExIMO8"}
    assert "Basic" not in repr(login)
    assert SECRET not in repr((access, login))


def test_a_token_and_further_headers_are_sent_together(secret_file):
    headers = secret_file("headers", "# for the gateway\n\nX-Api-Key: pw4711\nX-Facility:em\n")
    login = read_login(Access(token_file=secret_file("token", " abc.def \n"), headers_file=headers))
    assert login.headers == {"Authorization": "Bearer abc.def", "X-Api-Key": "pw4711", "X-Facility": "em"}


@pytest.mark.parametrize("key", ["password_file", "token_file", "headers_file", "client_key_file"])
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o601])
def test_a_secret_file_open_to_others_is_refused(secret_file, tmp_path, key, mode):
    path = secret_file("secret", f"X: {SECRET}\n", mode)
    more = {"username": "em"} if key == "password_file" else {}
    if key == "client_key_file":
        more = {"client_certificate_file": secret_file("certificate", "")}
    with pytest.raises(SettingsFault, match=rf"render\.{key}: {path} is open to other users \(chmod 0640") as refused:
        read_login(Access(**{key: path}, **more))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "content", "problem"),
    [
        ("password_file", "", "is empty"),
        ("password_file", "\n", "is empty"),
        ("password_file", "pw4711\npw4711\n", "more than one line"),
        ("token_file", "pw4711 pw4711", "holds no token"),
        ("token_file", "pw4711é", "holds no token"),
        ("headers_file", "pw4711", ":1: is not a header"),
        ("headers_file", "X-A: 1\npw 4711: x", ":2: is not a header"),
        ("headers_file", "X-A: pw4711\x07", ":1: is not a header"),
        ("headers_file", "X-A: pw4711é", ":1: is not a header"),
        ("headers_file", "Content-Length: 4711", "Content-Length is set by temwatch"),
        ("headers_file", "X-A: 1\nx-a: pw4711", ":2: x-a is set by temwatch, or given twice"),
    ],
)
def test_an_invalid_file_is_refused_with_its_key_and_without_its_content(secret_file, key, content, problem):
    path = secret_file("secret", content)
    access = Access(**{key: path}, username="em" if key == "password_file" else "")
    with pytest.raises(SettingsFault) as refused:
        read_login(access)
    assert str(refused.value).startswith(f"render.{key}: {path}")
    assert problem in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_header_file_with_a_second_login_is_refused(secret_file):
    headers = secret_file("headers", "authorization: Bearer x")
    with pytest.raises(SettingsFault, match=r"render\.headers_file: holds Authorization, and there is another login"):
        read_login(Access(token_file=secret_file("token", "abc"), headers_file=headers))
    assert read_login(Access(headers_file=headers)).headers == {"authorization": "Bearer x"}


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"username": "em"}, "render.password_file: is required with username"),
        ({"password_file": "/p"}, "render.username: is required with password_file"),
        ({"username": "e:m", "password_file": "/p"}, "render.username: contains a colon"),
        ({"username": "em", "password_file": "/p", "token_file": "/t"}, "render.token_file: excludes username"),
        (
            {"url": "https://a:b@r/render-ws/v1", "token_file": "/t"},
            "render.token_file: excludes a user in the address",
        ),
        ({"client_key_file": "/k"}, "render.client_certificate_file: is required with client_key_file"),
        (
            {"url": "http://r/render-ws/v1", "ca_file": "/c"},
            "render.ca_file: is only valid with an address that begins",
        ),
        ({"password_file": "relative", "username": "em"}, "render.password_file: 'relative' is not an absolute path"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config, keys, problem):
    with pytest.raises(ConfigError) as refused:
        load_settings(config(**keys))
    assert str(refused.value).startswith(problem)


def test_an_unusable_secret_file_is_a_problem_of_the_configuration(config, secret_file):
    path = secret_file("password", SECRET, 0o644)
    with pytest.raises(ConfigError) as refused:
        load_settings(config(username="em", password_file=str(path)))
    assert str(refused.value) == f"render.password_file: {path} is open to other users (chmod 0640 {path})"


def test_the_login_is_ignored_with_the_built_in_stand_in(config):
    settings = load_settings(config(url="embedded", username="em", password_file="/nowhere"))
    assert settings.render.access == Access()


def test_a_key_of_another_certificate_and_a_file_without_certificates_are_refused(tmp_path, secret_file):
    authority = Authority(tmp_path / "ca")
    one, other = authority.client("one"), authority.client("other")
    read_login(Access(client_certificate_file=one.file, client_key_file=one.key, ca_file=authority.ca.file))
    both = secret_file("both.pem", one.file.read_text() + one.key.read_text())
    assert isinstance(read_login(Access(client_certificate_file=both)).tls, ssl.SSLContext)
    with pytest.raises(SettingsFault, match=r"render\.client_certificate_file: .* key values mismatch"):
        read_login(Access(client_certificate_file=one.file, client_key_file=other.key))
    with pytest.raises(SettingsFault, match=r"render\.ca_file: .*password holds no certificate"):
        read_login(Access(ca_file=secret_file("password", SECRET)))


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(tmp_path):
    made = Authority(tmp_path / "ca").client()
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkcs8", "-topk8", "-in", made.key, "-out", locked, "-passout", "pass:x"], check=True)
    locked.chmod(0o600)
    with pytest.raises(SettingsFault, match="the key has a passphrase"):
        read_login(Access(client_certificate_file=made.file, client_key_file=locked))


def test_a_certificate_is_described_with_subject_issuer_and_expiry(tmp_path):
    made = Authority(tmp_path / "ca").server()
    text = describe_certificate(ssl.PEM_cert_to_DER_cert(made.file.read_text()))
    assert text.startswith("for 'render.facility', issued by 'facility CA', valid until 20")


@pytest.mark.parametrize(
    "der", [b"", b"\x30", b"\x30\x80", b"\x30\x03\x02\x01", b"\x30\x84\xff\xff\xff\xff\x00", b"x" * 70_000]
)
def test_bytes_that_are_not_a_certificate_raise_an_error(der):
    with pytest.raises((ValueError, IndexError)):
        describe_certificate(der)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://em:pw4711@proxy:3128/"}, Proxy("http://proxy:3128", "Basic ZW06cHc0NzEx")),
        ({"https_proxy": "proxy:3128"}, Proxy("http://proxy:3128")),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "localhost,.example"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.example"}, Proxy("http://proxy:3128")),
    ],
)
def test_the_proxy_of_a_host_is_read_from_the_environment(monkeypatch, environment, expected):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(URL) == expected


def test_an_invalid_proxy_is_refused_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://em:pw4711@proxy:1080")
    with pytest.raises(SettingsFault, match="HTTPS_PROXY: is not the address of a proxy") as refused:
        environment_proxy(URL)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_names_the_proxy_and_the_login(status):
    sent = Service(url=URL, login="user 'em' with render.password_file")
    fault = fault_of("o/p/s", "put tiles", status, "text/html", "Denied", sent)
    assert isinstance(fault, LoginRefused)
    assert "the proxy at https://render.example asks for a login" in str(fault)
    assert "check user 'em' with render.password_file" in str(fault)
    without_login = fault_of("o/p/s", "put tiles", status, "text/html", "Denied", Service(url=URL))
    assert "set render.username and render.password_file, or render.token_file" in str(without_login)


@pytest.mark.parametrize(
    ("url", "location", "text"),
    [
        (URL, "https://u:pw4711@sso.example/login?code=pw4711", "redirects to https://sso.example/login (302)"),
        (URL, "https://u:pw4711@sso.example/login?code=pw4711", "redirects to another host are refused"),
        (URL, "/login", "redirects to another page are refused"),
        (URL, "https://[", "redirects to nowhere"),
        ("http://render.example/render-ws/v1", "https://render.example/render-ws/v1/x", "write https:// in render.url"),
    ],
)
def test_a_redirect_is_refused_and_named_without_secrets(url, location, text):
    fault = fault_of("o/p/s", "look", 302, "text/html", "", Service(url=url), location)
    assert type(fault) is NotRender
    assert text in str(fault)
    assert SECRET not in str(fault)


def test_a_missing_client_certificate_is_a_refused_login():
    fault = fault_of("o/p/s", "look", 400, "text/html", "400 No required SSL certificate was sent", Service(url=URL))
    assert type(fault) is LoginRefused
    assert "check render.client_certificate_file" in str(fault)
