"""Makes the virtual environment that every make target uses: the locked dependencies, then temwatch itself.

Needs nothing but a Python 3.11 interpreter. Debian ships one without ensurepip; there pip itself is fetched from PyPI
and checked against the digest below.
"""

import hashlib
import subprocess
import sys
import tempfile
import urllib.request
import venv
from importlib.util import find_spec
from pathlib import Path

PIP_WHEEL = "https://files.pythonhosted.org/packages/44/3c/d717024885424591d5376220b5e836c2d5293ce2011523c9de23ff7bf068/pip-25.3-py3-none-any.whl"
PIP_SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"
ROOT = Path(__file__).resolve().parent.parent


def main(target: Path) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  somebody may start it with another one
        raise SystemExit(f"temwatch needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")
    python = target / "bin" / "python"
    if find_spec("ensurepip"):
        venv.create(target, with_pip=True, clear=True, symlinks=True)
        pip = [str(python), "-m", "pip"]
    else:
        venv.create(target, with_pip=False, clear=True, symlinks=True)
        pip = [str(python), str(fetch_pip()) + "/pip"]
    install = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")], check=True)
    subprocess.run([*install, "hatchling==1.27.0", "editables==0.5"], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)


def fetch_pip() -> Path:
    """Path of a pip wheel downloaded from PyPI; a wheel can be run in place."""
    with urllib.request.urlopen(PIP_WHEEL, timeout=60) as response:
        wheel = response.read()
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        raise SystemExit(f"{PIP_WHEEL} does not have the expected digest; nothing was installed")
    path = Path(tempfile.mkdtemp(prefix="temwatch-pip-")) / PIP_WHEEL.rsplit("/", 1)[1]
    path.write_bytes(wheel)
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]))
