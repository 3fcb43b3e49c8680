"""Damaged metafiles and TIFFs, as disks, networks, software and people cause them. A seed gives the same one again."""

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
    """Return every element of a JSON document except the root."""
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


def damage_structure(rng: random.Random, content: Any) -> bytes:
    """Remove, replace, duplicate or copy one to three elements of the document."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        container, key = rng.choice(places(content) or [([None], 0)])
        match rng.randrange(8):
            case 0:
                del container[key]
            case 1 | 2:
                container[key] = rng.choice(NUMBERS)
            case 3 | 4:
                container[key] = rng.choice(STRINGS)
            case 5:
                container[key] = copy.deepcopy(rng.choice(OTHERS))
            case 6:
                _duplicate(rng, container, key)
            case 7:
                other, place = rng.choice(places(content) or [(container, key)])
                container[key] = copy.deepcopy(other[place])
    return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _duplicate(rng: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
    else:
        container[f"{key}_"] = copy.deepcopy(container[key])


def damage_bytes(rng: random.Random, content: Any) -> bytes:
    """Truncate, change, fill, re-encode or wrap the text of the document."""
    raw = json.dumps(content).encode()
    where = rng.randrange(len(raw))
    damages: tuple[Callable[[], bytes], ...] = (
        lambda: raw[:where],
        lambda: raw[where:],
        lambda: raw[:where] + bytes(len(raw) - where),
        lambda: raw[:where] + rng.randbytes(rng.randrange(1, 9)) + raw[where:],
        lambda: raw[:where] + bytes([raw[where] ^ (1 << rng.randrange(8))]) + raw[where + 1 :],
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
        lambda: rng.randbytes(5000),
        lambda: raw.replace(b" ", b"\xc2\xa0"),
        lambda: raw.replace(b",", b",,", 1),
    )
    return rng.choice(damages)()


def damage_metafile(rng: random.Random, content: Any) -> bytes:
    """Return a damaged metafile; two in three are valid JSON."""
    return damage_structure(rng, content) if rng.random() < 0.66 else damage_bytes(rng, content)


_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 320, 322, 323, 324, 325, 339)
_VALUES = (0, 1, 2, 3, 7, 8, 16, 32, 255, 60_000, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)


def damage_tiff(rng: random.Random, raw: bytes) -> bytes:
    """Return a TIFF with a damaged header, directory, pixels or length."""
    damages = (
        _flip,
        _change_header,
        _set_tag,
        _set_tag,
        _set_tag,
        _set_entry,
        _cut,
        _fill,
        _append,
        _swap_order,
        _loop,
    )
    for _ in range(rng.choice((1, 1, 2, 4))):
        raw = rng.choice(damages)(rng, raw) or b"II"
    return raw


def _flip(rng: random.Random, raw: bytes) -> bytes:
    where = rng.randrange(len(raw))
    return raw[:where] + bytes([raw[where] ^ (1 << rng.randrange(8))]) + raw[where + 1 :]


def _change_header(rng: random.Random, raw: bytes) -> bytes:
    """Change a byte of the header or of its directory."""
    start = _directory(raw) if rng.random() < 0.7 else 0
    where = min(start + rng.randrange(180), len(raw) - 1)
    return raw[:where] + rng.randbytes(1) + raw[where + 1 :]


def _directory(raw: bytes) -> int:
    order = ">" if raw[:1] == b"M" else "<"
    return int(struct.unpack(f"{order}I", raw[4:8])[0]) if len(raw) >= 8 else 0


def _set_tag(rng: random.Random, raw: bytes) -> bytes:
    """Change the value of one of `_TAGS`."""
    order, start = (">" if raw[:1] == b"M" else "<"), _directory(raw)
    entries = range(start + 2, min(start + 2 + 12 * 20, len(raw) - 12), 12)
    tags = [at for at in entries if struct.unpack(f"{order}H", raw[at : at + 2])[0] in _TAGS]
    if not tags:
        return raw
    at = rng.choice(tags)
    return raw[: at + 8] + struct.pack(f"{order}I", rng.choice(_VALUES)) + raw[at + 12 :]


def _set_entry(rng: random.Random, raw: bytes) -> bytes:
    """Change the tag, type or count of an entry of the directory."""
    start = _directory(raw) + 2 + 12 * rng.randrange(12)
    if start + 12 > len(raw):
        return raw
    at, letter = rng.choice(((start, "H"), (start + 2, "H"), (start + 4, "I")))
    order = ">" if raw[:1] == b"M" else "<"
    value = rng.choice(_VALUES) % (65_536 if letter == "H" else 2**32)
    return raw[:at] + struct.pack(order + letter, value) + raw[at + struct.calcsize(letter) :]


def _cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _fill(rng: random.Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw))
    length = rng.randrange(1, len(raw) - start + 1)
    filling = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return raw[:start] + filling + raw[start + length :]


def _append(rng: random.Random, raw: bytes) -> bytes:
    return raw + rng.randbytes(rng.randrange(1, 2000))


def _swap_order(rng: random.Random, raw: bytes) -> bytes:
    return rng.choice((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff\xe0")) + raw[4:]


def _loop(rng: random.Random, raw: bytes) -> bytes:
    """Change the offset of the directory."""
    order = ">" if raw[:1] == b"M" else "<"
    return raw[:4] + struct.pack(f"{order}I", rng.choice((0, 4, 8, max(0, len(raw) - 2), 2**32 - 1))) + raw[8:]
