"""A test that leaves something behind fails."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import asyncio
import threading

async def test_leaves_a_task():
    test_leaves_a_task.task = asyncio.create_task(asyncio.sleep(60))

def test_leaves_a_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

async def test_leaves_the_exception_of_a_task():
    async def fail():
        raise ValueError("lost")
    asyncio.create_task(fail())
    await asyncio.sleep(0)

async def test_leaves_the_exception_of_a_future():
    asyncio.get_running_loop().create_future().set_exception(ValueError("lost"))

async def test_ends_what_it_began():
    await asyncio.to_thread(print)
"""


def test_exactly_the_tests_that_leave_something_behind_fail(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    conftest = (Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8")
    impatient, count = re.subn(r"^GRACE_S = [\d.]+$", "GRACE_S = 0.5", conftest, flags=re.MULTILINE)
    assert count == 1
    pytester.makeconftest(impatient)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=5, errors=4)
    failed = re.findall(r"ERROR at teardown of test_(\w+)", result.stdout.str())
    assert failed == re.findall(r"def test_(leaves_\w+)", TESTS)
