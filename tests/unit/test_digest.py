"""Digests of files that are read piece by piece, and identities of files that were just written."""

import os
import time
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from handlers.file_status import FileStatus, status_of
from handlers.identity import FileIdentity
from handlers.images import digest as digest_module
from handlers.images.digest import DIGEST_BYTES, HashedFile, RunningDigest, content_of, settled_identity

CONTENT = bytes(range(256)) * 40


@given(st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 500)), max_size=8), st.booleans())
def test_pieces_in_any_order_with_any_gaps_give_the_digest_of_the_file(
    tmp_path_factory, pieces: list[tuple[int, int]], is_sorted: bool
) -> None:
    path: Path = tmp_path_factory.mktemp("digest") / "a"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        digest = RunningDigest(file.fileno())
        for offset, length in sorted(pieces) if is_sorted else pieces:
            digest.take(offset, memoryview(CONTENT[offset : offset + length]))
        assert digest.digest() == xxhash.xxh3_128(CONTENT).digest()


def test_the_digest_is_of_the_pieces_and_not_of_later_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    with path.open("r+b") as file:
        digest = RunningDigest(file.fileno())
        digest.take(0, memoryview(CONTENT))
        file.write(b"something else")
        file.flush()
        assert digest.digest() == xxhash.xxh3_128(CONTENT).digest()


def test_a_file_is_hashed_when_its_bytes_are_read_first(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        hashed = HashedFile(file.fileno())
        assert hashed.pread(len(CONTENT), 0) == CONTENT
        path.write_bytes(bytes(len(CONTENT)))
        assert hashed.pread(100, 50) == bytes(100)
        assert hashed.digest() == xxhash.xxh3_128(CONTENT).digest()
        assert len(hashed.digest()) == DIGEST_BYTES


def test_the_content_of_a_file_is_its_identity_and_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        assert content_of(file.fileno()) == (FileIdentity.of(path.stat()), xxhash.xxh3_128(CONTENT).digest())


def coarse(descriptor: int) -> FileStatus:
    """Status of a file on a file system whose clock ticks every ten milliseconds."""
    found = status_of(descriptor)
    ticks = {name: getattr(found, name) // 10_000_000 * 10_000_000 for name in ("st_mtime_ns", "st_ctime_ns")}
    return found._replace(**ticks)


def test_a_second_write_within_a_clock_tick_changes_the_identity(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(digest_module, "status_of", coarse)
    path = tmp_path / "a"
    for number in range(20):
        path.write_bytes(bytes(100))
        with path.open("r+b") as file:
            before = settled_identity(file.fileno())
            os.pwrite(file.fileno(), bytes([number + 1]), 50)
            assert FileIdentity.of(coarse(file.fileno())) != before


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_file_server_with_a_wrong_clock_causes_no_wait(tmp_path: Path, monkeypatch, ahead_s: float) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    slept: list[float] = []
    monkeypatch.setattr(digest_module.time, "sleep", slept.append)
    now = time.time_ns
    monkeypatch.setattr(digest_module.time, "time_ns", lambda: now() - int(ahead_s * 10**9))
    with path.open("rb") as file:
        assert settled_identity(file.fileno()) == FileIdentity.of(path.stat())
    assert slept == []
