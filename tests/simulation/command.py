"""The command: run the scenarios of seeds, and shrink those that fail."""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.simulation.actions import draw
from tests.simulation.forks import Result, ScenarioForks, open_forks
from tests.simulation.shrink import shrink

MAX_CHARACTERS = 400
"""Characters that are printed for each failing seed."""


def main() -> int:
    """Return 0 if no scenario violates an invariant."""
    parser = argparse.ArgumentParser("python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="number of seeds")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--seed", type=int, help="run only this seed and print its log")
    parser.add_argument("--only", help="with --seed: numbers of the actions to perform, separated by commas")
    parser.add_argument("--schedule", help="with --seed: another seed for the order of tasks")
    parser.add_argument("--shrink", type=int, default=3, metavar="N", help="shrink N failing seeds")
    parser.add_argument("--shrink-s", type=float, default=300.0, metavar="S", help="spend S seconds on each")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the result of each seed, as JSON lines")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # removes the directory after a time-out, too
    with open_forks() as forks:
        return _run_one(forks, options) if options.seed is not None else _run_many(forks, options)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run_one(forks: ScenarioForks, options: argparse.Namespace) -> int:
    plan = draw(options.seed)
    if options.only is not None:
        plan = plan.only([int(number) for number in options.only.split(",") if number])
    _print(str(plan))
    result = forks.run(options.seed, plan, options.schedule or str(options.seed), log=_print)
    for invariant, text in result.broken:
        _print(f"{invariant}: {text}")
    verdict = "VIOLATED" if result.broken else "no invariant is violated"
    _print(f"{verdict}; {result.states}, {result.virtual_s:.0f} s")
    return int(bool(result.broken))


def _run_many(forks: ScenarioForks, options: argparse.Namespace) -> int:
    began = time.perf_counter()
    results = []
    for seed in range(options.start, options.start + options.seeds):
        results.append(result := forks.run(seed, draw(seed), str(seed)))
        if result.broken:
            text = "; ".join(f"{invariant}: {text}" for invariant, text in result.broken)
            _print(f"seed {seed}: {text[:MAX_CHARACTERS]}")
    duration_s = time.perf_counter() - began
    failing = [result for result in results if result.broken]
    for result in _in_order_of_shrinking(failing)[: options.shrink]:
        _print(_shrunk(forks, result, options.shrink_s))
    if options.results:
        options.results.write_text("".join(json.dumps(asdict(each)) + "\n" for each in results), encoding="utf-8")
    _print(_summary(results, failing, duration_s))
    return int(bool(failing))


def _summary(results: Sequence[Result], failing: Sequence[Result], duration_s: float) -> str:
    virtual_h = sum(result.virtual_s for result in results) / 3600
    actions = sum(result.actions for result in results)
    rate = f"{virtual_h:.1f} virtual hours in {duration_s:.0f} s, {len(results) / duration_s:.1f} seeds/s"
    counts = Counter(invariant for result in failing for invariant in result.invariants)
    kinds = [f"{count:6} {invariant}" for invariant, count in counts.most_common()]
    return "\n".join([f"{len(results)} seeds, {actions} actions, {len(failing)} failing; {rate}", *kinds])


def _in_order_of_shrinking(failing: Sequence[Result]) -> list[Result]:
    """Return one seed for each set of violated invariants, then the others."""
    first = {frozenset(result.invariants): result for result in reversed(failing)}
    chosen = sorted(first.values(), key=lambda result: result.seed)
    return chosen + [result for result in failing if result not in chosen]


def _shrunk(forks: ScenarioForks, result: Result, timeout_s: float) -> str:
    plan, whole = draw(result.seed), str(result.seed)

    def fails(chosen: list[int], schedule: str) -> bool:
        return bool(forks.run(result.seed, plan.only(chosen), schedule).invariants & result.invariants)

    found = shrink(len(plan.actions), whole, fails, timeout_s)
    shorter = plan.only(found.chosen)
    broken = forks.run(result.seed, shorter, found.schedule).broken
    schedule = "" if found.schedule == whole else f" --schedule {found.schedule}"
    command = f"python -m tests.simulation --seed {result.seed} --only {','.join(map(str, found.chosen))}{schedule}"
    lines = [f"\nseed {result.seed}, shrunk from {len(plan.actions)} actions in {found.tries} tries:", str(shorter)]
    return "\n".join([*lines, *(f"  {invariant}: {text}" for invariant, text in broken), f"  {command}\n"])
