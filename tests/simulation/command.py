"""The command: tells the stories of seeds, and shrinks those that fail."""

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
from tests.simulation.shrink import shrink
from tests.simulation.theatre import Result, Theatre, theatre

LONGEST_TEXT = 400
"""Of what is printed of one failing seed in a row of many."""


def main() -> int:
    """0 if everything held in every story."""
    parser = argparse.ArgumentParser("python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one alone, and print what happens")
    parser.add_argument("--only", help="with --seed: numbers of the actions that happen, with commas between them")
    parser.add_argument("--schedule", help="with --seed: another seed of the order in which tasks run")
    parser.add_argument("--shrink", type=int, default=3, metavar="N", help="shrink N failing seeds")
    parser.add_argument("--shrink-s", type=float, default=300.0, metavar="S", help="spend S seconds on each of them")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write what came of each seed, as JSON lines")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a limit of time; the directory is removed all the same
    with theatre() as stage:
        return _tell_one(stage, asked) if asked.seed is not None else _tell_many(stage, asked)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _tell_one(stage: Theatre, asked: argparse.Namespace) -> int:
    plan = draw(asked.seed)
    if asked.only is not None:
        plan = plan.only([int(number) for number in asked.only.split(",") if number])
    _say(str(plan))
    result = stage.tell(asked.seed, plan, asked.schedule or str(asked.seed), log=_say)
    for invariant, text in result.broken:
        _say(f"{invariant}: {text}")
    _say(f"{'BROKEN' if result.broken else 'all held'}; {result.states}, {result.virtual_s:.0f} s")
    return int(bool(result.broken))


def _tell_many(stage: Theatre, asked: argparse.Namespace) -> int:
    began = time.perf_counter()
    results = []
    for seed in range(asked.start, asked.start + asked.seeds):
        results.append(result := stage.tell(seed, draw(seed), str(seed)))
        if result.broken:
            text = "; ".join(f"{invariant}: {text}" for invariant, text in result.broken)
            _say(f"seed {seed}: {text[:LONGEST_TEXT]}")
    took_s = time.perf_counter() - began
    failing = [result for result in results if result.broken]
    for result in _worth_shrinking(failing)[: asked.shrink]:
        _say(_shrunk(stage, result, asked.shrink_s))
    if asked.results:
        asked.results.write_text("".join(json.dumps(asdict(each)) + "\n" for each in results), encoding="utf-8")
    _say(_summary(results, failing, took_s))
    return int(bool(failing))


def _summary(results: Sequence[Result], failing: Sequence[Result], took_s: float) -> str:
    virtual_h = sum(result.virtual_s for result in results) / 3600
    actions = sum(result.actions for result in results)
    pace = f"{virtual_h:.1f} virtual hours in {took_s:.0f} s, {len(results) / took_s:.1f} seeds a second"
    counts = Counter(invariant for result in failing for invariant in result.invariants)
    kinds = [f"{count:6} {invariant}" for invariant, count in counts.most_common()]
    return "\n".join([f"{len(results)} seeds, {actions} actions, {len(failing)} failing; {pace}", *kinds])


def _worth_shrinking(failing: Sequence[Result]) -> list[Result]:
    """One seed for each set of invariants first, then the others."""
    first = {frozenset(result.invariants): result for result in reversed(failing)}
    chosen = sorted(first.values(), key=lambda result: result.seed)
    return chosen + [result for result in failing if result not in chosen]


def _shrunk(stage: Theatre, result: Result, longest_s: float) -> str:
    plan, whole = draw(result.seed), str(result.seed)

    def fails(chosen: list[int], schedule: str) -> bool:
        return bool(stage.tell(result.seed, plan.only(chosen), schedule).invariants & result.invariants)

    found = shrink(len(plan.actions), whole, fails, longest_s)
    shorter = plan.only(found.chosen)
    broken = stage.tell(result.seed, shorter, found.schedule).broken
    schedule = "" if found.schedule == whole else f" --schedule {found.schedule}"
    command = f"python -m tests.simulation --seed {result.seed} --only {','.join(map(str, found.chosen))}{schedule}"
    lines = [f"\nseed {result.seed}, shrunk from {len(plan.actions)} actions in {found.tries} tries:", str(shorter)]
    return "\n".join([*lines, *(f"  {invariant}: {text}" for invariant, text in broken), f"  {command}\n"])
