"""Expiry of certificates and tokens, read from real files and a real server."""

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from daemon.config.render_settings import RenderSettings
from daemon.notify.alerts.expiry import expiries
from tests.certificates import Authority

DAY_S = 86_400.0


def settings(**keys: object) -> RenderSettings:
    return RenderSettings.model_validate({"owner": "em", "project": "v1", **keys})


def test_the_expiry_of_all_certificates_and_of_the_token_is_found(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server, client = authority.server(days=5), authority.client()
    token = tmp_path / "token"
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 2_000_000_000}).encode()).decode().rstrip("=")
    token.write_text(f"e30.{claims}.secret")
    token.chmod(0o600)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.file, server.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listener:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"https://127.0.0.1:{listener.server_address[1]}/render-ws/v1"
            found = expiries(
                settings(
                    url=url, ca_file=str(authority.ca.file), token_file=str(token),
                    client_certificate_file=str(client.file), client_key_file=str(client.key),
                )
            )  # fmt: skip
        finally:
            listener.shutdown()
            thread.join()
    assert found is not None
    ends_days = {each.what.partition(":")[0]: (each.ends_at - time.time()) / DAY_S for each in found}
    assert {key: round(days) for key, days in ends_days.items() if key != "render.token_file"} == {
        "render.client_certificate_file": 2,
        "render.ca_file": 2,
        "render.url": 5,
    }
    assert "for 'render.facility', issued by 'facility CA', valid until" in found[2].what
    assert [each.ends_at for each in found if each.what == "render.token_file: the token"] == [2_000_000_000]
    assert "secret" not in str(found)


def test_the_expiry_is_unknown_if_the_server_does_not_answer_or_a_file_is_refused(tmp_path: Path) -> None:
    assert expiries(settings(url="https://127.0.0.1:1/render-ws/v1")) is None
    token = tmp_path / "token"
    token.write_text("opaque")
    token.chmod(0o644)
    assert expiries(settings(url="http://render/render-ws/v1", token_file=str(token))) is None


def test_a_token_that_states_no_expiry_is_omitted(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("opaque")
    token.chmod(0o600)
    assert expiries(settings(url="http://render/render-ws/v1", token_file=str(token))) == []
