"""A z is printed with all its digits, in every text."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.commands.status.causes import z_ranges
from daemon.web.pages.templates import place
from handlers.text import z_text

ROOT = Path(__file__).resolve().parents[2]
SHORTENED = re.compile(r"""\{[^{}]*\bz(?:end|start|s\.first|s\.last|['"]\])?:\.?\d*[gf]\}""")
"""A z in an f-string with a fixed number of digits: `g` alone keeps six of them."""


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_z_is_that_z(z: float) -> None:
    assert float(z_text(z)) == z


def test_large_and_fine_z_keep_their_digits_on_pages_and_in_the_status() -> None:
    assert place(26500.25) == "26500.25"
    assert z_ranges([{"z": z} for z in (1234567.0, 1234568.0, 26500.25)]) == "z 26500.25, 1234567-1234568"


@pytest.mark.parametrize("package", ["daemon", "handlers"])
def test_no_module_shortens_a_z(package: str) -> None:
    assert SHORTENED.search("f'at z {self.z:g}'"), "the search finds none"
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if SHORTENED.search(line)
    ]
    assert found == []
