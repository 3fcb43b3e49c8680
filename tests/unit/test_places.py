"""Journal and address of a running daemon, found although its configuration file is refused."""

from pathlib import Path

import pytest

from daemon.config.daemon_address import find_places

VALID = '[journal]\npath = "/j/journal.sqlite"\n[http]\nhost = "::1"\nport = 9\n'
REST = """[render]
url = "embedded"
owner = "em"
project = "v1"
[[watch]]
name = "temca2"
directory = "/data"
z = { rule = "grid" }
mipmaps = { output_dir = "/mips" }
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VALID + REST, ("/j/journal.sqlite", "::1", 9)),
        (VALID + "[render]\nurl = x\n", ("/j/journal.sqlite", "::1", 9)),
        ("[render]\nurl = x\n" + VALID, ("/j/journal.sqlite", "::1", 9)),
        (VALID + "[[watch]]\n", ("/j/journal.sqlite", "::1", 9)),
        (VALID.replace("port", "poort") + REST, ("/j/journal.sqlite", "::1", 8787)),
        (VALID.replace("9", "'x'") + REST, ("/j/journal.sqlite", "127.0.0.1", 8787)),
        ("", ("/var/lib/temwatch/journal.sqlite", "127.0.0.1", 8787)),
    ],
    ids=["valid", "not TOML after", "not TOML before", "keys missing", "unknown key", "wrong value", "empty"],
)
def test_valid_tables_of_a_refused_file_are_used(tmp_path: Path, text: str, expected: tuple[str, str, int]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    places = find_places(config)
    assert (str(places.journal), places.http.host, places.http.port) == expected
    assert bool(places.problems) is (text != VALID + REST)


def test_without_a_file_the_environment_and_the_defaults_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMWATCH_HTTP__PORT", "1234")
    places = find_places(tmp_path / "none.toml")
    assert (places.http.port, str(places.journal)) == (1234, "/var/lib/temwatch/journal.sqlite")
    assert "no such file" in places.problems[0]
