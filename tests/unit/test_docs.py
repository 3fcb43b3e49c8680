"""The documents agree with the code and with each other."""

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
import pytest

from daemon.notify.alerts.rules import AlertKind
from daemon.pipeline.gates.output_stores import MARKER
from daemon.temwatch import temwatch
from daemon.watching.roots import RootStatus

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
DECISIONS = [path for path in (ROOT / "docs/decisions").glob("*.md") if path.name != "README.md"]
PACKAGES = ("daemon", "handlers")
ONE_SHOT = ("generate_EM_tilespecs_from_metafile", "generate_mipmaps", "apply_mipmaps_to_render")
IMPORT_PARAMETERS = {"render.host", "render.port"}
EVENTS_OF_THE_LOG = {
    "watch.state",
    "render.available",
    "workers.available",
    "journal.created",
    "watch.configured",
    "http.accept_failed",
    "render.image_cache_emptied",
}
Arrow = tuple[str, str]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_test_that_the_compatibility_table_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", read("docs/compatibility.md")))
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 40
    assert sorted(named - set(re.findall(r"def (test_\w+)", source))) == []


def test_the_names_that_the_example_in_the_readme_imports_exist() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    for node in ast.parse(example).body:
        if isinstance(node, ast.ImportFrom):
            assert all(resolve_name(f"{node.module}:{alias.name}") for alias in node.names)


def test_every_command_in_the_documents_exists() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"(?:^ {4}temwatch|^\$T|/bin/temwatch|`temwatch) ([a-z]\w*(?:-\w+)?)", text, re.MULTILINE))
    assert len(named) > 10
    assert sorted(named - set(temwatch.commands)) == []


def code_lines(text: str) -> Iterator[str]:
    """The lines of fenced and indented code."""
    for fenced in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from fenced.splitlines()
    yield from re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)


def unknown_options_in(line: str) -> Iterator[tuple[str, str]]:
    """Command and option of each unknown option in a line of a shell. Import commands have other parsers."""
    for part in re.split(r"&&|\||#", line):
        called = re.match(r"(?:.* -- )?(?:\S*/bin/temwatch|temwatch|\$T) ([a-z][\w-]*)((?: \S+)*)", part.strip())
        if not called or called[1] in ONE_SHOT:
            continue
        command = temwatch.commands[called[1]]
        words = called[2].split()
        if isinstance(command, click.Group) and words:
            command = command.commands[words[0]]
        known = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
        yield from ((called[1], word) for word in words if word.startswith("--") and word not in known)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_of_a_command_in_the_documents_exists(document: Path) -> None:
    lines = code_lines(document.read_text(encoding="utf-8"))
    assert [unknown for line in lines for unknown in unknown_options_in(line)] == []


def test_the_check_of_options_finds_an_unknown_one() -> None:
    lines = code_lines(
        "```sh\n/opt/temwatch/bin/temwatch status --as-json | less\n```\n    temwatch journal check --config a.toml\n"
    )
    assert [unknown for line in lines for unknown in unknown_options_in(line)] == [("status", "--as-json")]


def configuration_keys() -> dict[str, set[str]]:
    """The keys of each section of the configuration."""
    chapters = re.findall(
        r"^## `\[+([\w.]+)\]+`$(.*?)(?=^## |\Z)", read("docs/configuration.md"), re.DOTALL | re.MULTILINE
    )
    return {section: set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) for section, table in chapters}


def unknown_keys_in(text: str) -> list[str]:
    """Names in the text that begin with a section of the configuration, without keys, events of the log and files."""
    sections = configuration_keys()
    keys = {f"{section}.{key}" for section, its_keys in sections.items() for key in its_keys}
    known = {name for key in {*keys, *sections} for name in (key, key.partition(".")[2])} | IMPORT_PARAMETERS
    prefixes = {name.partition(".")[0] for name in known if "." in name} - {"store"}
    named = re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)`", text)
    files = re.compile(r".*\.(py|c|toml|lock|json|md|txt|csv|conf|client)")
    dotted = {name for name in named if name.partition(".")[0] in prefixes and not files.fullmatch(name)}
    return sorted(dotted - known - EVENTS_OF_THE_LOG)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_configuration_key_that_a_document_names_exists(document: Path) -> None:
    assert unknown_keys_in(document.read_text(encoding="utf-8")) == []


def test_the_check_of_keys_finds_an_unknown_one() -> None:
    assert unknown_keys_in("set `render.owner_name` and `watch.mipmaps.levels`, or `stacks.close_soon`") == [
        "render.owner_name",
        "stacks.close_soon",
    ]


def test_every_metric_that_a_document_names_exists() -> None:
    known = set(re.findall(r'"(temwatch_\w+)"', read("daemon/pipeline/metrics.py")))
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*DOCUMENTS, ROOT / "monitoring/README.md"])
    named = {re.sub(r"_total$", "", name) for name in re.findall(r"`(temwatch_\w+?)(?:\{[^`]*)?`", text)}
    assert len(named) > 10
    assert sorted(named - known - {"temwatch_probe_"}) == []


def links(text: str) -> set[tuple[str, str]]:
    """Path and anchor of each link to a document."""
    return {
        (path, anchor)
        for path, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)[^)]*\)", text)
        if "://" not in path and not path.startswith("mailto:")
    }


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_of_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for path, anchor in links(text):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def test_the_indexes_name_every_document() -> None:
    for index in ("docs/README.md", "docs/decisions/README.md"):
        directory = (ROOT / index).parent
        named = {path for path, _ in links(read(index))}
        assert {path.name for path in directory.glob("*.md")} - {"README.md"} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_of_the_code_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(
        r"(?<![\w/])((?:daemon|handlers|tests|benchmarks|systemd)/[\w/.-]*\w)", document.read_text(encoding="utf-8")
    )
    missing = [path for path in named if not any((ROOT / f"{path}{end}").exists() for end in ("", ".py"))]
    assert missing in ([], ["benchmarks/results"])  # `make bench` creates this directory


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_outside_of_tables_and_code_have_at_most_120_columns(document: Path) -> None:
    prose = re.sub(r"```.*?```|^\|.*?$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 120] == []


QUESTIONS = (
    "## It is not ready: what do I do?",
    "## What does the status of a watch mean?",
    "### a montage is FAILED?",
)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_reasons_in_the_operations_guide_are_the_words_that_are_printed(question: str) -> None:
    form = rf"^{re.escape(question)}\n(.*?)^##"
    (chapter,) = re.findall(form, read("docs/operations.md"), re.DOTALL | re.MULTILINE)
    modules = (path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    code = "\n".join(re.sub(r'"\s*f?"', "", module) for module in modules).replace("{MARKER}", MARKER)
    rows = [row for row in re.findall(r"^\| (.*?) \|", chapter, re.MULTILINE) if not row.startswith(("`", "--"))]
    pieces = [piece.strip(" :") for row in rows for piece in re.split(r"\.\.\.|, ", row)]
    pieces = [piece for piece in pieces if piece not in ("", "reason", "status", "warning", "the fault", "s3://")]
    assert len(pieces) > 10
    statuses = {f"is {status}" for status in RootStatus}
    absent = [piece for piece in pieces if piece not in code and piece not in statuses]
    assert not absent, f"the program never prints {absent}"


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: str(path.name))
def test_every_decision_has_the_same_form(decision: Path) -> None:
    headings = re.findall(r"^## (.*)$", decision.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences", "Figures"]


def test_the_operations_guide_has_a_row_for_every_alert() -> None:
    (chapter,) = re.findall(
        r"^## An alert comes: what do I do\?\n(.*?)^## ", read("docs/operations.md"), re.DOTALL | re.MULTILINE
    )
    named = [name for row in re.findall(r"^\| ([^|]+) \|", chapter, re.MULTILINE)[2:] for name in row.split(", ")]
    rules = [f"`{name}`" for name in re.findall(r"- alert: (\w+)", read("monitoring/alerts.yml"))]
    assert sorted(named) == sorted([*rules, *map(str, AlertKind), "the heartbeat stays away"])


def limits() -> list[tuple[str, str]]:
    """Limit and place of each row of the table of limits."""
    (chapter,) = re.findall(r"^## What is limited\?\n(.*?)^## ", read("docs/operations.md"), re.DOTALL | re.MULTILINE)
    return re.findall(r"^\| [^|`]+ \| ([^|]+) \| `([\w.]+)` \|$", chapter, re.MULTILINE)


def limit_of(place: str) -> float:
    """The value of a constant, or the default of a configuration key."""
    if place.startswith(("daemon.", "handlers.")):
        return resolve_name(place)
    table, _, key = place.rpartition(".")
    (default,) = re.findall(
        rf"^## `\[+{re.escape(table)}\]+`$.*?^\| `{key}` \| [^|]+ \| `([\d.]+)` \|",
        read("docs/configuration.md"),
        re.DOTALL | re.MULTILINE,
    )
    return float(default)


@pytest.mark.parametrize(("limit", "place"), limits())
def test_the_table_of_limits_has_the_values_of_the_code(limit: str, place: str) -> None:
    assert limit == f"{limit_of(place):,.0f}"


# --------------------------------------------------------------------------------------------------------------------
# The picture of the rooms


def picture() -> tuple[dict[str, frozenset[str]], set[Arrow]]:
    """The boxes of the picture, each with the modules in it, and the arrows between boxes."""
    drawn = re.search(r"```mermaid\n(.*?)```", read("docs/architecture.md"), re.DOTALL)
    assert drawn
    boxes: dict[str, frozenset[str]] = {}
    for package, body in re.findall(r"subgraph (\w+)\n(.*?)\n  end", drawn[1], re.DOTALL):
        for box, names in re.findall(r'(\w+)\["(.*?)"\]', body):
            boxes[box] = frozenset(f"{package}.{name}" for name in names.split(", "))
    return boxes, set(re.findall(r"(\w+) --> (\w+)", drawn[1]))


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


def rooms() -> set[str]:
    """The packages and modules just below the two packages."""
    return {".".join(name.split(".")[:2]) for name in modules()} - set(PACKAGES)


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(boxes: dict[str, frozenset[str]]) -> set[Arrow]:
    """Arrows between the boxes, by the imports of the code."""
    known = modules()
    box_of = {name: box for box, names in boxes.items() for name in names}
    arrows = set()
    for name, path in known.items():
        importer = box_of.get(".".join(name.split(".")[:2]))
        for target in imported(path.read_text(encoding="utf-8")):
            box = box_of.get(".".join(target.split(".")[:2])) if target in known else None
            if importer and box and box != importer:
                arrows.add((importer, box))
    return arrows


def reached(start: str, arrows: set[Arrow]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        new = {head for tail, head in arrows if tail == here} - found
        found |= new
        waiting += new
    return found


def layers() -> dict[str, list[list[str]]]:
    """Subject of each layer contract -> its layers, from top to bottom."""
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    found = [contract for contract in contracts if contract["type"] == "layers"]
    return {contract["name"].removesuffix(" are layers"): layers_of(contract) for contract in found}


def layers_of(contract: dict[str, Any]) -> list[list[str]]:
    within = "".join(f"{container}." for container in contract.get("containers", ()))
    return [[f"{within}{name}" for name in re.split(r" [|:] ", row)] for row in contract["layers"]]


def test_the_picture_shows_every_room_once() -> None:
    boxes, _ = picture()
    drawn = [room for names in boxes.values() for room in names]
    assert sorted(drawn) == sorted(rooms())


def test_the_picture_has_an_arrow_for_each_import_that_does_not_follow_from_other_arrows() -> None:
    boxes, drawn = picture()
    actual = imports(boxes)
    needed = {(tail, head) for tail, head in actual if head not in reached(tail, actual - {(tail, head)})}
    assert sorted(drawn ^ needed) == [], "add an arrow for each new import, remove arrows without an import"


def test_the_contracts_order_every_room_and_no_arrow_of_the_picture_goes_up() -> None:
    boxes, drawn = picture()
    handlers, daemon = layers()["the rooms of handlers"], layers()["the rooms of the daemon"]
    bottom = layers()["the modules at the bottom of handlers"]
    assert sorted(itertools.chain(*bottom)) == sorted(handlers[-1]), (
        "the modules of the last layer of `handlers` have their own contract"
    )
    layer_of = {room: layer for rows in (daemon, handlers) for layer, row in enumerate(rows) for room in row}
    assert sorted(layer_of) == sorted(rooms())
    for tail, head in drawn:
        below = {(upper, lower) for upper in boxes[tail] for lower in boxes[head]}
        within = {(upper, lower) for upper, lower in below if upper.split(".")[0] == lower.split(".")[0]}
        assert within or all(upper.startswith("daemon.") for upper, _ in below)
        assert all(layer_of[upper] < layer_of[lower] for upper, lower in within), f"{tail} --> {head}"


def test_no_contract_has_more_than_ten_layers() -> None:
    assert max(map(len, layers().values())) <= 10


@pytest.mark.parametrize(
    ("subject", "room"),
    [
        ("the rooms of the pipeline", "daemon.pipeline"),
        ("the rooms of notify", "daemon.notify"),
        ("the rooms of acquisition", "handlers.acquisition"),
        ("the rooms of mipmaps", "handlers.mipmaps"),
        ("the rooms of render", "handlers.render"),
    ],
)
def test_the_contract_of_a_large_room_orders_every_module_and_room_in_it(subject: str, room: str) -> None:
    inside = {".".join(name.split(".")[:3]) for name in modules() if name.startswith(f"{room}.")}
    assert sorted(itertools.chain(*layers()[subject])) == sorted(inside)


def test_the_architecture_names_every_room_inside_a_room() -> None:
    named = set(re.findall(r"`(\w+/\w+)`", read("docs/architecture.md")))
    inside = {
        "/".join(path.parent.parts[-2:]) for package in PACKAGES for path in (ROOT / package).glob("*/*/__init__.py")
    }
    assert inside <= named


@pytest.mark.parametrize("package", PACKAGES)
def test_the_init_module_of_every_room_contains_only_a_docstring(package: str) -> None:
    for path in (ROOT / package).glob("*/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path
        assert isinstance(body[0].value, ast.Constant), path


# --------------------------------------------------------------------------------------------------------------------
# The walks


def walks() -> dict[str, list[str]]:
    """The functions of each walk, in order."""
    (chapter,) = re.findall(r"^## Two walks\n(.*?)^## ", read("docs/architecture.md"), re.DOTALL | re.MULTILINE)
    parts = re.split(r"^### (.*)$", chapter, flags=re.MULTILINE)
    return {
        name: re.findall(r"^\| `([\w.]+)`", text, re.MULTILINE)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize("walk", walks())
def test_every_stop_of_a_walk_exists_and_no_room_is_entered_twice(walk: str) -> None:
    stops = walks()[walk]
    assert len(stops) > 5
    for stop in stops:
        assert callable(resolve_name(stop))
    entered = [room for room, _ in itertools.groupby(".".join(stop.split(".")[:2]) for stop in stops)]
    assert len(entered) == len(set(entered))
