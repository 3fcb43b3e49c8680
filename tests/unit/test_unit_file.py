"""The systemd unit: accepted by systemd, and consistent with the daemon."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "temwatch.service"
DROP_IN = SYSTEMD / "temwatch.service.d.example" / "10-site.conf"
MAX_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt install systemd"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60)


def settings(path: Path = UNIT) -> dict[str, dict[str, Sequence[str]]]:
    """Return the values of each key of each section; a key can occur several times."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if title := re.fullmatch(r"\[(.+)\]", line):
            section = found.setdefault(title[1], {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return {name: dict(keys) for name, keys in found.items()}


@needs_systemd
def test_the_exposure_level_of_the_service_is_at_most_two() -> None:
    report = analyze("security", "--offline=true", str(UNIT)).stdout
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert level, report
    assert float(level[1]) <= MAX_EXPOSURE


@needs_systemd
@pytest.mark.parametrize("with_drop_in", [False, True])
def test_systemd_verifies_the_unit_without_a_warning(tmp_path: Path, with_drop_in: bool) -> None:
    installed = tmp_path / UNIT.name
    # systemd requires that the program exists. The one of the unit does not exist here.
    installed.write_text(UNIT.read_text().replace("/opt/temwatch/bin/temwatch", f'"{sys.executable}"'))
    if with_drop_in:
        (tmp_path / f"{UNIT.name}.d").mkdir()
        shutil.copy(DROP_IN, tmp_path / f"{UNIT.name}.d")
    verified = analyze("verify", "--man=no", str(installed))
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_unit_waits_longer_than_the_daemon_drains() -> None:
    from daemon.app import DRAIN_S, GIVE_UP_S, STOP_S
    from daemon.journal.connection import CLOSE_S
    from daemon.system.threads import END_S
    from daemon.web import server
    from handlers.workers.processes import KILLED_S

    (stop,) = settings()["Service"]["TimeoutStopSec"]
    max_s = max(STOP_S, DRAIN_S + 2 * GIVE_UP_S + 1) + KILLED_S + server.END_S + CLOSE_S + END_S
    assert int(stop.removesuffix("s")) >= max_s + 10


def test_the_unit_bounds_its_memory_and_outlives_a_worker_that_exceeds_it() -> None:
    service = settings()["Service"]
    shares = [int(share.removesuffix("%")) for key in ("MemoryHigh", "MemoryMax") for share in service[key]]
    assert len(shares) == 2
    assert 50 <= shares[0] < shares[1] < 100
    assert service["OOMPolicy"] == ["continue"]


def test_the_unit_does_not_restart_after_a_fault_that_a_restart_cannot_correct() -> None:
    service = settings()["Service"]
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]
    assert service["Type"] == ["notify"]


def test_the_example_neither_requires_a_mount_nor_names_one_that_may_be_dead() -> None:
    """With a real systemd and a dead file server, each of these settings prevents or blocks the start."""
    example = settings(DROP_IN)
    assert not {"Requires", "RequiresMountsFor", "BindsTo", "Requisite"} & example["Unit"].keys()
    mounts = {name for names in example["Unit"]["After"] for name in names.split()}
    for key in ("ReadWritePaths", "ReadOnlyPaths"):
        for path in (path for paths in example["Service"].get(key, ()) for path in paths.split()):
            assert path.startswith("-"), "a missing directory must not keep the service from starting"
            assert path.strip("-/").replace("/", "-") + ".mount" not in mounts


def test_the_example_lets_the_service_connect_only_to_this_machine_and_render_ws() -> None:
    service = settings(DROP_IN)["Service"]
    assert service["IPAddressDeny"] == ["any"]
    assert service["IPAddressAllow"] == [
        "localhost",
        "192.0.2.17",
    ]  # RFC 5737 reserves it for documents


def test_a_reload_waits_for_its_outcome() -> None:
    assert settings()["Service"]["ExecReload"] == [
        "/opt/temwatch/bin/temwatch reload --config /etc/temwatch/config.toml"
    ]


def test_the_unit_can_write_only_its_state() -> None:
    service = settings()["Service"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["StateDirectory"] == ["temwatch"]
    assert "ReadWritePaths" not in service


def test_user_and_directories_are_those_of_the_unit() -> None:
    (user,) = settings()["Service"]["User"]
    assert f"u {user} " in (SYSTEMD / "temwatch.sysusers.conf").read_text()
    assert f"d /var/lib/temwatch 0750 {user} {user}" in (SYSTEMD / "temwatch.tmpfiles.conf").read_text()
