"""`temwatch log` and the daemon's log: all lines of a montage are found, and hostile file names are escaped."""

import json
import re
import subprocess

import pytest

from tests.acceptance.rig import Rig, fetch, temwatch, wait_for

HOSTILE = "x\x1b[2J\x1b]0;title\x07\nready at http:evil\u202egpj"
ESCAPED = r"x\x1b[2J\x1b]0;title\x07\nready at http:evil\u202egpj"


def logged(rig: Rig, montage: int) -> list[str]:
    """Return the lines of the daemon's log that have the montage's id."""
    lines = rig.daemon.log.read_text().splitlines()
    return [line for line in lines if json.loads(line).get("montage") == montage]


def has_last_line(rig: Rig, montage: int) -> bool:
    return any('"montage.complete"' in line for line in logged(rig, montage))


def test_a_montage_is_followed_by_its_id(running_rig: Rig, write) -> None:
    rig, section, other = running_rig, write(1050), write(1051)
    rig.wait_until("complete", section.metafile, other.metafile)
    montage = rig.montage_of(section.metafile)["id"]
    wait_for(lambda: has_last_line(rig, montage), 60, "the last line of the montage")
    config = ("--config", str(rig.config()))
    done = temwatch("log", str(montage), *config)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head == f"montage {montage}: {section.metafile}"
    events = [line.split()[3] for line in lines if line.split()[3].startswith("montage.")]
    assert events == [
        f"montage.{each}" for each in ("noticed", "settled", "ingested", "mipmapped", "judged", "applied", "completed")
    ]
    assert {"step.done"} == {line.split()[3] for line in lines} - set(events)
    assert [line for line in lines if str(section.metafile) in line] == []

    recipe = re.search(r"grep .*", done.stderr)[0]
    found = subprocess.run(recipe, shell=True, capture_output=True, text=True).stdout.splitlines()
    assert found == logged(rig, montage)
    assert len(found) >= 6

    as_json = temwatch("log", str(montage), "--json", *config)
    assert [json.loads(line)["montage"] for line in as_json.stdout.splitlines()] == [montage] * len(lines)
    by_path = temwatch("log", str(section.metafile), *config)
    assert by_path.stdout == done.stdout

    rig.daemon.stop()
    without_daemon = temwatch("log", str(montage), *config)
    assert without_daemon.stdout == done.stdout
    assert "the daemon does not run" in without_daemon.stderr
    missing = temwatch("log", "4711", *config)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no montage has this id or metafile" in missing.stderr


@pytest.mark.slow
def test_a_hostile_file_name_is_escaped_on_terminals_in_the_log_and_in_answers(rig: Rig, write) -> None:
    directory = rig.acquisition
    rig.acquisition = directory / HOSTILE
    rig.acquisition.mkdir()
    good, bad = write(1050), write(1051)
    next(path for path in bad.metafile.parent.iterdir() if path.suffix == ".tif").write_bytes(b"II*\0 no image")
    rig.acquisition = directory
    rig.settings = {"log.level": "debug", "watch.arrival_timeout_s": 2}
    rig.start_standin()
    rig.start()
    rig.wait_until("complete", good.metafile)
    rig.wait_until("failed", bad.metafile)
    config = ("--config", str(rig.config()))
    montage = rig.montage_of(bad.metafile)["id"]
    for command in (
        ("status",), ("status", "--json"), ("status", "--failed"), ("health",), ("log", str(montage)),
        ("log", str(montage), "--json"), ("verify",), ("verify", "--json"), ("replay", "--dry-run", str(bad.metafile)),
        ("replay", str(bad.metafile)),
    ):  # fmt: skip
        done = temwatch(*command, *config)
        assert_safe(done.stdout + done.stderr, str(command))
        assert (
            command[0] in {"verify", "health"}
            or ESCAPED in done.stdout.replace("\\\\", "\\")
            or "\\u001b[2J" in done.stdout
        )
    body = json.dumps(fetch(f"{rig.url}/api/montages"))
    assert HOSTILE in json.loads(body)["montages"][0]["metafile"]
    with_curl = subprocess.run(["curl", "-s", f"{rig.url}/api/montages", f"{rig.url}/readyz"], capture_output=True)
    assert_safe(with_curl.stdout.decode(), "HTTP")
    rig.daemon.stop()
    assert_safe(rig.daemon.log.read_text(), "log")


def assert_safe(text: str, where: str) -> None:
    """Assert that every character except line breaks is printable, and that the file name has forged no line."""
    assert text.replace("\n", "").isprintable(), where + ascii(text)
    assert not any(line.startswith("ready at http:evil") for line in text.split("\n")), where
