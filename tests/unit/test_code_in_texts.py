"""Code that tests and tools hand to other processes as text imports what there is: no type checker reads it."""

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("benchmarks", "daemon", "handlers", "tests")
PLACES = [path for name in OURS for path in sorted((ROOT / name).rglob("*.py"))]
INDENTED = re.compile(r"[^\n]from (?:" + "|".join(OURS) + r")\b")
"""An import that does not begin its line, as in a text or a function: quicker to look for than to parse the file."""


def programs_in(source: str) -> Iterator[ast.Module]:
    """Yield the texts of a module that are Python code with imports of ours."""
    for node in ast.walk(ast.parse(source)) if INDENTED.search(source) else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                yield ast.parse(textwrap.dedent(node.value))
            except SyntaxError:
                continue  # prose


def unknown_in(program: ast.Module) -> Iterator[str]:
    """Yield the imported names of ours that do not exist."""
    for node in ast.walk(program):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module.partition(".")[0] not in OURS:
            continue
        try:
            module = importlib.import_module(node.module)
        except ModuleNotFoundError:
            yield node.module
            continue
        for alias in node.names:
            if not hasattr(module, alias.name):
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("text", ["handlers import absent", "daemon.absent import x"])
def test_an_unknown_import_is_found(text: str) -> None:
    (program,) = programs_in(f'CHECK = """\n    from {text}\n"""')
    assert list(unknown_in(program))


def test_code_in_texts_imports_what_there_is() -> None:
    programs = [(path, program) for path in PLACES for program in programs_in(path.read_text())]
    assert len(programs) > 10
    unknown = {f"{path.relative_to(ROOT)}: {name}" for path, program in programs for name in unknown_in(program)}
    assert not unknown
