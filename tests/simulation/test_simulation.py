"""The simulation with few seeds (`make faults` runs thousands), and its detection of planted bugs."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.shrink import shrink

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 12
"""Number of scenarios of this test, always the same ones. `make faults` tries hundreds of others."""
PLANT = """
import sys
from tests.simulation import substitutes
substitutes.install()
from daemon.journal.tables import tile_sets
{fault}
from tests.simulation.command import main
sys.exit(main())
"""
LATE_UPLOADS = """
import sys
from tests.simulation import substitutes
substitutes.install()
{fault}
from tests.simulation.actions import Action, Plan
from tests.simulation.forks import open_forks
from tests.simulation.sections import FEWER
SETTINGS = {{"settle_s": 0.5, "stacks.close_after_s": 60.0}}
with open_forks() as forks:
    for stack in ("raw", "mips"):
        for number, held_s in ((1, 124.0), (4, 170.0)):
            upload = f"slow ^PUT .*_{{stack}}/z/.*resolvedTiles"
            land = Action(0.5, "arrive", version=0, how="images first")
            hold = Action(0.6, "fail_requests", how=upload, seconds=held_s, number=1)
            rewrite = Action(60.0, "rewrite", version=FEWER, how="replaced")
            result = forks.run(number, Plan(1, SETTINGS, (land, hold, rewrite)), str(number))
            print(stack, held_s, result.states, result.broken)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280
    )


def test_the_invariants_hold_in_random_scenarios() -> None:
    ended = run("-m", "tests.simulation", "--seeds", str(SEEDS), "--shrink", "1", "--shrink-s", "60")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_seed_gives_the_same_scenario_in_every_process() -> None:
    scenarios = [run("-m", "tests.simulation", "--seed", "8").stdout for _ in range(2)]
    first, second = (re.sub(r"/\S*/simulation-\w+", "", scenario) for scenario in scenarios)
    assert len(first.splitlines()) > 50
    assert first == second


@pytest.mark.slow
def test_an_upload_that_ends_after_its_time_out_leaves_no_tile_of_a_replaced_content() -> None:
    ended = run("-c", LATE_UPLOADS.format(fault=""))
    lines = ended.stdout.splitlines()
    assert len(lines) == 4, ended.stdout + ended.stderr
    assert all(line.endswith("{'superseded': 1, 'complete': 1} []") for line in lines), ended.stdout
    fault = "from daemon.journal.tables import tile_sets; tile_sets._MAY_BE_OVERWRITTEN = 'SELECT 0 * :id'"
    ended = run("-c", LATE_UPLOADS.format(fault=fault))
    assert "stacks match files" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.slow(minutes=2)
def test_a_planted_bug_is_found_and_its_actions_are_shrunk() -> None:
    fault = "tile_sets._FORMER = 'SELECT tile_ids FROM tile_sets WHERE montage_id = -:id AND :stack = :stack'"
    ended = run("-c", PLANT.format(fault=fault), "--seeds", "6", "--shrink", "1")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "no stack has obsolete tiles" in ended.stdout
    shrunk = re.search(r"python -m tests.simulation --seed \d+ --only ([\d,]+)", ended.stdout)
    assert shrunk is not None, ended.stdout
    assert len(shrunk[1].split(",")) <= 3


@pytest.mark.slow
def test_a_scenario_ends_when_the_process_that_started_it_is_killed() -> None:
    fault = "import os, time; from tests.simulation.forks import Scenario, ScenarioForks; "
    fault += "ScenarioForks._warm_up = lambda self: None; "
    fault += "Scenario.run = lambda self: (print(os.getpid(), flush=True), time.sleep(600))"
    command = [sys.executable, "-c", PLANT.format(fault=fault), "--seeds", "1"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as running:
        assert running.stdout is not None
        scenario = int(running.stdout.readline())
        running.kill()
    deadline = time.monotonic() + 60
    while _is_alive(scenario):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_shrinking_keeps_only_the_actions_that_cause_the_failure() -> None:
    def fails(chosen: list[int], schedule: str) -> bool:
        return {3, 11} <= set(chosen) and schedule in ("7", "7.1")

    found = shrink(20, "7", fails)
    assert found.chosen == [3, 11]
    assert fails(found.chosen, found.schedule)
