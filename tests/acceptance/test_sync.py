"""The functions for scripts and notebooks: arguments, results, faults, interruption, progress bar."""

import inspect
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from handlers.errors import Fault
from handlers.render.names import ZRange
from handlers.sync import apply_mipmaps_to_stack_sync, generate_mipmaps_sync, generate_tilespecs_sync
from tests.acceptance.facility import Facility
from tests.acceptance.rig import wait_for
from tests.leases import leased

FUNCTIONS = [generate_tilespecs_sync, generate_mipmaps_sync, apply_mipmaps_to_stack_sync]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_of_a_signature_has_a_name_and_a_type(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert all(each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) for each in parameters)
    assert all(each.annotation is not inspect.Parameter.empty for each in parameters)
    assert function.__doc__


@pytest.mark.parametrize("zs", [1050, 1050.0, [1050], range(1050, 1060), ZRange(1000, 1100)], ids=repr)
def test_paths_and_stacks_may_be_text_and_z_may_be_a_number_a_list_or_a_range(facility: Facility, zs: Any) -> None:
    section, project = facility.section(), facility.project
    raw, mips, url = f"em/{project}/raw", f"em/{project}/mips", facility.render_url
    directory = str(facility.root / "mipmaps")
    ingested = generate_tilespecs_sync(url, str(section.metafile), raw, 1050)
    made = generate_mipmaps_sync(url, raw, zs, directory)
    applied = apply_mipmaps_to_stack_sync(url, raw, mips, zs, directory, close=True)
    assert repr(ingested).startswith(f"{raw}: 4 tiles are at z 1050; the stack is LOADING")
    assert repr(made) == f"{raw}: 4 tiles have all their mipmaps (24 files written, 0 valid files kept)"
    assert repr(applied) == f"{mips}: 4 tiles of 1 layer have their mipmaps; the stack is COMPLETE"


def test_a_result_with_failures_prints_them_in_groups(facility: Facility) -> None:
    section = facility.section()
    facility.ingest(section)
    for image in section.images:
        image.unlink()
    made = generate_mipmaps_sync(facility.render_url, f"em/{facility.project}/raw", 1050, facility.root / "mipmaps")
    first, failed = repr(made).splitlines()
    assert "0 tiles have all their mipmaps" in first
    assert failed.startswith("4 tiles at z 1050 (")


WRONG: dict[str, tuple[Callable[[str], object], str]] = {
    "no metafile": (lambda url: generate_tilespecs_sync(url, "/not/there.json", "em/v1/raw", 1), "/not/there.json: "),
    "no path": (lambda url: generate_tilespecs_sync(url, 7, "em/v1/raw", 1), "metafile: expected a path, found 7"),  # type: ignore[arg-type]
    "no z": (lambda url: generate_mipmaps_sync(url, "em/v1/raw", "1050-1060", "/m"), "zs: expected a number"),  # type: ignore[arg-type]
    "no z at all": (lambda url: generate_mipmaps_sync(url, "em/v1/raw", [], "/m"), "zs: expected a number"),
    "no full name": (lambda url: generate_mipmaps_sync(url, "raw", 1, "/m"), "stack 'raw': expected a name"),
    "no stack": (lambda url: generate_mipmaps_sync(url, "em/v1/nothing", 1, "/m"), "em/v1/nothing: "),
    "no plan": (lambda url: generate_mipmaps_sync(url, "em/v1/raw", 1, None), "plan: expected a path, found None"),  # type: ignore[arg-type]
    "no URL": (lambda url: generate_mipmaps_sync("render", "em/v1/raw", 1, "/m"), "render_url: "),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_invalid_argument_raises_a_fault_of_one_line(facility: Facility, kind: str) -> None:
    call, beginning = WRONG[kind]
    with pytest.raises(Fault) as raised:
        call(facility.render_url)
    assert str(raised.value).startswith(beginning)
    assert "\n" not in str(raised.value)


NOTEBOOK = """
    import asyncio, sys
    from handlers.sync import generate_mipmaps_sync

    async def cell():
        generate_mipmaps_sync(sys.argv[1], sys.argv[2], 1050, sys.argv[3])

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(cell())  # as in a notebook, the loop runs while the function is called
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def start_notebook(facility: Facility, **options: Any) -> subprocess.Popen[bytes]:
    arguments = [facility.render_url, f"em/{facility.project}/raw", str(facility.root / "mips")]
    command = [sys.executable, "-c", textwrap.dedent(NOTEBOOK), *arguments]
    return subprocess.Popen(command, **options)


def test_the_stop_button_of_a_notebook_ends_the_work(facility: Facility) -> None:
    section = facility.section(tiles=12)
    facility.ingest(section)
    with leased(*section.images[4:]) as lease, start_notebook(facility, stdout=subprocess.PIPE) as notebook:
        wait_for(lease.is_wanted, 60, "a worker that waits for an image")
        notebook.send_signal(signal.SIGINT)
        said, _ = notebook.communicate(timeout=60)
    assert said == b"interrupted\n"
    assert len(list((facility.root / "mips").rglob("*.tif"))) <= 4 * 6


@pytest.mark.slow
def test_a_progress_bar_is_shown_on_the_terminal_of_a_notebook(facility: Facility) -> None:
    facility.ingest(facility.section())
    ours, theirs = pty.openpty()
    with start_notebook(facility, stderr=theirs) as notebook:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        notebook.wait(timeout=60)
    os.close(ours)
    assert b"4/4" in shown
