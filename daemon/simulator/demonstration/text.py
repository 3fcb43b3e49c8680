"""Texts that the demonstration prints."""

import shlex
import shutil
import sys
from pathlib import Path

from handlers.text import z_text

KEPT = "its journal, mipmaps and pictures are kept"


def program() -> str:
    """Return the command that starts this temwatch in a shell."""
    own = Path(sys.argv[0])
    if own.name != "temwatch" or not own.exists():
        return f"{shlex.quote(sys.executable)} -m daemon"
    found = shutil.which("temwatch")
    if found and Path(found).resolve() == own.resolve():
        return "temwatch"
    return shlex.quote(str(own))


def purpose(section: int) -> str:
    """Return the announcement of the section whose metafile is written before its images."""
    return (
        f"the metafile of section {section} is written before its images on purpose:\n"
        "its montage makes no progress until the last image has arrived"
    )


def bad_tiles(section: int) -> str:
    """Return the announcement of the section with bad tiles."""
    return (
        f"section {section} has a blurred, a saturated, a repeated and a shifted tile on purpose:\n"
        "its quality verdict has to list these four"
    )


def folded(command: str, width: int) -> str:
    """Return a command as lines that can be pasted, broken before its options if it is longer than `width`.

    >>> folded("temwatch status --config c.toml", 20).splitlines()
    ['  temwatch status \\\\', '      --config c.toml']
    """
    line = f"  {command}"
    return line if len(line) <= width else line.replace(" --", " \\\n      --")


def next_steps(config: Path, output: Path, width: int, *, store: str = "directory") -> str:
    """Return the text at the end of the demonstration, with commands to continue."""
    more = f" --store {store}" if store != "directory" else ""
    commands = (
        f"{program()} status --config {shlex.quote(str(config))}",
        f"{program()} demo --keep{more} --output {shlex.quote(str(output))}",
    )
    kept = "its journal and pictures are kept, the store was in memory" if more else KEPT
    head = f"the daemon stops now; {kept}. Continue with"
    return "\n".join([head, *(folded(each, width) for each in commands)])


def while_it_runs(url: str, render_url: str, config: Path, picture: tuple[str, float] | None, width: int) -> str:
    """Return the text while everything runs, with commands for another terminal.

    Parameters
    ----------
    picture : stack and z to draw; None omits the command.
    """
    settings = f"--config {shlex.quote(str(config))}"
    lines = [
        f"{program()} status {settings}",
        f"{program()} verify {settings}",
        f"curl {url}/api/montages",
        f"curl {url}/readyz",
        f"curl {render_url}/owner/demo/stacks",
    ]
    if picture:
        stack, z = picture
        lines.insert(1, f"{program()} picture {stack} {z_text(z)} -o section.png {settings}")
    commands = "\n".join(folded(line, width) for line in lines)
    return f"the dashboard: {url}/\nrunning until Ctrl-C. In another terminal:\n{commands}"
