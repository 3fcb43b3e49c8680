"""The commands of docs/operations.md, as written, install, upgrade and uninstall temwatch on a bare Debian 12."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.environment import proxies_of_caller

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "temwatch" / "debian-12.tar.gz"
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.so")

CERTIFICATES = Path("/etc/network-certificates.crt")
EDITOR = "#!/bin/sh\n# An operator who changes nothing: the example is valid.\ntest -w $1\n"


class Debian:
    """A root directory of Debian 12, entered by chroot, with its own mounts and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, script: str, directory: str = "/root") -> str:
        """Return the output of a shell script. The first line that fails makes the test fail."""
        enter = f'mount -t proc proc "$0/proc" && exec chroot "$0" sh -exc \'cd "$0" && eval "$1"\' {directory} "$1"'
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, self.root, script],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def environment() -> dict[str, str]:
    """Return the environment of a login as root, with this machine's network settings; systemctl runs offline."""
    network = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | proxies_of_caller()
    login = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    chroot = {"PIP_CERT": str(CERTIFICATES), "DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1"}
    port = {"TEMWATCH_HTTP__PORT": "0"}  # check-config refuses a port that a program of this machine uses
    return network | login | chroot | port


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Debian]:
    if os.geteuid() != 0:
        pytest.skip("needs root: debootstrap and chroot")
    if not shutil.which("debootstrap"):
        pytest.skip("debootstrap is not installed")
    if not CACHE.exists():
        make_root(CACHE, tmp_path / "made")
    root = tmp_path / "debian"
    root.mkdir()
    try:
        subprocess.run(["tar", "-xzf", CACHE, "-C", root], check=True)
        connect_to_network(root)
        editor = root / "usr/local/bin/editor"
        editor.write_text(EDITOR)
        editor.chmod(0o755)
        yield Debian(root)
    finally:
        shutil.rmtree(root)  # half a gigabyte


def make_root(archive: Path, place: Path) -> None:
    """Make an archive of a bare Debian 12 with systemd, and rename it to `archive` when it is complete."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=systemd", "bookworm", place, debian_mirror()],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | proxies_of_caller(),
    )
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(f".{archive.name}.{os.getpid()}")
    subprocess.run(["tar", "-czf", unfinished, "-C", place, "."], check=True)
    unfinished.rename(archive)
    shutil.rmtree(place)


def debian_mirror() -> str:
    """Return the mirror of Debian's archive that this machine's apt uses."""
    fields = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        origin, label, uri = line.rsplit(maxsplit=2)
        if (origin, label) == ("Debian", "Debian"):
            return uri
    pytest.skip("apt of this machine has no index of Debian's archive")


def connect_to_network(root: Path) -> None:
    """Copy this machine's name resolution and certificates."""
    for name in ("resolv.conf", "hosts", "pip.conf"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / CERTIFICATES.relative_to("/"))


def commands(heading: str) -> list[str]:
    """Return the shell commands of one chapter of docs/operations.md, block by block."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    chapters = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```", chapters[heading], re.MULTILINE | re.DOTALL)
    assert blocks
    return blocks


def check_out(root: Path, version: str) -> None:
    """Copy the working tree as a checkout of a version, which replaces an earlier one."""
    checkout = root / "root/temwatch"
    shutil.copytree(ROOT, checkout, ignore=NOT_COPIED, dirs_exist_ok=True)
    project = checkout / "pyproject.toml"
    project.write_text(re.sub(r'^version = ".*"$', f'version = "{version}"', project.read_text(), flags=re.MULTILINE))


def pins(lock: Path) -> set[str]:
    """Return the names and versions that Python 3.11 on Linux installs from a lock."""
    lines = re.findall(r"^([a-z0-9-]+)(?:\[.*?\])?==(\S+)(?: ; (.*))? \\$", lock.read_text(), re.MULTILINE)
    return {f"{name}=={version}" for name, version, marker in lines if "win32" not in marker}


def installed(debian: Debian) -> set[str]:
    """Return the names and versions in the service's environment, without those of an empty environment."""
    listed = debian.run("/opt/temwatch/bin/pip list --format=freeze --exclude pip --exclude setuptools")
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", listed, re.MULTILINE)
    return {f"{canonicalize_name(name)}=={version}" for name, version in found}


BEGIN_JOURNAL = """
runuser -u temwatch -- /opt/temwatch/bin/python - <<'END'
import asyncio, pathlib
from daemon.journal.journal import Journal

async def begin():
    async with Journal(pathlib.Path("/var/lib/temwatch/journal.sqlite")):
        pass

asyncio.run(begin())
END
"""
"""Creates the journal, as the first start of the service does; no daemon runs in this test."""


@pytest.mark.slow(minutes=10)
@pytest.mark.timeout(1800)
def test_the_commands_of_the_operations_guide_install_upgrade_and_uninstall_on_debian_12(debian: Debian) -> None:
    check_out(debian.root, "0.8.0")
    for block in commands("How do I install it?"):
        debian.run(block, "/root/temwatch")
    locked = pins(ROOT / "requirements.lock")
    assert installed(debian) == locked | {"temwatch==0.8.0"}
    debian.run(BEGIN_JOURNAL)

    check_out(debian.root, "0.9.0")
    for block in commands("How do I upgrade it?"):
        debian.run(block, "/root/temwatch")
    assert installed(debian) == locked | {"temwatch==0.9.0"}
    assert "all verified" in debian.run("/opt/temwatch/bin/temwatch demo --sections 1 --tiles 4", "/tmp")

    for block in commands("How do I uninstall it?"):
        debian.run(block)
    left = debian.run("find / -xdev -iname '*temwatch*' -not -path '/root/*' -not -path '/tmp/*'").splitlines()
    assert [line for line in left if line.startswith("/")] == []
