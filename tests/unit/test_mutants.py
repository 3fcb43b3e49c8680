"""The list of mutated modules and of their tests."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_mutated_module_and_its_tests_exist() -> None:
    source = ast.parse((ROOT / "tests/mutants.py").read_text(encoding="utf-8"))  # mutmut is not installed here
    (tests,) = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.AnnAssign) and node.value and ast.unparse(node.target) == "TESTS"
    ]
    missing = [module for module in tests if not (ROOT / module).exists()]
    for names in tests.values():
        for name in names:
            files = [ROOT / f"tests/{kind}/test_{name}.py" for kind in ("unit", "unit/levels", "integration")]
            missing += [] if any(file.exists() for file in files) else [name]
    assert missing == []
