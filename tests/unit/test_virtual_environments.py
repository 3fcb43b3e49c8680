"""`.ci/venv`, which makes all virtual environments, with an interpreter that cannot make one."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci/venv"

DEBIAN_PYTHON = """#!/bin/sh
case "$2" in
*"print("*) echo 3.13 ;;
*ensurepip*) test -e "$0-venv" ;;
esac
"""
APT = '#!/bin/sh\necho "apt-get $*" >> "$0.log"\ncase "$*" in *python3.13-venv*) touch "${0%/*}/python-venv" ;; esac\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Directory of stand-ins for a Python 3.13 of Debian, apt-get and id, which is first on the PATH."""
    for name, text in {"python": DEBIAN_PYTHON, "apt-get": APT, "id": "#!/bin/sh\necho 0\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(programs: Path, python: Path) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    command = [SCRIPT, python, programs / "venv", "requirements.lock"]
    return subprocess.run(command, env=os.environ | path, capture_output=True, text=True)


def test_root_installs_the_package_for_the_version_of_the_interpreter(programs: Path) -> None:
    make(programs, programs / "python")
    update, install = (programs / "apt-get.log").read_text().splitlines()[:2]
    assert update.startswith("apt-get update")
    assert install.startswith("apt-get install")
    assert install.endswith("python3.13-venv")


def test_one_line_states_what_root_must_install_for_another_user(programs: Path) -> None:
    (programs / "id").write_text("#!/bin/sh\necho 1000\n")
    done = make(programs, programs / "python")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "as root, apt-get install python3.13-venv" in done.stderr
    assert not (programs / "apt-get.log").exists()


def test_a_complete_python_needs_no_package(programs: Path) -> None:
    (programs / "python-venv").touch()
    make(programs, programs / "python")
    assert not (programs / "apt-get.log").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('case "$2" in *"print("*) echo 3.10 ;; *version_info*) exit 1 ;; esac', "temwatch needs Python 3.11 or newer"),
        ("exit 127", "does not run"),
    ],
    ids=["too old", "a pyenv shim without its version"],
)
def test_an_unusable_interpreter_is_named_in_one_line(programs: Path, text: str, problem: str) -> None:
    (programs / "python").write_text(f"#!/bin/sh\n{text}\n")
    done = make(programs, programs / "python")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert problem in done.stderr
    assert str(programs / "python") in done.stderr
