"""Which POST requests are accepted: token, login, content type, site."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from daemon.config.settings import HttpSettings
from daemon.web.access import post_refusal, site_refusal, token_matches
from daemon.web.visitor import cookie_name, login_proof
from handlers.errors import SettingsFault
from tests.unit.test_visitor import Peer

TOKEN = "a-token-of-24-characters"
JSON = "application/json"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def refusal(http: HttpSettings, content_type: str | None = JSON, **headers: str) -> tuple[int, str] | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {} if content_type is None else {"Content-Type": content_type}
    request: Any = make_mocked_request("POST", "/api/replay", {"Host": "em:8787", **kind, **named})
    return post_refusal(request, http)


def test_on_loopback_json_can_be_posted_without_a_token() -> None:
    http = HttpSettings()
    assert refusal(http) is None
    assert refusal(http, f"{JSON}; charset=utf-8") is None
    for content_type in ("text/plain", "application/x-www-form-urlencoded", None):
        assert refusal(http, content_type) == (415, "Content-Type: must be application/json")


@pytest.mark.parametrize(
    ("site", "is_own"), [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)]
)
def test_a_page_of_another_site_cannot_post(site: str, is_own: bool) -> None:
    found = refusal(HttpSettings(), Sec_Fetch_Site=site)
    assert (found is None) is is_own
    if not is_own:
        assert found == (403, "Sec-Fetch-Site: requests of other sites are refused")
        # The site is checked first, so that no other answer tells the page of that site what to send.
        assert refusal(HttpSettings(), "text/plain", Sec_Fetch_Site=site) == found


def test_the_origin_must_be_that_of_the_pages() -> None:
    assert refusal(HttpSettings(), Origin="http://em:8787") is None
    expected = (403, "Origin: requests of other sites are refused; this one is http://em:8787")
    for other in ("http://evil", "https://em:8787", "null", ""):
        assert refusal(HttpSettings(), Origin=other) == expected


def test_behind_a_proxy_the_origin_must_be_that_of_the_proxy() -> None:
    peer: Any = Peer(("10.1.2.3", 4711))
    http = HttpSettings.model_validate({"trusted_proxies": ["10.0.0.0/8"]})
    headers = {"Host": "em:8787", "Content-Type": JSON, "X-Forwarded-Host": "em.example", "X-Forwarded-Proto": "https"}
    for content_type, refused in ((JSON, None), ("text/plain", 415)):
        own = {**headers, "Origin": "https://em.example", "Content-Type": content_type}
        found = post_refusal(make_mocked_request("POST", "/", own, transport=peer), http)
        assert (found and found[0]) == refused
    other = {**headers, "Origin": "http://em:8787"}
    found = post_refusal(make_mocked_request("POST", "/", other, transport=peer), http)
    assert found == (403, "Origin: requests of other sites are refused; this one is https://em.example")


def test_a_daemon_that_is_open_to_other_machines_refuses_posts_without_a_token_file() -> None:
    expected = (403, "http.token_file: not set, but http.host is open to other machines: POST is disabled")
    assert refusal(HttpSettings(host="0.0.0.0")) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_is_required_if_one_is_set(token_file: Path, host: str) -> None:
    http = HttpSettings(host=host, token_file=token_file)
    assert refusal(http) == (401, "Authorization: Bearer TOKEN is required")
    assert refusal(http, Authorization=f"Bearer {TOKEN}") is None
    for wrong in (TOKEN, "Bearer", f"Bearer {TOKEN}x", f"bearer {TOKEN}", f"Bearer  {TOKEN}", "Bearer é", ""):
        assert refusal(http, Authorization=wrong) == (403, "Authorization: wrong token")
    assert refusal(http, "text/plain", Authorization=f"Bearer {TOKEN}") == (
        415,
        "Content-Type: must be application/json",
    )
    other_site = refusal(http, Authorization=f"Bearer {TOKEN}", Sec_Fetch_Site="cross-site")
    assert other_site is not None
    assert other_site[0] == 403


def test_a_login_counts_as_the_token_unless_the_request_has_one(token_file: Path) -> None:
    http = HttpSettings(token_file=token_file)
    cookie = f"{cookie_name(http)}={login_proof(TOKEN)}"
    assert refusal(http, Cookie=cookie) is None
    assert refusal(http, Cookie=f"{cookie_name(http)}={login_proof('another-token-of-24')}") is not None
    assert refusal(http, Cookie=cookie, Authorization="Bearer wrong") == (403, "Authorization: wrong token")
    assert refusal(http, "text/plain", Cookie=cookie) == (415, "Content-Type: must be application/json")
    assert refusal(http, Cookie=cookie, Origin="http://evil") is not None


def test_a_token_file_that_cannot_be_used_refuses_everything(token_file: Path) -> None:
    http = HttpSettings(token_file=token_file)
    token_file.chmod(0o644)
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
        found = refusal(http, **headers)
        assert found is not None
        assert found[0] == 503
        assert str(token_file) in found[1]
    with pytest.raises(SettingsFault):
        token_matches(http, TOKEN)


def test_only_the_exact_token_matches(token_file: Path) -> None:
    http = HttpSettings(token_file=token_file)
    assert token_matches(http, TOKEN) == TOKEN
    for wrong in ("", f"{TOKEN}x", "\udce9"):
        assert token_matches(http, wrong) is None
    assert token_matches(HttpSettings(), "") is None


def test_a_request_without_browser_headers_is_not_from_another_site() -> None:
    request: Any = make_mocked_request("POST", "/", {"Host": "em"})
    assert site_refusal(request, HttpSettings()) is None
