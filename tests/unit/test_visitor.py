"""Users that proxies name, login cookies, and the rights of a request."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from daemon.config.settings import HttpSettings
from daemon.web.visitor import Access, access_of, comes_from_proxy, cookie_name, is_logged_in, login_proof, origin_of

TOKEN = "a-token-of-24-characters"
AMY = {"X-Remote-User": "Amy"}


class Peer:
    """Stand-in for the connection of a client with an address."""

    def __init__(self, address: tuple[str, int] | None) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._address if name == "peername" else default


def request_from(address: str | None, **headers: str) -> Any:
    peer: Any = Peer((address, 4711) if address else None)
    return make_mocked_request("GET", "/", headers, transport=peer)


def behind_proxy(**values: Any) -> HttpSettings:
    trusted = {"trusted_proxies": ["10.0.0.0/8"], "user_header": "X-Remote-User"}
    return HttpSettings.model_validate({**trusted, **values})


@pytest.mark.parametrize(("address", "is_proxy"), [("10.1.2.3", True), ("11.1.2.3", False), (None, False)])
def test_only_a_peer_with_a_trusted_address_is_a_proxy(address: str | None, is_proxy: bool) -> None:
    http, request = behind_proxy(), request_from(address, **AMY, **{"X-Forwarded-Proto": "https", "Host": "em"})
    assert comes_from_proxy(request, http) is is_proxy
    assert access_of(request, http) == Access("yes", logged_in=False, user="Amy" if is_proxy else None)
    assert origin_of(request, http) == ("https://em" if is_proxy else "http://em")


def test_pages_have_the_host_and_the_scheme_that_the_last_proxy_names() -> None:
    forwarded = {"X-Forwarded-Host": "elsewhere, em.example", "X-Forwarded-Proto": "http, https", "Host": "em"}
    assert origin_of(request_from("10.1.2.3", **forwarded), behind_proxy()) == "https://em.example"
    assert origin_of(request_from("11.1.2.3", **forwarded), behind_proxy()) == "http://em"
    assert access_of(request_from("10.1.2.3", Host="em"), behind_proxy()) == Access("yes", logged_in=False, user=None)


def test_without_a_token_only_requests_to_loopback_can_write() -> None:
    request = request_from("10.1.2.3", **AMY)
    assert access_of(request, behind_proxy(host="127.0.0.1")) == Access("yes", logged_in=False, user="Amy")
    assert access_of(request, behind_proxy(host="0.0.0.0")) == Access("no", logged_in=False, user="Amy")


def test_no_request_can_write_while_the_token_cannot_be_read(tmp_path: Path) -> None:
    http = behind_proxy(token_file=str(tmp_path / "absent"))
    assert access_of(request_from("10.1.2.3", **AMY), http) == Access("no", logged_in=False, user="Amy")


@pytest.mark.parametrize(
    ("proof", "access"),
    [
        (login_proof(TOKEN), Access("yes", logged_in=True, user="Amy")),
        (login_proof("another-token-of-24-chars"), Access("login", logged_in=False, user="Amy")),
        (TOKEN, Access("login", logged_in=False, user="Amy")),
        (None, Access("login", logged_in=False, user="Amy")),
    ],
    ids=["proof of the token", "proof of a former token", "the token itself", "no proof"],
)
def test_only_the_proof_of_the_present_token_logs_in(tmp_path: Path, proof: str | None, access: Access) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    http = behind_proxy(token_file=str(token))
    cookie = {} if proof is None else {"Cookie": f"{cookie_name(http)}={proof}"}
    assert access_of(request_from("10.1.2.3", **AMY, **cookie), http) == access


def test_a_cookie_that_is_not_text_is_not_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    http = behind_proxy()
    request: Any = type("Request", (), {"cookies": {cookie_name(http): "\udcff"}})
    assert not is_logged_in(request, http, TOKEN)
