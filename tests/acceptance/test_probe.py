"""`temwatch check-config --probe` names the wrong setting, and leaves no files or stacks."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.elsewhere import Elsewhere, require_namespaces
from tests.acceptance.rig import OWNER, PROJECT, Program, Rig, fetch, temwatch, url_said_in
from tests.nginx import Nginx

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def probe(rig: Rig, *, prefix: tuple[str, ...] = ()) -> tuple[int, list[str], list[str]]:
    """Run the probe; return its exit code, the lines of its results and those of its faults. No file may be left."""
    done = temwatch("check-config", "--probe", "--config", str(rig.config()), prefix=prefix)
    assert "Traceback" not in done.stderr, done.stderr
    assert "distributed." not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert list(rig.root.rglob("*temwatch-probe*")) == []
    proved, wrong = ([line for line in lines if line.startswith(word)] for word in ("probe ", "wrong "))
    return done.returncode, proved, wrong


def stacks(rig: Rig) -> list[str]:
    return [each["stack"] for each in fetch(f"{rig.render_url}/owner/{OWNER}/stackIds")]


def one_wrong(found: tuple[int, list[str], list[str]]) -> str:
    code, _, wrong = found
    assert (code, len(wrong)) == (1, 1), found
    return wrong[0].removeprefix("wrong ")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    """A rig whose stand-in finds the data at other paths, with one acquired image."""
    rig = Elsewhere(tmp_path)
    (rig.acquisition / "tape").mkdir()
    Image.linear_gradient("L").save(rig.acquisition / "tape" / "a tile.tif")
    try:
        rig.start_standin()
        yield rig
    finally:
        rig.close()


def test_the_probe_confirms_a_correct_configuration(elsewhere: Elsewhere) -> None:
    code, proved, wrong = probe(elsewhere)
    assert (code, wrong) == (0, [])
    (_, raw), (_, levels) = elsewhere.entries
    assert "every user can read new files" in proved[0] or "they have no access to" in proved[0]
    assert f"which it sees at {levels}/temwatch-probe-" in proved[1]
    image = elsewhere.acquisition / "tape" / "a tile.tif"
    assert proved[2] == f"probe daemon: render-ws shows the pixels of {image}, which it sees at {raw}/tape/a tile.tif"
    assert stacks(elsewhere) == []


def test_a_missing_or_wrong_entry_of_the_path_map_is_named(elsewhere: Elsewhere, tmp_path: Path) -> None:
    right = elsewhere.entries
    elsewhere.entries = ((right[0][0], tmp_path / "not there"), right[1])
    said = one_wrong(probe(elsewhere))
    missing = f"render-ws does not find {tmp_path}/not there, the path of {right[0][0]}"
    assert said.startswith(f"render.path_map: watch daemon: {missing}")
    elsewhere.entries = (right[0],)
    said = one_wrong(probe(elsewhere))
    missing = f"render-ws does not find {elsewhere.mipmaps}/temwatch-probe-"
    assert said.startswith(f"render.path_map: watch daemon: {missing}")
    assert said.endswith(f"it finds {elsewhere.mipmaps} (add an entry: the files have another path on render-ws)")
    swapped = ((right[0][0], right[1][1]), (right[1][0], right[0][1]))
    elsewhere.entries = swapped
    code, _, wrong = probe(elsewhere)
    assert (code, [line.split(": ")[0] for line in wrong]) == (1, ["wrong render.path_map"] * 2)
    assert stacks(elsewhere) == []


def test_another_image_at_the_mapped_path_is_named(elsewhere: Elsewhere, tmp_path: Path) -> None:
    (local, there), mips = elsewhere.entries
    other = tmp_path / "other"
    (other / "tape").mkdir(parents=True)
    Image.radial_gradient("L").save(other / "tape" / "a tile.tif")
    elsewhere.entries = ((local, other), mips)
    said = one_wrong(probe(elsewhere))
    other_pixels = f"render-ws returns other pixels than those of {local}/tape/a tile.tif"
    assert said.startswith(f"render.path_map: watch daemon: {other_pixels}")
    assert str(there) not in said


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A rig whose directories, unlike those of pytest, are accessible to other users."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        rig = Rig(Path(place))
        rig.mipmaps.mkdir()
        try:
            yield rig
        finally:
            rig.close()


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to run render-ws as another user")


def start_as_nobody(rig: Rig) -> None:
    log = rig.root / "standin.log"
    rig.standin = Program(log, "daemon", "standin", "--port", "0", prefix=AS_NOBODY)
    rig.render_url = url_said_in(rig.standin, 0)


@pytest.mark.slow
def test_files_that_render_ws_may_not_read_are_named(rig: Rig) -> None:
    require_root()
    start_as_nobody(rig)
    assert probe(rig)[0] == 0
    rig.mipmaps.chmod(0o750)
    said = one_wrong(probe(rig))
    assert said.startswith(f"watch[0].mipmaps.output_dir: render-ws may not enter {rig.mipmaps} (mode 0750, user 0, gr")
    rig.mipmaps.chmod(0o755)
    image = rig.acquisition / "closed.tif"
    Image.linear_gradient("L").save(image)
    image.chmod(0o600)
    said = one_wrong(probe(rig))
    assert said.startswith(f"watch[0].directory: render-ws may not read {image} (mode 0600, user 0, group 0)")


@pytest.mark.slow
def test_new_files_that_the_umask_hides_from_render_ws_are_named(rig: Rig) -> None:
    require_root()
    start_as_nobody(rig)
    found = probe(rig, prefix=("sh", "-c", 'umask 027; exec "$@"', "sh"))
    assert "other users cannot read new files" in found[1][0]
    assert "(mode 0750, user 0, group 0)" in one_wrong(found)
    rig.settings |= {"watch.mipmaps.file_mode": "0644", "watch.mipmaps.directory_mode": "0755"}
    found = probe(rig, prefix=("sh", "-c", 'umask 027; exec "$@"', "sh"))
    assert (found[0], "every user can read new files (mode 0644)" in found[1][0]) == (0, True), found


@pytest.mark.slow
def test_a_read_only_or_full_output_dir_is_named(rig: Rig) -> None:
    require_namespaces()
    rig.start_standin()
    mount = ("unshare", "--mount", "--map-root-user") if os.geteuid() else ("unshare", "--mount")

    def mounted(options: str, then: str = "") -> tuple[str, ...]:
        script = f'mount -t tmpfs -o {options} none "{rig.mipmaps}"; {then} exec "$@"'
        return (*mount, "sh", "-c", script, "sh")

    said = one_wrong(probe(rig, prefix=mounted("ro")))
    assert said.startswith(f"watch[0].mipmaps.output_dir: {rig.mipmaps}: user ")
    assert "cannot make a directory in it: Read-only file system (remount it writable" in said
    fill = f'head -c 1M /dev/zero > "{rig.mipmaps}/full" 2>/dev/null;'
    said = one_wrong(probe(rig, prefix=mounted("size=64k", fill)))
    assert "cannot write a file in it: No space left on device (free some space)" in said
    rig.settings["watch.mipmaps.min_free_bytes"] = 2**20
    said = probe(rig, prefix=mounted("size=64k"))[2][0]
    assert "free, but min_free_bytes is 1.05 MB: free space there" in said
    assert stacks(rig) == []


def test_an_output_dir_that_the_user_cannot_write_is_named(rig: Rig) -> None:
    require_root()
    rig.start_standin()
    rig.root.chmod(0o777)  # for the journal
    said = one_wrong(probe(rig, prefix=AS_NOBODY))
    assert "cannot make a directory in it: Permission denied (give this user write permission)" in said


def with_unit(rig: Rig, *properties: str) -> tuple[str, ...]:
    """Return a prefix of commands for which `systemctl show` prints these properties of temwatch.service."""
    program = rig.root / "bin" / "systemctl"
    program.parent.mkdir(exist_ok=True)
    said = "\n".join(("LoadState=loaded", *properties))
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "show temwatch.service" ] && cat <<END\n{said}\nEND\n')
    program.chmod(0o755)
    return ("env", f"PATH={program.parent}:{os.environ['PATH']}")


@pytest.mark.slow
def test_root_probes_as_the_user_of_the_unit(rig: Rig) -> None:
    require_root()
    rig.start_standin()
    rig.root.chmod(0o777)  # for the journal
    as_service = with_unit(rig, f"User={NOBODY}", f"Group={NOBODY}", "UMask=0027")
    said = one_wrong(probe(rig, prefix=as_service))
    assert "cannot make a directory in it: Permission denied (give this user write permission)" in said
    os.chown(rig.mipmaps, NOBODY, NOBODY)
    code, proved, wrong = probe(rig, prefix=as_service)
    assert (code, wrong) == (0, [])
    assert proved[0].endswith(f"(mode 0750, user {NOBODY}, group {NOBODY})")
    assert proved[-1] == "probe files are accessed as user nobody, the user of temwatch.service"
    code, proved, _ = probe(rig, prefix=with_unit(rig, "User=nobody-at-all"))
    assert code == 0
    assert proved[-1].startswith("probe files are accessed as root: temwatch.service runs as nobody-at-all, and")


@pytest.mark.slow
def test_the_probe_names_the_user_that_accesses_files_and_the_command_for_the_user_of_the_service(rig: Rig) -> None:
    require_root()
    rig.start_standin()
    rig.root.chmod(0o777)
    os.chown(rig.mipmaps, NOBODY, NOBODY)
    command = f"`sudo -u daemon {sys.executable} -m daemon check-config --probe --config {rig.config()}`"
    _, proved, _ = probe(rig, prefix=(*with_unit(rig, "User=daemon"), *AS_NOBODY))
    assert proved[-1] == f"probe files are accessed as user nobody, but temwatch.service runs as daemon: run {command}"
    _, proved, _ = probe(rig, prefix=("env", f"PATH={rig.root}", shutil.which("setpriv") or "", *AS_NOBODY[1:]))
    assert proved[-1].startswith("probe files are accessed as user nobody: if the service runs as another user, run ")
    _, proved, _ = probe(rig, prefix=("/usr/bin/env", f"PATH={rig.root}"))
    assert "user root, which has more rights than other users: if the service runs as another user" in proved[-1]


def test_the_probe_names_a_wrong_password_and_accepts_a_correct_one(rig: Rig, tmp_path: Path) -> None:
    rig.start_standin()
    proxy = Nginx(tmp_path / "nginx", rig.render_url)
    direct = rig.render_url
    try:
        proxy.start()
        rig.settings.update({f"render.{key}": value for key, value in proxy.settings.items()})
        assert probe(rig)[0] == 0
        proxy.password_file.write_text("wrong")
        said = one_wrong(probe(rig))
        assert said.startswith("render.password_file: ")
        assert "login" in said
        authority = rig.settings.pop("render.ca_file")
        assert one_wrong(probe(rig)).startswith("render.ca_file: ")
        for key in ("certificate", "key"):
            rig.settings.pop(f"render.client_{key}_file")
        rig.settings["render.ca_file"] = authority
        assert one_wrong(probe(rig)).startswith("render.client_certificate_file: ")
        rig.render_url = direct
        assert stacks(rig) == []
    finally:
        proxy.stop()


def test_a_render_ws_that_does_not_answer_is_named_and_the_files_are_probed(rig: Rig) -> None:
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    found = probe(rig)
    assert one_wrong(found).startswith("render.url: ")
    assert "read new files" in found[1][0]


def test_the_probe_creates_and_removes_an_output_dir_that_does_not_exist(rig: Rig) -> None:
    rig.start_standin()
    rig.mipmaps.rmdir()
    assert probe(rig)[0] == 0
    assert not rig.mipmaps.exists()
    assert (OWNER, PROJECT) not in [
        (each["owner"], each["project"]) for each in fetch(f"{rig.render_url}/owner/{OWNER}/stackIds")
    ]
