"""All work with the mipmaps in a local directory and in each object store gives the same results."""

import html
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from handlers.place import Place
from handlers.stores.choose import store_of
from handlers.uris import uri_to_path
from tests import object_store
from tests.acceptance import stores
from tests.acceptance.conftest import section_plan
from tests.acceptance.facility import APPLY, MIPMAPS, TILESPECS, import_command
from tests.acceptance.rig import Rig, fetch, temwatch
from tests.acceptance.stores import Stored, content_of, digests_in, files_in

LEVELS, TILES, SIDE = 3, 4, 256
FILES = LEVELS * (TILES + 1)
"""Number of level files of the tiles and their mask."""
STACK = "20314_2L_mips"
TIMEOUT_S = 300.0
"""Time-out of each step; long, because the machine may be busy."""
Z = 1050.0

Outcome = dict[str, Any]


@pytest.fixture(scope="module")
def in_a_directory(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    root = tmp_path_factory.mktemp("directory")
    with stores.directory(root) as stored:
        return outcome_of_all_work(root, stored)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [kind for kind in stores.KINDS if kind != "directory"])
def test_the_results_in_an_object_store_are_those_in_a_local_directory(
    kind: str, tmp_path: Path, in_a_directory: Outcome
) -> None:
    with stores.KINDS[kind](tmp_path) as stored:
        found = outcome_of_all_work(tmp_path, stored)
    for what, expected in in_a_directory.items():
        assert found[what] == expected, what


def outcome_of_all_work(root: Path, stored: Stored) -> Outcome:
    """Do all work with mipmaps in a store; return its results without the name of the store."""
    with object_store.environment(stored.environment):
        work = Work(a_rig(root, stored), stored)
        try:
            work.rig.start_standin()
            return dict(work.results())
        finally:
            work.rig.close()


def a_rig(root: Path, stored: Stored) -> Rig:
    mask = root / "mask.tif"
    Image.new("L", (SIDE, SIDE), 255).save(mask)
    return Rig(root, {**stored.settings, "watch.mipmaps.levels": LEVELS, "watch.tilespecs.mask": str(mask)})


@dataclass
class Work:
    """The work on the mipmaps of one section."""

    rig: Rig
    stored: Stored

    def results(self) -> Iterator[tuple[str, Any]]:
        """Yield the results by name."""
        self.run("check-config", "--probe")
        assert files_in(self.stored.output) == {}, "the probe leaves nothing behind"
        self.rig.start(TIMEOUT_S)
        # A directory whose name has characters with a meaning in URLs.
        plan = section_plan(1050, TILES, size=(SIDE, SIDE), seed=1, project="tape 7+8 50%")
        section = write_section(plan, self.rig.acquisition, pixels="noise")
        self.rig.wait_until("complete", section.metafile, timeout_s=TIMEOUT_S)
        yield "levels", self.levels()
        yield from self.shown(section)
        yield from self.commands()
        yield from self.verified_and_replayed(section)
        yield from self.rebuilt(section)
        yield from self.imported(section)

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command and check its exit code; return its output without the names of this store."""
        done = temwatch(*words, "--config", str(self.rig.config()), timeout_s=TIMEOUT_S)
        said = done.stdout + done.stderr
        assert (done.returncode, "Traceback" in said) == (code, False), said
        return self.anonymous(said)

    def anonymous(self, text: str) -> str:
        """Return a text in which placeholders replace the directories and the store."""
        return text.replace(str(self.stored.output), "OUTPUT").replace(str(self.rig.root), "ROOT")

    def levels(self) -> dict[str, str]:
        """Check that render-ws can read all levels under their URLs; return their digests."""
        found = digests_in(self.stored.output)
        assert len(found) == FILES
        specs = self.rig.tiles(STACK, Z)
        for spec in specs.values():
            for level in range(1, LEVELS + 1):
                for url in spec["mipmapLevels"][str(level)].values():
                    self.require_at(url, level)
        assert len(specs) == TILES
        return {self.anonymous(f"/{name}"): digest for name, digest in found.items()}

    def require_at(self, url: str, level: int) -> None:
        """Check that a URL has the bytes and the content type of a level."""
        if not self.stored.url:
            place: Place = uri_to_path(url)
        else:
            with urllib.request.urlopen(url) as answer:
                content = answer.read()
                assert answer.headers["Content-Type"] == "image/tiff"
            name = urllib.request.unquote(url.removeprefix(f"{self.stored.url}/"))
            place = self.stored.output / name
            assert content == content_of(place)
        with store_of(place).open(place) as file, Image.open(file) as image:
            assert image.size == (SIDE >> level, SIDE >> level)

    # --- answers and pages of the daemon

    def shown(self, section: Written) -> Iterator[tuple[str, Any]]:
        row = self.rig.montage_of(section.metafile)
        assert row is not None
        base, number = f"{self.rig.url}/api/montages/{row['id']}", row["id"]
        quality = self.rig.montage(number)["quality"]
        yield "verdict", (quality["verdict"], quality["computed"], quality["findings"])
        tiles = fetch(f"{base}/tiles")
        assert None not in tiles["level_digests"]
        yield "numbers", tiles
        yield "mosaic", picture_at(f"{base}/mosaic.png")
        yield "heatmap", picture_at(f"{base}/heatmap/focus.png")
        for tile in tiles["tiles"]:
            yield f"picture of {tile}", picture_at(f"{self.rig.url}/api/tiles/{number}/{tile}.png?size=256")
        page = text_at(f"{self.rig.url}/montages/{number}/tiles/{quote(tile)}")
        assert all(
            str(place) in page
            for name, place in files_in(self.stored.output).items()
            if tile.removesuffix(".0") in name
        )
        assert "missing" not in page
        assert "mosaic.png" in text_at(f"{self.rig.url}/montages/{number}")

    def commands(self) -> Iterator[tuple[str, Any]]:
        yield "quality", self.run("quality", "--csv")
        yield "manifest", self.run("manifest")
        picture = self.rig.root / "section.png"
        self.run("picture", STACK, str(Z), "-o", str(picture), "--max-px", "256")
        yield "picture", picture.read_bytes()

    # --- damage and repair

    def verified_and_replayed(self, section: Written) -> Iterator[tuple[str, Any]]:
        before, made = self.levels(), self.files_made()
        assert made == FILES
        self.run("verify")
        self.run("verify", "--deep")
        self.run("replay", str(section.metafile), "--state", "all", "--from", "ingest")
        assert (self.levels(), self.files_made()) == (before, 2 * made)
        self.run("verify", "--deep")

        files = files_in(self.stored.output)
        tampered, missing = (
            next(name for name in files if name[0] == str(level) and image.name in name)
            for level, image in enumerate(section.images[:2], 1)
        )
        stores.overwrite(files[tampered], content_of(files[tampered])[:-9] + b"123456789")
        store_of(files[missing]).delete(files[missing])
        for way in ((), ("--deep",)):
            said = json.loads(self.run("verify", "--json", *way, code=1))
            yield f"differences {way}", said
            assert {each["where"] for each in said["differences"]} == {
                self.anonymous(str(files[name])) for name in (tampered, missing)
            }

        self.rig.settings["watch.mipmaps.force"] = False
        self.run("reload")
        self.run("replay", str(section.metafile), "--state", "all", "--from", "mipmaps")
        assert (self.levels(), self.files_made()) == (before, 2 * made + 2)
        self.run("verify", "--deep")
        self.run("replay", str(section.metafile), "--state", "all")
        assert (self.levels(), self.files_made()) == (before, 2 * made + 2), "all levels are kept"

    def rebuilt(self, section: Written) -> Iterator[tuple[str, Any]]:
        before, numbers = self.levels(), self.numbers(section)
        assert self.rig.daemon is not None
        assert self.rig.daemon.stop() == 0
        for path in self.rig.root.glob(f"{self.rig.name}.sqlite*"):
            path.unlink()
        yield "rebuilt", self.run("journal", "rebuild")
        self.rig.start(TIMEOUT_S)
        self.rig.wait_until("complete", section.metafile, timeout_s=TIMEOUT_S)
        assert (self.levels(), self.files_made()) == (before, 0), "no level is made again"
        self.run("verify")
        yield "not known after the rebuild", self.run("verify", "--deep", code=1)
        self.run("replay", str(section.metafile), "--state", "all", "--from", "mipmaps")
        assert (self.levels(), self.files_made()) == (before, 0), "all levels are kept"
        self.run("verify", "--deep")
        assert self.numbers(section) == numbers
        assert self.rig.daemon.stop() == 0
        self.rig.settings["watch.mipmaps.force"] = True
        self.run("replay", str(section.metafile), "--state", "all", "--from", "mipmaps")  # by the command itself
        assert self.levels() == before

    def numbers(self, section: Written) -> Any:
        row = self.rig.montage_of(section.metafile)
        assert row is not None
        return fetch(f"{self.rig.url}/api/montages/{row['id']}/tiles")

    def files_made(self) -> int:
        """Return the number of mipmap files that the daemon has written since its start."""
        lines = text_at(f"{self.rig.url}/metrics").splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith("temwatch_mipmap_files_total "))
        return int(float(value))

    # --- the import commands

    def imported(self, section: Written) -> Iterator[tuple[str, Any]]:
        mine, by_commands = digests_in(self.stored.output), self.stored.beside("by commands+1")
        mask = str(self.rig.settings["watch.tilespecs.mask"])
        output, url = str(by_commands.output), by_commands.url.replace(" ", "%20").replace("+", "%2B")

        def command(name: str, *words: str) -> Outcome:
            result: Outcome = json.loads(import_command(self.rig, name, *words))
            return result

        command(TILESPECS, "--metafile", str(section.metafile), "--stack", "raw", "--maskUrl", mask)
        levels = ("--input_stack", "raw", "--levels", str(LEVELS))
        made = command(MIPMAPS, *levels, "--output_prefix", output, "--pool_size", "1")
        assert digests_in(by_commands.output) == mine
        again = command(MIPMAPS, *levels, "--output_prefix", output, "--pool_size", "1", "--force_redo", "false")
        assert digests_in(by_commands.output) == mine
        named = ("--mipmap_url", url) if url else ()
        applied = command(APPLY, *levels, "--output_stack", "mips", "--mipmap_prefix", output, *named)
        yield "counts of the commands", [each["tile_count"] for each in (made, again, applied)]
        for spec in self.rig.tiles("mips", Z).values():
            for level in range(1, LEVELS + 1):
                shown = spec["mipmapLevels"][str(level)]["imageUrl"]
                assert shown.startswith(url)
                read = uri_to_path(shown).read_bytes() if not url else bytes_at(shown)
                assert read


def bytes_at(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def text_at(url: str) -> str:
    return html.unescape(bytes_at(url).decode())


def picture_at(url: str) -> bytes:
    content = bytes_at(url)
    assert content.startswith(b"\x89PNG")
    return content
