"""A test that leaves something behind fails: each kind in a test run of its own."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LEFT = {
    "task": """
import asyncio
async def test_it():
    test_it.task = asyncio.create_task(asyncio.sleep(60))
""",
    "thread": """
import threading
def test_it():
    threading.Thread(target=threading.Event().wait, args=(6,), daemon=True).start()
""",
    "exception of a task": """
import asyncio
async def test_it():
    async def fail():
        raise ValueError("lost")
    asyncio.create_task(fail())
    await asyncio.sleep(0)
""",
    "exception of a future": """
import asyncio
async def test_it():
    asyncio.get_running_loop().create_future().set_exception(ValueError("lost"))
""",
}


@pytest.mark.parametrize("left", LEFT)
def test_a_test_that_leaves_something_behind_fails(pytester, monkeypatch, left):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    own = (Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(own.replace("GRACE_S = 5.0", "GRACE_S = 0.1"))
    pytester.makepyfile(LEFT[left])
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)


def test_a_test_that_ends_what_it_began_passes(pytester):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile("import asyncio\nasync def test_it():\n    await asyncio.to_thread(print)\n")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
