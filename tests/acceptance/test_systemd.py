"""The unit under a real systemd: Debian 12 booted in its own namespaces, temwatch installed as the guide says."""

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.passthrough import WHY_NOT, Mount
from tests.acceptance.rig import wait_for
from tests.acceptance.test_operations import Debian, check_out, commands, debian  # noqa: F401  a fixture
from tests.settings_text import settings_text

BOOT = """
set -e
mount --bind "$ROOT" "$ROOT" && cd "$ROOT"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    mknod -m 666 dev/$name c $(stat -c '0x%t 0x%T' /dev/$name)
done
mkdir dev/shm dev/pts && mount -t tmpfs tmpfs dev/shm && mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
if [ "$UNIFIED" ]; then
    mount -t cgroup2 cgroup sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup && mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
    legacy="systemd.unified_cgroup_hierarchy=no systemd.legacy_systemd_cgroup_controller=yes"
fi
mkdir -p mnt/share old && mount --bind "$SHARE" mnt/share
pivot_root . old && umount -l /old && mount --make-rshared /
exec env -i container=docker PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --show-status=false $legacy
"""
"""Does the work of a container manager, then runs systemd."""

MASKED_UNITS = ("systemd-tmpfiles-setup", "systemd-tmpfiles-setup-dev", "systemd-tmpfiles-clean", "systemd-remount-fs")
"""Units that only whole machines need."""

CONFIG = settings_text("/data/temca2", "/data/mipmaps/share", url="embedded") + "[workers]\ncount = 1\n"

CGROUP2 = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Mount points of the unified hierarchy: alone, or with the other hierarchies."""
CONNECT = """\
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    socket.create_connection(server.getsockname(), 3).close()
"""


class Machine:
    """A root directory of Debian 12, with systemd as process 1."""

    def __init__(self, root: Path, share: Path) -> None:
        for unit in MASKED_UNITS:
            (root / f"etc/systemd/system/{unit}.service").symlink_to("/dev/null")
        place = next((path for path in CGROUP2 if (path / "cgroup.controllers").exists()), None)
        self.filters_addresses = place is not None
        """Whether systemd can enforce IPAddressDeny=: it needs the unified hierarchy."""
        self._group = (place or Path("/sys/fs/cgroup/systemd")) / f"temwatch-test-{os.getpid()}"
        self._group.mkdir()
        enter = f'echo $$ > {self._group}/cgroup.procs && exec unshare -mpfuinC --propagation private --kill-child "$@"'
        self._log = (root.parent / "systemd.log").open("w+b")
        self._booting = subprocess.Popen(
            ["sh", "-c", enter, "sh", "sh", "-c", BOOT],
            env={**os.environ, "ROOT": str(root), "SHARE": str(share), "UNIFIED": "1" if place else ""},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for(self._is_up, 60, self._said)
        self.run("ip link set lo up 2>/dev/null || ifconfig lo up 2>/dev/null || true")

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _is_up(self) -> bool:
        assert self._booting.poll() is None, self._said()
        with contextlib.suppress(AssertionError, IndexError):
            return self.run("systemctl is-system-running || true").strip() in ("running", "degraded")
        return False

    def run(self, script: str, *, fails: bool = False) -> str:
        """Run a shell script in the machine; return its output. With `fails` it must fail, otherwise succeed."""
        children = Path(f"/proc/{self._booting.pid}/task/{self._booting.pid}/children").read_text().split()
        done = subprocess.run(
            ["nsenter", "-t", children[0], "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "sh", "-c", script],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    def add_address(self, address: str) -> None:
        """Add an address to the loopback interface."""
        (child,) = Path(f"/proc/{self._booting.pid}/task/{self._booting.pid}/children").read_text().split()
        subprocess.run(["nsenter", "-t", child, "-n", "ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)

    def show(self) -> str:
        """Return the state of the service in three words."""
        return " ".join(self.run("systemctl show -p ActiveState -p SubState -p Result --value temwatch").split())

    def health(self) -> str:
        """Return the output of `temwatch health`."""
        return self.run("runuser -u temwatch -- /opt/temwatch/bin/temwatch health || true")

    def close(self) -> None:
        """Kill all its processes."""
        self._booting.kill()
        self._booting.wait()
        self._log.close()
        wait_for(self._is_empty, 60)

    def _is_empty(self) -> bool:
        for group in sorted(self._group.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            self._group.rmdir()
        return not self._group.exists()


@pytest.fixture
def machine(debian: Debian, tmp_path: Path) -> Iterator[tuple[Machine, Mount]]:  # noqa: F811  the fixture
    """A booted machine with temwatch installed, and a share mounted at /mnt/share."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    check_out(debian.root, "0.9.0")
    for block in commands("How do I install it?"):
        debian.run(block, "/root/temwatch")
    debian.run("mkdir -p /data/temca2 /data/mipmaps/share && chown temwatch /data/mipmaps /data/mipmaps/share")
    (debian.root / "etc/temwatch/config.toml").write_text(CONFIG)
    # Not every machine allows nested user namespaces.
    (debian.root / "etc/systemd/system/temwatch.service.d/99-test.conf").write_text("[Service]\nPrivateUsers=no\n")
    source, shown = tmp_path / "source", tmp_path / "share"
    source.mkdir(mode=0o777)
    source.chmod(0o777)
    with contextlib.ExitStack() as stack:
        share = Mount(source, shown)
        stack.callback(share.close)
        booted = Machine(debian.root, shown)
        stack.callback(booted.close)
        yield booted, share


@contextlib.contextmanager
def timed(what: str, limit_s: float) -> Iterator[None]:
    """Print how long something takes; fail if it takes longer than the limit."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    os.write(1, f"{what}: {took_s:.1f} s\n".encode())
    assert took_s < limit_s, what


def check_address_rules(there: Machine) -> None:
    """Check that a process can connect only to the addresses in the rules of the example."""
    there.run(f"cat > /root/connect.py <<'END'\n{CONNECT}END")
    rules = there.run("grep -h ^IPAddress /etc/systemd/system/temwatch.service.d/10-site.conf").split()
    assert rules == ["IPAddressDeny=any", "IPAddressAllow=localhost", "IPAddressAllow=192.0.2.17"]
    unit = ["[Service]", "Type=oneshot", *rules, "ExecStart=/usr/bin/python3 /root/connect.py %i"]
    there.run("printf '%s\\n' " + shlex.join(unit) + " > /etc/systemd/system/connect@.service; systemctl daemon-reload")
    there.add_address("192.0.2.17")
    there.add_address("198.51.100.7")
    there.run("systemctl start connect@127.0.0.1")
    there.run("systemctl start connect@192.0.2.17")
    there.run("systemctl start connect@198.51.100.7", fails=True)
    assert "TimeoutError" in there.run("journalctl -u connect@198.51.100.7 --no-pager")
    there.run("python3 /root/connect.py 198.51.100.7")  # without the rules


@pytest.mark.slow(minutes=3)
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("nsenter"), reason="nsenter is not installed")
def test_the_unit_starts_reloads_and_stops_under_systemd(machine: tuple[Machine, Mount]) -> None:
    there, share = machine
    with timed("start", 60):
        there.run("systemctl start temwatch")
    assert there.show() == "success active running"
    assert there.health().startswith("ready")

    with timed("reload", 30):
        there.run("systemctl reload temwatch")
    there.run("cp /etc/temwatch/config.toml /root/good; sed -i s/grid/gird/ /etc/temwatch/config.toml")
    there.run("systemctl reload temwatch", fails=True)
    there.run('sed \'s/owner = "em"/owner = "me"/\' /root/good > /etc/temwatch/config.toml')
    there.run("systemctl reload temwatch", fails=True)
    assert "render.owner: needs a restart" in there.run("journalctl -u temwatch -o cat --no-pager")
    there.run("cp /root/good /etc/temwatch/config.toml")
    assert there.show() == "success active running"

    if there.filters_addresses:
        check_address_rules(there)

    with timed("stop", 60):
        there.run("systemctl stop temwatch")
    assert there.show() == "success inactive dead"
    assert "SIGKILL" not in there.run("journalctl -u temwatch --no-pager")

    share.hang()
    there.run("mount --bind /mnt/share /data/mipmaps/share")
    with timed("start while the share of the mipmaps hangs", 60):
        there.run("systemctl start temwatch")
    assert "/data/mipmaps/share does not answer" in there.health()
    share.answer()
    wait_for(lambda: there.health().startswith("ready"), 60, there.health)
    share.hang()
    wait_for(lambda: "does not answer" in there.health(), 60, there.health)
    with timed("stop while the share of the mipmaps hangs", 85):
        there.run("systemctl stop temwatch")
    assert there.show() == "success inactive dead"
    share.answer()

    there.run("mkdir /data/elsewhere; chown temwatch /data/elsewhere")
    there.run("sed -i 's#/data/mipmaps/share#/data/elsewhere#' /etc/temwatch/config.toml; systemctl start temwatch")
    assert "/data/elsewhere cannot be written: mounted read-only here" in there.health()
    notes = there.run("/opt/temwatch/bin/temwatch check-config")
    assert "note watch[0].mipmaps.output_dir: /data/elsewhere is read-only for temwatch.service" in notes
