"""Write the table and the plots of all results as Markdown, JSON and PNG; with --docs also to docs/performance.md."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import DISK_RESULTS, RESULTS, number

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURE = "performance.png"
_HEAD = ("target", "what", "measured", "on disk", "floor", "peer", "ratio", "asked", "met", "remarks")


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Return the results of the scripts, in order of their targets."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))]
    results = [each for each in found if isinstance(each, dict) and "rows" in each and "benchmark" in each]
    return sorted(
        results, key=lambda each: (min((row["target"] for row in each["rows"]), default=0), each["benchmark"])
    )


def table_md(results: Sequence[dict[str, Any]], on_disk: Sequence[dict[str, Any]] = ()) -> str:
    """Return the table, and a line about each script.

    Parameters
    ----------
    on_disk : results of scripts whose data were on a disk.
    """
    disk_rows = {row["what"]: row for result in on_disk for row in result["rows"]}
    lines = [f"| {' | '.join(_HEAD)} |", f"|{' --- |' * len(_HEAD)}"]
    lines += [
        f"| {' | '.join(_cells(row, disk_rows.get(row['what'])))} |" for result in results for row in result["rows"]
    ]
    return "\n".join([*lines, "", *_machine_lines([*results, *on_disk]), ""])


def _cells(row: dict[str, Any], on_disk: dict[str, Any] | None) -> Iterable[str]:
    unit = row["unit"]
    yield str(row["target"])
    yield row["what"]
    yield f"**{number(row['measured'])} {unit}**"
    yield "" if on_disk is None else _on_disk(on_disk)
    yield "" if row["floor"] is None else f"{number(row['floor'])} {unit} ({row['floor_is']})"
    yield "" if row["peer"] is None else f"{number(row['peer'])} {unit} ({row['peer_is']})"
    yield "" if row["ratio"] is None else f"{number(row['ratio'])} ({row['ratio_is']})"
    yield "" if row["limit"] is None else f"{'≤' if row['at_most'] else '≥'} {number(row['limit'])}"
    yield {None: "", True: "yes", False: "**no**"}[row["met"]]
    yield row["note"].replace("|", "\\|")


def _on_disk(row: dict[str, Any]) -> str:
    ratio = "" if row["ratio"] is None else f", {number(row['ratio'])}"
    return f"{number(row['measured'])} {row['unit']}{ratio}"


def _machine_lines(results: Sequence[dict[str, Any]]) -> Iterable[str]:
    if not results:
        return
    first = results[0]["machine"]
    yield (
        f"Machine: {first['processor']}, {first['cores']} cores, {first['memory_gib']} GiB, {first['system']}, Python"
        f" {first['python']}. For each script: the share of the cores that other programs used, and its seconds:"
    )
    yield ""
    for each in results:
        quick = ", quick" if each["quick"] else ""
        here = each["machine"]
        share = f"{100 * max(0.0, here['others_share']):.0f} %"
        yield f"- {each['benchmark']}: data on {here['data_on']}, others {share}, {each['seconds']:.0f} s{quick}"


def draw(results: Sequence[dict[str, Any]], directory: Path) -> Path | None:
    """Save each plot, and a picture of all plots, whose path is returned; None if matplotlib is not installed."""
    plots = [plot for result in results for plot in result["plots"]]
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot

    columns = 3
    rows = max(1, -(-len(plots) // columns))
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 3.4 * rows), squeeze=False, dpi=80)
    for axis in axes.flat[len(plots) :]:
        axis.set_visible(False)
    for axis, plot in zip(axes.flat, plots, strict=False):
        _draw(axis, plot)
        alone, own = pyplot.subplots(figsize=(6, 4), dpi=100, layout="tight")
        _draw(own, plot)
        alone.savefig(directory / f"{plot['name']}.png")
        pyplot.close(alone)
    figure.tight_layout()
    picture = directory / PICTURE
    figure.savefig(picture)
    return picture


def _draw(axis: Any, plot: dict[str, Any]) -> None:
    for label, points in plot["lines"].items():
        style = {"marker": "."} if len(points) < 60 else {"linewidth": 1.0}
        axis.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    axis.set(title=plot["title"], xlabel=plot["x_label"], ylabel=plot["y_label"])
    if plot["log_x"]:
        axis.set_xscale("log")
    if plot["log_y"]:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if len(plot["lines"]) > 1:
        axis.legend(fontsize="x-small")


def profile_md(results: Sequence[dict[str, Any]]) -> str:
    """Return a table of the functions in which the daemon and a worker spent their time under load."""
    profiles: dict[str, list[tuple[str, float]]] = next(
        (each["facts"]["profiles"] for each in results if each["facts"].get("profiles")), {}
    )
    lines = ["| process | share of its busy time | function |", "| --- | --- | --- |"]
    for name, functions in profiles.items():
        lines += [f"| {name} | {100 * share:.0f} % | `{function}` |" for function, share in functions if share >= 0.02]
    return "\n".join(lines) + "\n"


def put_between(text: str, name: str, content: str) -> str:
    """Return the text with new content between the marks of this name."""
    head, first, rest = text.partition(f"<!-- {name} -->\n")
    _, last, tail = rest.partition(f"<!-- end of {name} -->")
    if not (first and last):
        raise SystemExit(f"docs/performance.md has no marks for {name}")
    return f"{head}{first}{content}{last}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table; return 1 if there are no results."""
    parser = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="copy table, profile and picture into docs/")
    arguments = parser.parse_args(argv)
    results = read_results(arguments.results)
    if not results:
        print(f"{arguments.results}: no results (run make bench)", file=sys.stderr)
        return 1
    on_disk = read_results(arguments.results / DISK_RESULTS.name)
    table = table_md(results, on_disk)
    (arguments.results / "table.md").write_text(table, encoding="utf-8")
    rows = [
        {"benchmark": each["benchmark"], "machine": each["machine"], **row}
        for each in [*results, *on_disk]
        for row in each["rows"]
    ]
    (arguments.results / "table.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    picture = draw(results, arguments.results)
    if arguments.docs:
        page = DOCS / "performance.md"
        text = put_between(page.read_text(encoding="utf-8"), "table", table)
        page.write_text(put_between(text, "profile", profile_md(results)), encoding="utf-8")
        if picture is not None:
            (DOCS / "pictures" / PICTURE).write_bytes(picture.read_bytes())
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
