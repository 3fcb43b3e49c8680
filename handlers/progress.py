"""A progress bar on stderr or in a notebook."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]
"""Called with the number of units that are done, and the number of units known so far."""


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Show a progress bar if stderr is a terminal or this is a notebook; else show nothing.

    While the bar is shown, lines that are printed to `sys.stderr` appear above it.
    """
    if not (_is_terminal() or "IPython" in sys.modules):  # rich is imported only if it may be needed
        yield lambda done, known: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    in_notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    if not (in_notebook or (console.is_terminal and not console.is_jupyter)):
        yield lambda done, known: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    # In a notebook, a removed bar would leave an empty output.
    with Bar(*columns, console=console, transient=not in_notebook) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, known: bar.update(task, completed=done, total=known)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
