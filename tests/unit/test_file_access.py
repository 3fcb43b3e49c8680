"""No file is accessed on the event loop: only through aiofiles, or by a blocking function in a thread.

docs/decisions/dependencies.md states where each of the two is used.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTENT = {"open", "fdopen", "read_bytes", "read_text", "write_bytes", "write_text"}
STATUS = {"iterdir", "glob", "rglob", "listdir", "scandir", "exists", "is_dir", "is_file", "stat", "lstat", "fstat"}
CHANGES = {"unlink", "mkdir", "rmdir", "rename", "fsync", "rmtree"}
BLOCKING = CONTENT | STATUS | CHANGES
"""Functions and methods that access a file, or a directory, before they return."""


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def found_in(path: Path, names: set[str], nodes: Iterator[ast.AST]) -> list[str]:
    """Return the calls of functions with these names, except functions of aiofiles."""
    calls = [node for node in nodes if isinstance(node, ast.Call) and called(node) in names]
    texts = [(call.lineno, ast.unparse(call)) for call in calls]
    return [f"{path.name}:{line}: {text}" for line, text in texts if not text.startswith("aiofiles.")]


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def on_the_loop(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the code of coroutines, without the functions that they define, which may run in a thread."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    queue: list[ast.AST] = [statement for function in functions for statement in function.body]
    while queue:
        node = queue.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            queue += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", modules("daemon/web"), ids=lambda path: path.stem)
def test_the_web_reads_and_writes_files_only_through_aiofiles(path: Path) -> None:
    assert found_in(path, CONTENT, ast.walk(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_no_coroutine_of_the_daemon_or_the_handlers_accesses_a_file_directly() -> None:
    """Commands and the simulator are exempt: they serve one person, and no other work waits for their loops."""
    serving = [path for path in modules("daemon", "handlers") if not {"commands", "simulator"} & set(path.parts)]
    assert [
        found for path in serving for found in found_in(path, BLOCKING, on_the_loop(ast.parse(path.read_text("utf-8"))))
    ] == []


def test_the_check_finds_file_access_in_a_coroutine() -> None:
    code = """
async def f():
    path.open()
    def g(): path.stat()
    async with aiofiles.open(path): os.listdir(path)
"""
    found = found_in(Path("f.py"), BLOCKING, on_the_loop(ast.parse(code)))
    assert sorted(found) == ["f.py:3: path.open()", "f.py:5: os.listdir(path)"]
