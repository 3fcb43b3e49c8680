"""Conformance suite of the stores of levels. The tests of each store derive a class from it."""

import numpy as np
import pytest
import xxhash
from PIL import Image

from handlers.images.encode import Encoding
from handlers.images.header import inspect_image
from handlers.place import Place
from handlers.stores.level_store import LevelStore

NAMES = ("a.tif", "tape 7/a+b%20#é.tif", "deep/er/a.tif.tif")


class StoreSuite:
    """A derived class has the fixtures `store` and `root`; `root` is an empty directory of the store."""

    has_checksums = False
    """Whether the store returns a checksum of its own, so that the digest of a file is known without reading it."""

    @staticmethod
    def pixels(seed: int = 1, side: int = 40) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 255, (side, side + 3), np.uint8)

    def put(self, store: LevelStore, place: Place, encoding: Encoding | None = None, **options) -> bool:
        encoding = encoding or Encoding("tif")
        replaced = store.put(1, place, encoding.page(self.pixels(**options), "text"), encoding)
        store.sync([place])
        return replaced

    def read(self, store: LevelStore, place: Place) -> np.ndarray:
        with store.open(place) as file, Image.open(file) as image:
            return np.asarray(image)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_is_read_by_its_own_name_only(self, store, root, name):
        place = root / name
        assert store.stat(place) is None
        assert not self.put(store, place)
        assert (self.read(store, place) == self.pixels()).all()
        assert store.stat(place).size == 320 + self.pixels().size
        assert store.stat(root / name.replace("a", "b", 1)) is None
        assert inspect_image(place).width == 43

    @pytest.mark.parametrize("encoding", [Encoding("tif", compression="lzw"), Encoding("png"), Encoding("jpg")])
    def test_every_format_is_written_and_reported_with_all_its_bytes(self, store, root, encoding):
        page = encoding.page(self.pixels(), "text")
        reported = bytearray()
        store.put(1, root / f"a.{encoding.extension}", page, encoding, reported.extend)
        assert bytes(reported) == bytes(page.content)
        with store.open(root / f"a.{encoding.extension}") as file:
            assert file.read() == bytes(page.content)
            assert file.seek(-9, 2) == len(page.content) - 9
            assert file.read(4) + file.read() == bytes(page.content[-9:])

    def test_several_levels_are_begun_before_the_first_is_finished(self, store, root):
        encoding = Encoding("tif")
        places = [root / f"{level}/a.tif" for level in (1, 2)]
        self.put(store, places[1], seed=7)
        begun = [
            store.begin(level, place, encoding.page(self.pixels(level), "text"), encoding)
            for level, place in enumerate(places, 1)
        ]
        assert [each.finish() for each in begun] == [False, True]
        store.sync(places)
        assert all((self.read(store, place) == self.pixels(level)).all() for level, place in enumerate(places, 1))

    def test_a_second_put_replaces_the_first_and_returns_true(self, store, root):
        place = root / "1/a.tif"
        self.put(store, place)
        before = store.stat(place)
        assert self.put(store, place, seed=2)
        assert store.stat(place).version != before.version
        assert (self.read(store, place) == self.pixels(2)).all()

    def test_a_directory_lists_only_its_own_files(self, store, root):
        for name in ("1/d/a.tif", "1/d/b.tif", "1/d/e/c.tif", "1/dd/f.tif"):
            self.put(store, root / name)
        assert {name: stat.size > 320 for name, stat in store.list(root / "1/d")} == {"a.tif": True, "b.tif": True}
        assert list(store.list(root / "nowhere")) == []

    def test_a_file_is_deleted_and_deleting_it_again_is_no_fault(self, store, root):
        self.put(store, root / "a.tif")
        store.delete(root / "a.tif")
        store.delete(root / "a.tif")
        assert store.stat(root / "a.tif") is None
        with pytest.raises(FileNotFoundError), store.open(root / "a.tif"):
            pass

    def test_a_large_file_is_read_back_unchanged(self, store, root):
        self.put(store, root / "a.tif", side=2300)  # an object of this size is read in more than one range
        assert (self.read(store, root / "a.tif") == self.pixels(side=2300)).all()

    def test_a_digest_is_known_only_if_the_store_has_a_checksum(self, store, root):
        encoding = Encoding("tif")
        page = encoding.page(self.pixels(), "text")
        store.put(1, root / "a.tif", page, encoding)
        digest = store.known_digest(root / "a.tif")
        assert digest == (xxhash.xxh3_128_digest(bytes(page.content)) if self.has_checksums else None)
        assert store.known_digest(root / "b.tif") is None

    def test_urls_are_percent_encoded(self, store, root):
        assert store.url(root / "a 100%.tif").endswith("/a%20100%25.tif")

    def test_free_space_is_positive_or_unknown(self, store, root):
        free = store.free_bytes(root)
        assert free is None or free > 0
