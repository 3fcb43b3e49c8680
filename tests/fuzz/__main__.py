"""Fuzz all input from outside. The exit code is 1 if an input is a finding; such inputs are kept.

    python -m tests.fuzz --minutes 4               # all fuzzers, a quarter of the time each
    python -m tests.fuzz images --seed 17          # one input
    python -m tests.fuzz images --seed 17 --count 1000
    python -m tests.fuzz images --input build/fuzz/images-17.input

The same seed gives the same input; the inputs of a run have consecutive seeds. Kept inputs of earlier findings are
tried first, until their files are deleted.
"""

import argparse
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz.answers import ANSWERS
from tests.fuzz.fuzzer import Fuzzer, Run, run
from tests.fuzz.images import IMAGES
from tests.fuzz.metafiles import METAFILES
from tests.fuzz.requests import REQUESTS
from tests.fuzz.served import SERVED_IMAGES

FUZZERS = {each.name: each for each in (IMAGES, SERVED_IMAGES, METAFILES, ANSWERS, REQUESTS)}


def fuzz(fuzzer: Fuzzer, inputs: Run, output: Path) -> bool:
    """Try inputs and print the outcome; return whether no input was a finding.

    The first seed, and the input of a finding, are written to files in the output directory.
    """
    output.mkdir(parents=True, exist_ok=True)
    if inputs.count != 0:
        _say(f"{fuzzer.name}: from seed {inputs.first_seed} on")
        with (output / "seeds").open("a") as seeds:
            seeds.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {fuzzer.name} {inputs.first_seed}\n")
    outcome = run(fuzzer, inputs)
    if outcome.exit_code == 0:
        _say(f"{fuzzer.name}: tried {outcome.tried}, no finding")
        return True
    if outcome.last is None:
        _say(f"{fuzzer.name}: ended with {outcome.exit_code} before the first input")
        return False
    name, content = outcome.last
    path = output / f"{name}.input"
    path.write_bytes(content)
    _say(f"{fuzzer.name}: FINDING, exit code {outcome.exit_code}, tried {outcome.tried}: {name}")
    _say(f"  seed    {name.rpartition('-')[2]}")
    _say(f"  input   {path}")
    _say(f"  repeat  python -m tests.fuzz {fuzzer.name} --input {path}")
    return False


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Return 1 if an input was a finding, otherwise 0."""
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fuzzers", nargs="*", metavar="fuzzer", help=f"{', '.join(FUZZERS)}; default: all")
    parser.add_argument("--minutes", type=float, default=4.0, help="for all fuzzers together; default: 4")
    parser.add_argument(
        "--seed", type=int, help="seed of the first input, without --count of the only one; default: random"
    )
    parser.add_argument("--count", type=int, help="number of inputs of each fuzzer, instead of a time")
    parser.add_argument("--input", type=Path, help="try only the input in this file")
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="directory of seeds and findings")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.fuzzers) - set(FUZZERS):
        parser.error(f"unknown fuzzers: {', '.join(sorted(unknown))}")
    chosen = [FUZZERS[name] for name in arguments.fuzzers or FUZZERS]
    if arguments.input and len(chosen) != 1:
        parser.error("--input needs the name of one fuzzer")
    findings = [
        each.name for each in chosen if not fuzz(each, _inputs_of(each, arguments, len(chosen)), arguments.output)
    ]
    return 1 if findings else 0


def _inputs_of(fuzzer: Fuzzer, arguments: argparse.Namespace, fuzzers: int) -> Run:
    if arguments.input:
        return Run(0, 0, None, (arguments.input,))
    if arguments.seed is not None or arguments.count is not None:
        seed = secrets.randbelow(10**9) if arguments.seed is None else arguments.seed
        return Run(seed, 1 if arguments.count is None else arguments.count, None)
    kept = sorted(arguments.output.glob(f"{fuzzer.name}-*.input"))
    return Run(secrets.randbelow(10**9), None, arguments.minutes * 60 / fuzzers, kept)


if __name__ == "__main__":
    sys.exit(main())
