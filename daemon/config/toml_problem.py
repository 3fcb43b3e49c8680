"""Messages about invalid TOML: file, line, and how to correct it. Pure."""

import re
from pathlib import Path

_POSITION = re.compile(r"(?s)(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")
_PAIR = re.compile(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=\s*(.*?)\s*(?:#.*)?$")
_WORDS = {"True": "true", "False": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}


def toml_problem(path: Path, text: str, message: str) -> str:
    """Return `file:line:column: problem` for a message of tomllib about a text.

    >>> toml_problem(Path("c.toml"), "name = temca2", "Invalid value (at line 1, column 8)")
    'c.toml:1:8: temca2 is not a value: write a text in quotes, as in name = "temca2"'
    """
    found = _POSITION.fullmatch(message)
    if found is None:
        return f"{path}: {message}"
    lines = text.splitlines()
    number = int(found[2]) if found[2] else len(lines) or 1
    column = f":{found[3]}" if found[2] else ""
    line = lines[number - 1] if number <= len(lines) else ""
    problem = _advice(found[1], line) or " ".join(found[1].split())
    return f"{path}:{number}{column}: {problem}"


def _advice(message: str, line: str) -> str | None:
    """Return the problem of a line and its correction; None if tomllib's message has to suffice."""
    header = line.strip().startswith("[")
    pair = _PAIR.match(line)
    if message.startswith(("Cannot overwrite", "Cannot declare", "Cannot mutate", "Cannot redefine")):
        if header:
            return _table_twice(line.split("#")[0].strip())
        return f"the key {pair[1]} is set twice in this table: delete one of the two lines" if pair else None
    if pair and message.startswith(("Invalid value", "Expected newline or end of document")):
        return _value_advice(pair[1], pair[2])
    if message.startswith("Illegal character '\\n'"):
        return "a quote is not closed: end the text with the same quote on this line"
    if message.startswith(("Unescaped '\\'", "Invalid hex value")):
        return r"a backslash in double quotes starts an escape: write \\, or use single quotes"
    return None


def _table_twice(header: str) -> str:
    name = header.strip("[]").strip()
    if name == "watch":
        return "[watch] and [[watch]] exclude each other: write [[watch]] above each watch"
    if name.startswith("watch."):
        return f"[{name}] is set twice for one watch: start each watch with a line [[watch]]"
    return f"[{name}] is set twice: move its keys below one heading"


def _value_advice(key: str, value: str) -> str:
    if not value:
        return f"{key} has no value: write one after the '='"
    if value in _WORDS:
        return f"{value} is not a value: write {key} = {_WORDS[value]}"
    if re.match(r"[A-Za-z0-9/{~.]", value) and '"' not in value:
        return f'{value} is not a value: write a text in quotes, as in {key} = "{value}"'
    return f"{value} is not a value (a text needs quotes, a list brackets)"
