"""Thousands of simulated scenarios: the daemon in one process, in virtual time, with a random order of tasks."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.faults.rows import FaultRun, Scale

ROOT = Path(__file__).resolve().parents[3]
SEED_LIMIT = 10**9


@pytest.mark.slow(minutes=5)
@pytest.mark.timeout(3600)
def test_no_order_of_tasks_loses_a_montage(tmp_path: Path, scale: Scale, enter: Callable[[FaultRun], None]) -> None:
    seeds, start = scale.pick(4000, 60, 50), random.randrange(SEED_LIMIT)
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds), "--start", str(start)]
    ended = subprocess.run(
        [*command, "--results", str(results)], capture_output=True, text=True, cwd=ROOT, timeout=3500
    )
    sys.stdout.write(ended.stdout + ended.stderr)
    scenarios = [json.loads(line) for line in results.read_text().splitlines()]
    states: Counter[str] = Counter()
    for scenario in scenarios:
        states.update(scenario["states"])
    enter(
        FaultRun(
            fault="simulated scenarios",
            injected=sum(scenario["actions"] for scenario in scenarios),
            montages=sum(states.values()),
            complete=states["complete"],
            failed=states["failed"],
            lost=sum(bool(scenario["broken"]) for scenario in scenarios),
            note=f"{seeds} seeds from {start} on; {ended.stdout.splitlines()[-1]}",
        )
    )
    assert ended.returncode == 0, ended.stdout
