"""Mutate the modules on which the documented promises depend, and list the mutants that no test detects.

    python -m tests.mutants [--sample 150] [--seed 1] [--minutes 60] [handlers/uris.py ...]

mutmut makes the mutants and runs the tests. Each module is mutated in a copy of the repository below `build/mutants`.
Mutants that change only texts or log lines are not tried. docs/reliability.md discusses the survivors.
"""

import argparse
import ast
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build/mutants"
COPIED = (
    *("benchmarks", "daemon", "docs", "handlers", "systemd", "tests", ".ci"),
    *(
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "Makefile",
        "config.example.toml",
        "hatch_build.py",
        "pyproject.toml",
    ),
    *("requirements.lock", "requirements-dev.lock", "requirements-build.lock", "requirements-mutants.lock"),
)
UNIT, LEVELS, INTEGRATION = "tests/unit/test_{}.py", "tests/unit/levels/test_{}.py", "tests/integration/test_{}.py"
TESTS: dict[str, tuple[str, ...]] = {
    "daemon/pipeline/settling/settle.py": ("settle_clock", "settle_images", "settle_races"),
    "handlers/acquisition/arrival.py": ("arrival", "regular_file", "settle_images"),
    "daemon/journal/tables/rows.py": ("journal", "tile_holds", "lookup"),
    "daemon/journal/tables/settling.py": ("settling",),
    "daemon/journal/tables/sightings.py": ("journal", "recheck", "paths"),
    "daemon/journal/tables/retries.py": ("journal", "recheck", "lookup"),
    "daemon/journal/tables/duplicates.py": ("journal", "tile_holds", "paths"),
    "daemon/montages/states.py": ("states", "journal"),
    "daemon/pipeline/steps/perform.py": ("steps", "tile_holds", "changed_since_settled", "late_uploads"),
    "daemon/pipeline/steps/attempt.py": ("attempt",),
    "daemon/pipeline/steps/section.py": ("section", "section_facts", "changed_since_settled"),
    "daemon/pipeline/steps/mipmap_step.py": ("mipmap_step", "section"),
    "daemon/pipeline/stacks/keeper.py": ("keeper", "closing"),
    "daemon/pipeline/stacks/closer.py": ("stack_closer",),
    "daemon/pipeline/settling/claims.py": ("claims",),
    "daemon/pipeline/settling/interpret.py": ("settle_images", "stack_ownership"),
    "daemon/pipeline/steps/settle_step.py": ("paths", "settle_races"),
    "daemon/pipeline/settling/supersede.py": ("paths",),
    "daemon/pipeline/steps/failures.py": ("outage", "paths", "parking", "changed_since_settled"),
    "daemon/pipeline/steps/tile_faults.py": ("tile_faults",),
    "daemon/pipeline/steps/changing_images.py": ("tile_faults",),
    "daemon/pipeline/order/tile_holds.py": ("tile_holds",),
    "handlers/generate_tilespecs.py": ("ingest", "apply"),
    "handlers/apply_mipmaps.py": ("apply",),
    "handlers/render/tiles.py": ("resolvedtiles", "apply", "ingest", "render_names"),
    "daemon/commands/verify/command.py": ("verify",),
    "handlers/verify.py": ("verify", "verify_files"),
    "handlers/stores/atomic_write.py": ("disks", "kept_levels", "making", "making_all"),
    "handlers/regular_file.py": ("regular_file", "arrival"),
    "handlers/identity.py": ("identity",),
    "handlers/container.py": ("container",),
    "handlers/render/read_back.py": ("read_back",),
    "handlers/uris.py": ("doctests", "uris", "making", "places"),
    "handlers/acquisition/metafile.py": ("metafile", "metafile_fields", "arrival"),
    "handlers/acquisition/formats/pytemca_parse.py": ("metafile", "metafile_fields", "arrival"),
    "handlers/acquisition/image_names.py": ("metafile", "arrival"),
    "daemon/pipeline/order/retry.py": ("doctests", "schedule", "circuit_breaker", "stack_closer"),
    "daemon/pipeline/gates/circuit_breaker.py": ("circuit_breaker",),
    "daemon/pipeline/order/schedule.py": ("schedule",),
    "daemon/pipeline/stacks/use.py": ("stack_use",),
    "daemon/pipeline/changes/late_uploads.py": ("overwritten",),
    "daemon/notify/alerts/state.py": ("alert_state",),
    "handlers/workers/cluster/members.py": ("members",),
    "handlers/objects/files.py": ("object_content",),
    "handlers/ranged_file.py": ("object_content",),
    "handlers/stores/bucket.py": ("bucket",),
    "handlers/workers/upcoming.py": ("read_ahead",),
    "daemon/web/access.py": ("post_access",),
    "daemon/web/visitor.py": ("visitor",),
    "daemon/web/posts.py": ("posts", "posts_of_persons", "http_guards", "verdicts"),
    "daemon/web/routes.py": ("web",),
}
"""Mutated module -> names of the tests that should detect its mutants."""
TIMEOUT_CONSTANT = 6.0
"""mutmut adds fifteen times this many seconds to the tests' own time, since the machine may be busy."""
OUTCOMES = {0: "survived", 1: "killed", 3: "killed", 33: "no test", 5: "no test", None: "not tried"}
"""mutmut's exit code -> outcome. Any other code is a time-out or a crash of the test run, which detects the mutant."""


class NotRun(Exception):  # noqa: N818  usually a test fails without a mutant
    """No mutant of a module was tried."""


@dataclass(frozen=True)
class Mutants:
    """The mutants of one module."""

    all: int
    chosen: tuple[str, ...]
    texts: int
    """Number of mutants that change only texts or log lines, and are not tried."""


def mutants_of(module: str, place: Path) -> Mutants:
    """Return the mutants of a module, with the names that mutmut gives them in the workspace."""
    code = (place / module).read_text(encoding="utf-8")
    with contextlib.chdir(place):  # where mutmut finds its settings
        mutated = mutate_file_contents(module, code)
    functions = {each.name: each for each in _functions(ast.parse(mutated.code))}
    chosen = [name for name in mutated.mutant_names if not _is_text(name, functions)]
    names = tuple(get_mutant_name(Path(module), name) for name in chosen)
    return Mutants(len(mutated.mutant_names), names, len(mutated.mutant_names) - len(names))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _is_text(name: str, functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]) -> bool:
    mutant, original = functions[name], functions[f"{name.partition('__mutmut_')[0]}__mutmut_orig"]
    return _without_texts(mutant) == _without_texts(original)


def _without_texts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return a function's code without its texts."""
    plain = _WithoutTexts().visit(ast.parse(ast.unparse(function)))
    plain.body[0].name = ""
    return ast.dump(plain)


class _WithoutTexts(ast.NodeTransformer):
    """Removes prose, arguments of log calls, and arguments of raised exceptions."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("text") if isinstance(node.value, str) and " " in node.value.strip() else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        is_prose = any(isinstance(part, ast.Constant) and " " in str(part.value).strip() for part in node.values)
        return ast.Constant("text") if is_prose else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            return ast.Raise(node.exc.func)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = ast.unparse(node.func)
        if called.startswith("log.") or called.endswith(("Fault", "Error")):
            return ast.Call(node.func, [], [])
        return self.generic_visit(node)


def workspace(module: str) -> Path:
    """Make a new copy of the repository, in which mutmut's settings name the module."""
    place = PLACE / module.removesuffix(".py").replace("/", ".")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in COPIED:
        whole = ROOT / name
        if whole.is_dir():
            shutil.copytree(whole, place / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy2(whole, place / name)
    with (place / "pyproject.toml").open("a", encoding="utf-8") as settings:
        settings.write(_settings(module))
    return place


def _settings(module: str) -> str:
    names = [pattern.format(name) for name in TESTS[module] for pattern in (UNIT, LEVELS, INTEGRATION)]
    values = {
        "source_paths": ["daemon", "handlers"],
        "only_mutate": [module],
        "also_copy": [name for name in COPIED if name not in ("daemon", "handlers", "tests", "pyproject.toml")],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:xdist"],
        "pytest_add_cli_args_test_selection": [name for name in names if (ROOT / name).exists()],
        "track_dependencies": False,
        "use_git_change_detection": False,
        "timeout_constant": TIMEOUT_CONSTANT,
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    return "\n[tool.mutmut]\n" + "".join(lines)


def try_mutants(place: Path, names: tuple[str, ...], until: float) -> Counter[str]:
    """Try mutants until a time of the monotonic clock; return the number of each outcome."""
    mutmut = Path(sys.executable).with_name("mutmut")
    with (place / "log").open("wb") as log:
        command = [str(mutmut), "run", "--max-children", "2", *names]
        running = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, start_new_session=True)
        try:
            code = running.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = 0
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    if code:
        raise NotRun(f"mutmut ended with {code}: see {place / 'log'}")
    codes = _exit_codes(place)
    outcomes = {name: OUTCOMES.get(codes.get(name), "killed") for name in names}
    _list_survivors(mutmut, place, [name for name in names if outcomes[name] in ("survived", "no test")])
    return Counter(outcomes.values())


def _exit_codes(place: Path) -> dict[str, int | None]:
    codes: dict[str, int | None] = {}
    for path in (place / "mutants").rglob("*.meta"):
        codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def _list_survivors(mutmut: Path, place: Path, names: list[str]) -> None:
    with place.with_name(f"{place.name}.survivors").open("wb") as survivors:
        for name in names:
            survivors.write(subprocess.run([mutmut, "show", name], cwd=place, capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument(
        "--sample", type=int, default=150, help="maximum number of mutants of a module, drawn at random"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--minutes", type=float, default=60.0, help="for all modules together")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    click.echo(f"seed {arguments.seed}; survivors are listed in {PLACE.relative_to(ROOT)}/*.survivors\n")
    click.echo("| module | mutants | texts | tried | killed | survived | no test |")
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    failures = []
    for module in arguments.modules:
        try:
            click.echo(row(module, arguments.sample, arguments.seed, until))
        except NotRun as failure:
            failures.append(f"{module}: {failure}")
    if failures:
        raise SystemExit("\n".join(failures))


def row(module: str, sample: int, seed: int, until: float) -> str:
    """Return the line of the table for one module."""
    place = workspace(module)
    mutants = mutants_of(module, place)
    chosen = mutants.chosen
    if len(chosen) > sample:
        chosen = tuple(sorted(random.Random(seed).sample(chosen, sample)))
    found = try_mutants(place, chosen, until)
    done = len(chosen) - found["not tried"]
    numbers = (mutants.all, mutants.texts, done, found["killed"], found["survived"], found["no test"])
    return f"| {module} | " + " | ".join(f"{number:,}" for number in numbers) + " |"


if __name__ == "__main__":
    main()
