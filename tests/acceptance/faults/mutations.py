"""Metafiles and TIFFs spoiled as by disks, networks, software and people; seeded, so that they are repeatable."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**64, 10**30, 10**400, 1e308, -1e308, 5e-324, 1e400, -0.0),
    *(float("nan"), float("inf"), float("-inf"), 0.5, True, False),
)
STRINGS = (
    *("", " ", "\0", "a\0b.tif", "../../../../etc/passwd", "/etc/passwd", "..", ".", "a/../../b.tif", "~root/x.tif"),
    *("con\nname", "\u202egpj.tif", "é" * 200, "\ud800", "x" * 70_000, "${HOME}", "%00", "*", "[", "?", "NaN", "1e999"),
    *("{specimen_id}", "{0.__class__}", "%s%n", "<script>", "' OR 1=1 --", "0", "-1", "١٢٣", "0x10", "1_000", "00105O"),
)
OTHERS: tuple[Any, ...] = (None, [], {}, [[]], [None], {"": None}, [0] * 1000)
_DEEP = 20_000

Place = tuple[Any, Any]
"""A container and the key or index in it."""


def places(content: Any) -> list[Place]:
    """Yield every element of a JSON document but its root."""
    found: list[Place] = []
    waiting = [content]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


def spoil_structure(chance: random.Random, content: Any) -> bytes:
    """Remove, replace, double or move one to three elements of the document."""
    content = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        container, key = chance.choice(places(content) or [([None], 0)])
        match chance.randrange(8):
            case 0:
                del container[key]
            case 1 | 2:
                container[key] = chance.choice(NUMBERS)
            case 3 | 4:
                container[key] = chance.choice(STRINGS)
            case 5:
                container[key] = copy.deepcopy(chance.choice(OTHERS))
            case 6:
                _double(chance, container, key)
            case 7:
                other, place = chance.choice(places(content) or [(container, key)])
                container[key] = copy.deepcopy(other[place])
    return json.dumps(content, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _double(chance: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, list):
        container.insert(chance.randrange(len(container) + 1), copy.deepcopy(container[key]))
    else:
        container[f"{key}_"] = copy.deepcopy(container[key])


def spoil_bytes(chance: random.Random, content: Any) -> bytes:
    """Cut, flip, fill, re-encode or wrap the document's text."""
    raw = json.dumps(content).encode()
    where = chance.randrange(len(raw))
    spoils: tuple[Callable[[], bytes], ...] = (
        lambda: raw[:where],
        lambda: raw[where:],
        lambda: raw[:where] + bytes(len(raw) - where),
        lambda: raw[:where] + chance.randbytes(chance.randrange(1, 9)) + raw[where:],
        lambda: raw[:where] + bytes([raw[where] ^ (1 << chance.randrange(8))]) + raw[where + 1 :],
        lambda: raw[:where] + b"\xff\xfe\xc0\x80" + raw[where:],
        lambda: b"\xef\xbb\xbf" + raw,
        lambda: raw.decode().encode("utf-16"),
        lambda: raw + raw,
        lambda: raw + b"\n\0\0\0",
        lambda: raw.replace(b'"img_path"', b'"img_path": "doubled.tif", "img_path"', 1),
        lambda: raw.replace(b'"metadata"', b'"metadata": {}, "metadata"', 1),
        lambda: b"[" * _DEEP + raw + b"]" * _DEEP,
        lambda: raw[:-1] + b", " + b'{"a":' * _DEEP + b"1" + b"}" * _DEEP + b"]",
        lambda: raw[:-1] + b", [" + b"0," * 500_000 + b"0]]",
        lambda: raw.replace(b'"data": [', b'"data": [' + b"{}," * 200_000, 1),
        lambda: raw.replace(b": 6", b": " + b"9" * 5000, 1),
        lambda: raw.replace(b'"', b"'"),
        lambda: b"",
        lambda: b"null",
        lambda: b" " * 100_000,
        lambda: chance.randbytes(5000),
        lambda: raw.replace(b" ", b"\xc2\xa0"),
        lambda: raw.replace(b",", b",,", 1),
    )
    return chance.choice(spoils)()


def spoil_metafile(chance: random.Random, content: Any) -> bytes:
    """Return a spoiled metafile; two in three are still JSON."""
    return spoil_structure(chance, content) if chance.random() < 0.66 else spoil_bytes(chance, content)


_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 320, 322, 323, 324, 325, 339)
_VALUES = (0, 1, 2, 3, 7, 8, 16, 32, 255, 60_000, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)


def spoil_tiff(chance: random.Random, raw: bytes) -> bytes:
    """Return a TIFF with a spoiled header, directory, pixels or length."""
    spoils = (_flip, _flip_early, _set_tag, _set_tag, _set_tag, _set_entry, _cut, _fill, _append, _swap_order, _loop)
    for _ in range(chance.choice((1, 1, 2, 4))):
        raw = chance.choice(spoils)(chance, raw) or b"II"
    return raw


def _flip(chance: random.Random, raw: bytes) -> bytes:
    where = chance.randrange(len(raw))
    return raw[:where] + bytes([raw[where] ^ (1 << chance.randrange(8))]) + raw[where + 1 :]


def _flip_early(chance: random.Random, raw: bytes) -> bytes:
    """Spoil a byte in the header, or in its directory."""
    start = _directory(raw) if chance.random() < 0.7 else 0
    where = min(start + chance.randrange(180), len(raw) - 1)
    return raw[:where] + chance.randbytes(1) + raw[where + 1 :]


def _directory(raw: bytes) -> int:
    order = ">" if raw[:1] == b"M" else "<"
    return int(struct.unpack(f"{order}I", raw[4:8])[0]) if len(raw) >= 8 else 0


def _set_tag(chance: random.Random, raw: bytes) -> bytes:
    """Give one of the tags that matter another value."""
    order, start = (">" if raw[:1] == b"M" else "<"), _directory(raw)
    entries = range(start + 2, min(start + 2 + 12 * 20, len(raw) - 12), 12)
    tags = [at for at in entries if struct.unpack(f"{order}H", raw[at : at + 2])[0] in _TAGS]
    if not tags:
        return raw
    at = chance.choice(tags)
    return raw[: at + 8] + struct.pack(f"{order}I", chance.choice(_VALUES)) + raw[at + 12 :]


def _set_entry(chance: random.Random, raw: bytes) -> bytes:
    """Give an entry of the directory another tag, type or count."""
    start = _directory(raw) + 2 + 12 * chance.randrange(12)
    if start + 12 > len(raw):
        return raw
    at, letter = chance.choice(((start, "H"), (start + 2, "H"), (start + 4, "I")))
    order = ">" if raw[:1] == b"M" else "<"
    value = chance.choice(_VALUES) % (65_536 if letter == "H" else 2**32)
    return raw[:at] + struct.pack(order + letter, value) + raw[at + struct.calcsize(letter) :]


def _cut(chance: random.Random, raw: bytes) -> bytes:
    return raw[: chance.randrange(len(raw))]


def _fill(chance: random.Random, raw: bytes) -> bytes:
    start = chance.randrange(len(raw))
    length = chance.randrange(1, len(raw) - start + 1)
    filling = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return raw[:start] + filling + raw[start + length :]


def _append(chance: random.Random, raw: bytes) -> bytes:
    return raw + chance.randbytes(chance.randrange(1, 2000))


def _swap_order(chance: random.Random, raw: bytes) -> bytes:
    return chance.choice((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff\xe0")) + raw[4:]


def _loop(chance: random.Random, raw: bytes) -> bytes:
    """Move the directory, or make it its own successor."""
    order = ">" if raw[:1] == b"M" else "<"
    return raw[:4] + struct.pack(f"{order}I", chance.choice((0, 4, 8, max(0, len(raw) - 2), 2**32 - 1))) + raw[8:]
