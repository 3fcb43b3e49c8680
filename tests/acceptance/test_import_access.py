"""The import commands through a real nginx: logins in parameters, environment and host, and secrets in no output."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.facility import APPLY, MIPMAPS, TILESPECS, Facility
from tests.acceptance.rig import command_lines, is_real, require_seen_files, wait_for
from tests.nginx import PASSWORD, SUB_PATH, USER, Nginx


@pytest.fixture
def nginx(tmp_path: Path, standin_url: str) -> Iterator[Nginx]:
    if is_real(standin_url):
        pytest.skip("the proxy of these tests is in front of the stand-in")
    nginx = Nginx(tmp_path / "nginx", standin_url)
    nginx.start()
    try:
        yield nginx
    finally:
        nginx.stop()


def render_through(nginx: Nginx, facility: Facility, **keys: Any) -> dict[str, Any]:
    """Return the render parameters of the old tools, with the host and sub-path of nginx, and the new keys."""
    settings = {key: value for key, value in nginx.settings.items() if key != "url"}
    host = f"https://{nginx.host}{SUB_PATH}"
    render = {**facility.render, "host": host, "port": nginx.port, **settings, **keys}
    return {key: value for key, value in render.items() if value is not None}


def test_the_three_commands_work_through_nginx_with_the_keys_of_the_daemon(nginx: Nginx, facility: Facility) -> None:
    render, section = render_through(nginx, facility), facility.section()
    facility.ingest(section, render=render)
    facility.make(render=render, method="render")
    facility.apply(render=render, close_stack=True)
    assert facility.state("raw") == "COMPLETE"
    assert all(set(tile["mipmapLevels"]) == {"0", "1", "2"} for tile in facility.tiles("raw").values())
    assert nginx.log.count(" 401 ") == 0
    assert "source/png-image 200" in nginx.log


def test_the_environment_supplies_the_keys_that_the_parameters_lack(
    nginx: Nginx, facility: Facility, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in nginx.settings.items():
        monkeypatch.setenv(f"TEMWATCH_RENDER__{key.upper()}", value)
    monkeypatch.setenv("TEMWATCH_RENDER__TOKEN_FILE", "")
    bare = render_through(nginx, facility, **dict.fromkeys(nginx.settings))
    facility.ingest(facility.section(), render=bare)
    host = f"https://{USER}:{PASSWORD}@{nginx.host}{SUB_PATH}"
    facility.ingest(facility.section(grid=1051), z=1051, render={**bare, "host": host})


def test_a_login_in_the_host_parameter_is_sent(nginx: Nginx, facility: Facility) -> None:
    host = f"https://{USER}:{PASSWORD}@{nginx.host}{SUB_PATH}"
    render = render_through(nginx, facility, host=host, username=None, password_file=None)
    facility.ingest(facility.section(), render=render)
    wrong = {**render, "host": host.replace(PASSWORD, f"{PASSWORD}x")}
    facility.run(TILESPECS, metafile=str(facility.section(grid=1051).metafile), stack="raw", z=1, render=wrong, code=1)
    (line,) = facility.errors
    assert f"the proxy at https://{nginx.host}:{nginx.port} asks for a login (401" in line
    assert "check the user in render.host" in line
    assert PASSWORD not in line


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"username": None}, "render.username: is required with password_file"),
        ({"token_file": "/etc/passwd"}, "render.token_file: excludes username"),
        ({"host": "http://127.0.0.1"}, "render.ca_file: is only valid with an address that begins with https://"),
        ({"password_file": "OPEN"}, "render.password_file: OPEN is open to other users"),
    ],
)
def test_invalid_keys_are_named_before_any_request(
    nginx: Nginx, facility: Facility, keys: dict[str, Any], problem: str
) -> None:
    opened = facility.root / "open"
    opened.write_text(PASSWORD)
    opened.chmod(0o644)
    given = {key: str(opened) if value == "OPEN" else value for key, value in keys.items()}
    facility.apply(render=render_through(nginx, facility, **given), code=2)
    assert any(line.startswith(problem.replace("OPEN", str(opened))) for line in facility.errors), facility.errors
    assert PASSWORD not in "".join(facility.errors)
    assert nginx.log == ""


COMMANDS = {
    TILESPECS: ("metafile", "stack"),
    MIPMAPS: ("input_stack", "output_dir"),
    APPLY: ("input_stack", "mipmap_dir"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_planted_secret_is_in_no_output_and_not_in_the_command_line_that_ps_shows(
    nginx: Nginx, facility: Facility, name: str
) -> None:
    """The password is in a flag, and secrets are in files. render-ws hangs while the output of ps is read."""
    facility.misbehave(".", "stall", seconds=2)
    headers = facility.root / "headers"
    headers.write_text(f"X-Api-Key: {PASSWORD}\n")
    headers.chmod(0o600)
    given = {
        "metafile": str(facility.section().metafile), "stack": "raw", "input_stack": "raw",
        "output_dir": str(facility.root), "mipmap_dir": str(facility.root),
    }  # fmt: skip
    login = {"username": None, "password_file": None, "host": None}
    render = render_through(nginx, facility, **login, headers_file=str(headers))
    source, result = facility.input(render=render, z=1050), facility.root / "out.json"
    source.write_text(json.dumps({"render": render, "z": 1050, **{key: given[key] for key in COMMANDS[name]}}))
    known = len(facility.requests())
    host = f"https://{USER}:{PASSWORD}@{nginx.host}{SUB_PATH}"
    flags = ["--render.host", host, "--log_level", "DEBUG", "--output_json", result, "--failures_file", f"{result}.f"]
    command = [sys.executable, "-m", "daemon", name, "--input_json", source, *flags]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: len(facility.requests()) > known or process.poll() is not None, 60, "a request")
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        by_ps = command_lines()
        output = process.communicate(timeout=100)[0]
    finally:
        process.kill()
    assert b"--render.host\0https://" in shown
    assert b"@127.0.0.1" in shown
    assert PASSWORD.encode() not in shown
    assert not [line for line in by_ps if name in line and PASSWORD in line]
    assert process.returncode == 1, output
    assert "got no answer of render-ws (502)" in output
    assert PASSWORD not in output
    assert not [path for path in (result, Path(f"{result}.f")) if path.exists() and PASSWORD in path.read_text()]


def test_the_mipmaps_command_stops_when_a_login_is_refused(facility: Facility) -> None:
    require_seen_files(facility.render_url)
    facility.ingest(facility.section(tiles=24))
    facility.misbehave("GET .*/png-image", "status", status=401)
    facility.make(method="render", code=1)
    assert 1 <= sum("/png-image" in each for each in facility.requests()) <= 6
    assert any("asks for a login" in line for line in facility.errors), facility.errors
    assert any("were not tried after render-ws refused the login" in line for line in facility.errors), facility.errors
    facility.behave()
    facility.make(method="render")
