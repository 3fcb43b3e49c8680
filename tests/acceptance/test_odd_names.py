"""A directory whose name is not UTF-8 is processed, and every text about it is valid UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.rig import Rig, fetch, temwatch


@pytest.mark.slow
def test_a_directory_that_is_not_utf_8_is_processed_and_reported(rig: Rig, write) -> None:
    odd = Path(os.fsdecode(os.fsencode(rig.acquisition) + b"/probe_\xe4"))
    rig.acquisition = odd
    odd.mkdir()
    good, bad = write(1050), write(1051)
    broken = next(path for path in bad.metafile.parent.iterdir() if path.suffix == ".tif")
    broken.write_bytes(b"II*\0 no image at all")
    rig.acquisition = odd.parent
    rig.start_standin()
    rig.settings = {"log.level": "debug", "watch.arrival_timeout_s": 2}
    rig.start()
    rig.wait_until("complete", good.metafile)
    rig.wait_until("failed", bad.metafile)
    config = ("--config", str(rig.config()))
    assert "temwatch_montages{" in fetch(f"{rig.url}/metrics")
    assert rig.ready()["ready"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as with any locale except C
    for command in (("status",), ("status", "--json"), ("verify",), ("replay", "--dry-run", str(bad.metafile))):
        done = temwatch(*command, *config, env=strict)
        assert (done.returncode, done.stderr) == (0, "")
        assert "probe_" in done.stdout or command == ("verify",)
    rig.daemon.stop()
    for line in rig.daemon.log.read_bytes().splitlines():
        json.loads(line.decode())


def test_names_of_files_are_utf_8_in_every_locale(rig: Rig) -> None:
    rig.acquisition = rig.acquisition / "Würfel"
    rig.acquisition.mkdir()
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    command = [sys.executable, "-m", "daemon", "check-config", "--config", str(rig.config())]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0"}  # ASCII; a locale with ISO-8859-1 need not be installed
    done = subprocess.run(command, env=os.environ | locale, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    said = done.stdout.decode()
    assert f"reads    {rig.acquisition}" in said
    assert "W%C3%BCrfel" in said
    assert "there is no directory" not in said
