"""Fixtures of the acceptance tests: a rig with its processes, and sections for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.section import SectionPlan, plan_section
from daemon.simulator.temca import write_section
from tests.acceptance.facility import Facility
from tests.acceptance.rig import PROJECT, THROUGH_NGINX, Rig, Standins, delete_stacks, is_real

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standins]:
    """Stand-ins that are passed from test to test."""
    standins = Standins(tmp_path_factory.mktemp("standins"))
    try:
        yield standins
    finally:
        standins.close()


@pytest.fixture
def rig(tmp_path: Path, standins: Standins) -> Iterator[Rig]:
    """A rig without processes. Everything that the test starts is ended."""
    rig = Rig(tmp_path, standins=standins, is_behind_nginx=THROUGH_NGINX)
    try:
        yield rig
    finally:
        rig.close()


@pytest.fixture
def running_rig(rig: Rig) -> Rig:
    """A rig with a running stand-in and a running daemon."""
    rig.start_standin()
    rig.start()
    return rig


def section_plan(grid: int = 1050, tiles: int = 4, **options: Any) -> SectionPlan:
    """Return the plan of a small section."""
    return plan_section(tiles=tiles, size=options.pop("size", (128, 128)), grid=grid, **options)


@pytest.fixture
def write(rig: Rig) -> Callable[..., Written]:
    """A function that writes a small section into the rig's acquisition tree."""

    def write_one(grid: int = 1050, tiles: int = 4, **options: Any) -> Written:
        writing = {key: options.pop(key) for key in ("metafile_first", "delivery", "appended") if key in options}
        plan = section_plan(grid, tiles, **options)
        return write_section(plan, rig.acquisition, pixels="noise", **writing)

    return write_one


@pytest.fixture
def shared_data() -> Path:
    """Directory of real metafiles, which are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real metafiles are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="module")
def standin_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rig = Rig(tmp_path_factory.mktemp("standin"))
    rig.start_standin()
    yield rig.render_url
    rig.close()


@pytest.fixture
def facility(
    tmp_path: Path, standin_url: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Iterator[Facility]:
    """A facility with its own project."""
    project = PROJECT if is_real(standin_url) else f"p{abs(hash(request.node.name)) % 10**9}"
    made = Facility(tmp_path, standin_url, project, capsys)
    yield made
    if is_real(standin_url):
        delete_stacks()
    else:
        made.behave()
