"""Each lock is complete: an installation from a lock never looks for the newest version of a package."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group and of the groups that it includes."""
    entries = PROJECT["dependency-groups"][name]
    return [
        requirement
        for entry in entries
        for requirement in ([entry] if isinstance(entry, str) else group(entry["include-group"]))
    ]


EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKED_EXTRAS = set(re.findall(r"--extra ([a-z-]+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
RUNTIME = [*PROJECT["project"]["dependencies"], *(each for extra in sorted(LOCKED_EXTRAS) for each in EXTRAS[extra])]
BUILD = PROJECT["build-system"]["requires"]
ROOTS = {
    "requirements.lock": RUNTIME,
    "requirements-build.lock": [*BUILD, *group("build")],
    "requirements-dev.lock": [*RUNTIME, *BUILD, *group("dev")],
}
"""Lock -> its requirements, of those locks whose pins are installed in the environment of the tests."""
BENCHMARKS = {
    "benchmarks/requirements-build.lock": group("bench-build"),
    "benchmarks/requirements.lock": group("bench"),
}
MUTANTS = "requirements-mutants.lock"
Installed = Mapping[str, Distribution]


def pins_of(lock: Path) -> list[Requirement]:
    """Return the pins of a lock; each has at least one digest."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8"))
    pinned = [entry for entry in entries if re.match(r"[A-Za-z0-9]", entry)]
    assert [entry.splitlines()[0] for entry in pinned if "--hash=sha256:" not in entry] == []
    return [Requirement(entry.split("\\")[0]) for entry in pinned]


def environments() -> Iterator[dict[str, str]]:
    """Marker environments: the first and a late patch release of each supported Python, on Linux x86_64."""
    for python in PYTHONS:
        for full in (f"{python}.0", f"{python}.99"):
            yield default_environment() | {
                "implementation_version": full,
                "os_name": "posix",
                "platform_machine": "x86_64",
                "platform_system": "Linux",
                "python_full_version": full,
                "python_version": python,
                "sys_platform": "linux",
            }  # type: ignore[misc]  # a TypedDict, whose keys these are


def installed_in(*directories: str) -> Installed:
    """Return the installed distributions by canonical name; without a directory, those of the tests' environment."""
    found = distributions(path=list(directories)) if directories else distributions()
    return {canonicalize_name(each.metadata["Name"]): each for each in found}


def requirements_of(pin: Requirement, environment: dict[str, str], installed: Installed) -> list[Requirement]:
    """Return what a pin with its extras requires in an environment; nothing if its marker excludes this Python."""
    found = installed.get(canonicalize_name(pin.name))
    if found is None:
        assert pin.marker is not None, f"{pin} is not installed"
        assert not pin.marker.evaluate(), f"{pin} is not installed"
        return []
    assert pin.specifier.contains(found.version, prereleases=True), f"{found.version} is installed, not {pin}"
    return [
        required
        for required in map(Requirement, found.requires or [])
        if any(applies(required, environment | {"extra": extra}) for extra in ("", *pin.extras))
    ]


def applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def problem_with(required: Requirement, pinned: dict[str, Requirement]) -> str | None:
    """Return why the pins do not satisfy a requirement, or None."""
    pin = pinned.get(canonicalize_name(required.name))
    if pin is None:
        return "is not pinned"
    version = next(iter(pin.specifier)).version
    if not required.specifier.contains(version, prereleases=True):
        return f"is pinned to {version}"
    if not required.extras <= pin.extras:
        return "is pinned without the extra"
    return None


def unsatisfied(lock: str, roots: list[str], installed: Installed) -> list[str]:
    """Return one sentence for each requirement, of the project or of a pin, that the pins do not satisfy."""
    pins = pins_of(ROOT / lock)
    found = set()
    for environment in environments():
        here = [pin for pin in pins if applies(pin, environment)]
        pinned = {canonicalize_name(pin.name): pin for pin in here}
        assert len(pinned) == len(here), "a package is pinned twice"
        required = [("pyproject.toml", Requirement(root)) for root in roots]
        required += [(pin.name, each) for pin in here for each in requirements_of(pin, environment, installed)]
        for by, each in required:
            problem = problem_with(each, pinned)
            if problem:
                found.add(f"Python {environment['python_version']}: {by} requires {each}, which {problem}")
    return sorted(found)


def test_the_classifiers_name_every_supported_python() -> None:
    assert PYTHONS[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert [f"3.{minor}" for minor in range(11, 11 + len(PYTHONS))] == PYTHONS
    assert f"3.{sys.version_info.minor}" in PYTHONS


@pytest.mark.parametrize("lock", ROOTS)
def test_every_requirement_of_every_pin_is_pinned(lock: str) -> None:
    assert unsatisfied(lock, ROOTS[lock], installed_in()) == []


@pytest.mark.slow(minutes=3)
@pytest.mark.timeout(600)
def test_the_locks_of_the_benchmarks_can_be_installed_and_are_complete(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    build, measure = BENCHMARKS
    subprocess.run([".ci/venv", sys.executable, venv, build], cwd=ROOT, check=True)
    pip = [venv / "bin/pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--no-compile", "--no-deps", "--no-build-isolation", "--require-hashes"]
    subprocess.run([*install, "-r", measure], cwd=ROOT, check=True)
    subprocess.run([*pip, "check"], check=True)
    installed = installed_in(*map(str, venv.glob("lib/python3.*/site-packages")))
    assert {lock: unsatisfied(lock, roots, installed) for lock, roots in BENCHMARKS.items()} == {build: [], measure: []}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_lock_of_the_mutation_tool_can_be_installed_and_is_complete(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([".ci/venv", sys.executable, venv, MUTANTS], cwd=ROOT, check=True)
    installed = installed_in(*map(str, venv.glob("lib/python3.*/site-packages")))
    assert unsatisfied(MUTANTS, group("mutants"), installed) == []


def test_every_lock_is_tested() -> None:
    found = [*ROOT.glob("*.lock"), *(ROOT / "benchmarks").glob("*.lock")]
    assert {str(lock.relative_to(ROOT)) for lock in found} == {*ROOTS, *BENCHMARKS, MUTANTS}


def test_the_locks_contain_every_extra() -> None:
    assert set(EXTRAS) == LOCKED_EXTRAS


def installations() -> Iterator[str]:
    """Yield each command with which a lock or the wheel is installed."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variable = re.search(r"^PIP_INSTALL := (.*)$", makefile, re.MULTILINE)
    assert variable is not None
    yield from re.findall(r"^\t(.*pip install .*)$", makefile.replace("$(PIP_INSTALL)", variable[1]), re.MULTILINE)
    for name in (".ci/venv", ".ci/run", "docs/operations.md"):
        yield from re.findall(r"^.*\bpip\b\"? install .*(?:-r |whl).*$", (ROOT / name).read_text("utf-8"), re.MULTILINE)


def test_every_installation_takes_only_the_pinned_versions() -> None:
    found = list(installations())
    assert len(found) >= 10, "the search for commands does not find them"
    assert [line for line in found if "--no-deps" not in line] == []
    assert [line for line in found if " -r " in line and "--require-hashes" not in line] == []
    lock = re.search(r"^COMPILE := (.*\n.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lock is not None
    assert {"--no-strip-extras", "--generate-hashes"} <= set(lock[1].split())


def test_a_new_wheel_replaces_the_former_one() -> None:
    printed = subprocess.run(["make", "-n", "wheel"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    commands = printed.splitlines()
    builds = [index for index, command in enumerate(commands) if "hatchling build" in command]
    assert len(builds) == 1
    assert "rm -f dist/temwatch-*.whl" in commands[: builds[0]]


def test_a_requirement_that_the_pins_do_not_satisfy_is_reported() -> None:
    pinned = {"coverage": Requirement("coverage==7.17.3"), "zipp": Requirement("zipp==4.1.2")}
    assert problem_with(Requirement("coverage>=7"), pinned) is None
    assert problem_with(Requirement("coverage[toml]>=7"), pinned) == "is pinned without the extra"
    assert problem_with(Requirement("Zipp>=5"), pinned) == "is pinned to 4.1.2"
    assert problem_with(Requirement("tomli"), pinned) == "is not pinned"


def test_all_locks_pin_the_same_versions() -> None:
    locks = [*map(ROOT.joinpath, (*ROOTS, MUTANTS)), *(ROOT / "benchmarks").glob("*.lock")]
    versions: dict[str, set[str]] = {}
    for pin in (pin for lock in locks for pin in pins_of(lock)):
        versions.setdefault(pin.name, set()).add(str(pin.specifier))
    assert {name: pinned for name, pinned in versions.items() if len(pinned) > 1} == {}


def test_the_lock_of_servers_has_no_test_tool_and_only_built_packages() -> None:
    lock = ROOT / "requirements.lock"
    pinned = {pin.name for pin in pins_of(lock)}
    assert pinned & {Requirement(each).name for each in group("dev")} == {"packaging"}
    assert "--only-binary :all:\n" in lock.read_text(encoding="utf-8")


def test_no_file_names_the_host_of_a_package_registry() -> None:
    # Spelled backwards, since this file is searched, too.
    backwards = "ipyp", "detsohnohtyp", "adnocana", "naibed", "utnubu", "sjmpn"
    names = "|".join(name[::-1] for name in backwards)
    hosts = re.compile(rf"\b({names})\.(org|com)\b", re.IGNORECASE)
    directories = (".ci", "benchmarks", "daemon", "docs", "handlers", "systemd", "tests")
    files = [*ROOT.glob("*"), *(path for name in directories for path in (ROOT / name).rglob("*"))]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()}
    assert len(texts) > 100
    named = [str(path) for path, text in texts.items() if hosts.search(text)]
    assert named == []
