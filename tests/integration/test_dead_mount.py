"""A file server that does not answer: every access times out with a fault."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.config.mipmap_settings import MipmapSettings
from daemon.config.render_settings import RenderSettings
from daemon.config.watch_settings import WatchSettings, ZSettings
from daemon.pipeline.settling import settle
from daemon.pipeline.settling.settle import Settler
from daemon.pipeline.steps.perform import Steps
from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from daemon.system import threads
from handlers.acquisition import arrival
from handlers.errors import StorageFault, Waiting
from handlers.identity import FileIdentity

RENDER = RenderSettings(url="http://render:8080/render-ws/v1", owner="em", project="v1")


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], None]]:
    """Return a function that makes a blocking function hang until the test ends."""
    release = threading.Event()

    def hang_until_the_end(owner: Any, name: str) -> None:
        monkeypatch.setattr(owner, name, lambda *_, **__: release.wait(60))

    monkeypatch.setattr(threads, "ANSWER_S", 0.2)
    yield hang_until_the_end
    release.set()


class Settling:
    """A section, and the accesses to its files while it settles and in its steps."""

    def __init__(self, place: Path) -> None:
        section = write_section(plan_section(tiles=2, size=(64, 48)), place, pixels="flat")
        self.images = sorted(section.directory.glob("*.tif"))
        self.now = 0.0
        self.settler = Settler(lambda: self.now, lambda: self.now)
        self.watch = WatchSettings(
            name="w",
            directory=place,
            settle_s=0,
            z=ZSettings(rule="grid"),
            mipmaps=MipmapSettings(output_dir=place.parent / "mipmaps"),
        )
        identity = FileIdentity.of(section.metafile.stat())
        self.montage: Any = SimpleNamespace(id=1, metafile=section.metafile, identity=identity, changed_at=0.0)

    async def check(self) -> Any:
        return await self.settler.check(self.montage, self.watch)

    async def read(self) -> Any:
        await self.check()
        return await self.settler.read(self.montage)

    async def examine(self) -> Any:
        await self.check()
        content = self.montage.metafile.read_bytes()
        return await self.settler.examine(self.montage, self.watch, content, "aa", RENDER)

    async def await_an_image(self) -> Any:
        self.images[0].unlink()
        await self.examine()
        self.now += 1.0
        return await self.check()

    async def section(self) -> Any:
        nothing: Any = SimpleNamespace()
        steps = Steps(
            settings=nothing, journal=nothing, client=nothing, keeper=nothing, disks=nothing, pool=nothing,
            metrics=nothing, in_flight=1,
        )  # fmt: skip
        return await steps.section(self.montage, self.watch)


HANGING = [
    ("check", settle, "checked_identity"),
    ("read", arrival, "read_regular"),
    ("read", settle, "present_identity"),
    ("examine", settle, "check_images"),
    ("await_an_image", settle.Evidence, "of"),
    ("section", arrival, "read_regular"),
]


@pytest.mark.parametrize(("access", "owner", "name"), HANGING, ids=lambda each: str(each).rpartition(".")[2])
async def test_a_file_access_without_an_answer_is_a_fault_for_which_waiting_helps(tmp_path, hang, access, owner, name):
    settling = Settling(tmp_path / "acquisition")
    hang(owner, name)
    with pytest.raises(StorageFault, match="has not answered") as caught:
        await getattr(settling, access)()
    assert caught.value.waiting_helps is Waiting.ALWAYS
    assert str(tmp_path) in caught.value.subject
    assert "mount" in caught.value.hint


async def test_a_time_out_that_the_file_server_reports_is_raised_unchanged(tmp_path, monkeypatch):
    settling = Settling(tmp_path / "acquisition")

    def time_out(*_: Any) -> Any:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(settle, "checked_identity", time_out)
    with pytest.raises(TimeoutError):
        await settling.check()
