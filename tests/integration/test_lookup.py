"""The metafiles that a selection matches, on real directories and a real journal."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Step
from daemon.pipeline.replay.lookup import Lookup, NotSelectable
from daemon.pipeline.replay.replayer import plan_within
from daemon.pipeline.replay.selection import Action, Candidate, Selection, plan
from handlers.errors import MetafileFault, StorageFault
from handlers.identity import FileIdentity


class WatchedTree:
    """Two watched directories, a and b, with a journal."""

    def __init__(self, root: Path, journal: Journal) -> None:
        self.root = root
        self.journal = journal
        mipmaps = {"output_dir": str(root / "mips")}
        watches = [
            {"name": name, "directory": str(root / name), "z": {"rule": "grid"}, "mipmaps": mipmaps} for name in "ab"
        ]
        self.settings = Settings(
            render={"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}, watch=watches
        )

    def put(self, name: str, text: str = "{}") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    async def failed(self, path: Path, watch: str = "a") -> int:
        found = path.stat()
        sighting = Sighting(watch, path, FileIdentity.of(found), FoundBy.SCAN)
        montage_id = await self.journal.notice(sighting)
        await self.journal.fail(montage_id, MetafileFault(str(path), "has no data"))
        return montage_id

    async def find(self, *paths: object, **given: object) -> list[Candidate]:
        selection = Selection(paths=tuple(map(str, paths)), **given)
        return await Lookup(lambda: self.settings, self.journal).candidates(selection)

    async def names(self, *paths: object, **given: object) -> list[str]:
        return [str(each.metafile.relative_to(self.root)) for each in await self.find(*paths, **given)]


@pytest.fixture
async def tree(tmp_path: Path) -> AsyncIterator[WatchedTree]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with Journal(tmp_path / "journal.sqlite") as journal:
        yield WatchedTree(tmp_path, journal)


async def test_directories_globs_and_metafiles_are_found_in_order_of_acquisition(tree):
    for name in ("a/x/_metadata_3.json", "a/y/_metadata_1.json", "b/_metadata_2.json", "a/y/other.json"):
        tree.put(name)
    assert await tree.names(tree.root / "a") == ["a/y/_metadata_1.json", "a/x/_metadata_3.json"]
    assert await tree.names(tree.root) == ["a/y/_metadata_1.json", "b/_metadata_2.json", "a/x/_metadata_3.json"]
    assert await tree.names(f"{tree.root}/*/_metadata_*") == ["b/_metadata_2.json"]
    assert await tree.names(f"{tree.root}/a/[xz]") == ["a/x/_metadata_3.json"]
    twice = tree.root / "b" / "_metadata_2.json"
    assert await tree.names(twice, twice, tree.root / "b") == ["b/_metadata_2.json"]


async def test_an_existing_name_with_brackets_is_not_a_glob(tree):
    path = tree.put("a/[1]/_metadata_1.json")
    tree.put("a/1/_metadata_2.json")
    assert await tree.names(path.parent) == ["a/[1]/_metadata_1.json"]


async def test_links_into_a_watch_are_followed_and_links_out_of_it_are_refused(tree):
    tree.put("a/_metadata_1.json")
    tree.put("elsewhere/_metadata_2.json")
    (tree.root / "link").symlink_to(tree.root / "a")
    (tree.root / "a" / "out").symlink_to(tree.root / "elsewhere")
    assert await tree.names(tree.root / "link") == ["a/_metadata_1.json"]
    assert await tree.names(tree.root / "link" / "_metadata_*") == ["a/_metadata_1.json"]
    with pytest.raises(NotSelectable, match=r"watched: a \(.*/a\), b \(.*/b\)"):
        await tree.find(tree.root / "a" / "out")


async def test_a_montage_is_found_although_its_file_is_missing(tree):
    path = tree.put("a/x/_metadata_1.json")
    await tree.failed(path)
    path.unlink()
    (found,) = await tree.find(path)
    assert plan(found, Step.INGEST).action is Action.REFUSE
    assert await tree.names(tree.root / "a" / "x") == ["a/x/_metadata_1.json"]
    with pytest.raises(NotSelectable, match="does not exist, and the journal knows no metafile there"):
        await tree.find(tree.root / "a" / "_metadata_2.json")


async def test_a_special_file_with_the_name_of_a_metafile_is_not_opened(tree):
    path = tree.root / "a" / "_metadata_1.json"
    os.mkfifo(path)
    (found,) = await tree.find(path)
    refused = plan(found, Step.INGEST)
    assert refused.action is Action.REFUSE
    assert "is not a regular file" in refused.note


async def test_a_changed_file_is_identified_by_its_content(tree):
    path = tree.put("a/_metadata_1.json", "{} ")
    montage_id = await tree.failed(path)
    await tree.journal.write(
        lambda connection: connection.execute("UPDATE montages SET digest = 'of the former content'")
    )
    times = path.stat()
    path.write_text("[] ")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (found,) = await tree.find(path)
    assert found.known[0].id == montage_id
    assert plan(found, Step.INGEST).action is Action.NOTICE


async def test_a_directory_that_cannot_be_listed_is_a_fault(tree, monkeypatch):
    path = tree.put("a/x/_metadata_1.json")
    scandir = os.scandir

    def denied(directory):
        if str(directory) == str(path.parent):
            raise PermissionError(13, "Permission denied")
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StorageFault, match="cannot be accessed: Permission denied"):
        await tree.find(tree.root / "a")


async def test_a_montage_of_a_watch_that_is_no_longer_configured_is_refused(tree):
    path = tree.put("a/_metadata_1.json")
    await tree.failed(path, watch="former")
    for found in (await tree.find(path), await tree.find()):
        refused = plan_within(found[0], Step.INGEST, tree.settings)
        assert (refused.action, refused.note) == (Action.REFUSE, "its watch former is not in the configuration")


async def test_without_paths_only_the_journal_is_searched(tree):
    tree.put("a/_metadata_2.json")
    await tree.failed(tree.put("a/_metadata_1.json"))
    assert await tree.names() == ["a/_metadata_1.json"]
    assert await tree.names(state="all") == ["a/_metadata_1.json"]
    assert await tree.names(state="complete") == []
    assert await tree.names(since="2000-01-01") == ["a/_metadata_1.json"]
