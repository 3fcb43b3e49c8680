"""The digest of a file that is read piece by piece."""

from pathlib import Path

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from handlers.contentdigest import DIGEST_BYTES, DigestAlong, content_of, snapshot
from handlers.identity import FileIdentity

CONTENT = bytes(range(256)) * 40


@given(st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 500)), max_size=8), st.booleans())
def test_pieces_of_any_order_and_any_gaps_make_the_digest_of_the_file(
    tmp_path_factory, pieces: list[tuple[int, int]], rising: bool
) -> None:
    path: Path = tmp_path_factory.mktemp("digest") / "a"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        digest = DigestAlong(file.fileno())
        for offset, length in sorted(pieces) if rising else pieces:
            digest.take(offset, memoryview(CONTENT[offset : offset + length]))
        assert digest.digest() == xxhash.xxh3_128(CONTENT).digest()


def test_the_pieces_are_what_is_hashed_and_not_what_the_file_holds_later(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    with path.open("r+b") as file:
        digest = DigestAlong(file.fileno())
        digest.take(0, memoryview(CONTENT))
        file.write(b"something else")
        file.flush()
        assert digest.digest() == xxhash.xxh3_128(CONTENT).digest()


def test_a_snapshot_keeps_what_it_hashed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    with path.open("rb") as file, snapshot(file) as (copy, digest):
        path.write_bytes(b"something else")
        assert copy.read() == CONTENT
        assert digest == xxhash.xxh3_128(CONTENT).digest()
        assert len(digest) == DIGEST_BYTES


def test_the_content_of_a_file_is_its_identity_and_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        assert content_of(file.fileno()) == (FileIdentity.of(path.stat()), xxhash.xxh3_128(CONTENT).digest())
