"""The program, the commands and the tables of docs/cluster.md, for tests that run them as documented."""

import re
import socket
import subprocess
from pathlib import Path

import pytest

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs/cluster.md").read_text(encoding="utf-8")
TLS_DIRECTORY = "/etc/temwatch/cluster"
LOGS = "/shared/temwatch/cluster-logs"
PYTHON = "/opt/temwatch/bin/python"
ADDRESS = "scheduler.facility:8786"


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, in the order of the document."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def block_with(language: str, text: str) -> str:
    """Return the only code block of a language that contains a text."""
    (found,) = [block for block in blocks(language) if text in block]
    return found


def make_certificates(directory: Path) -> Path:
    """Run the document's commands for certificates; return the directory that they make."""
    try:
        command = ["sh", "-ec", block_with("sh", "openssl")]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        if error.returncode == 127:
            pytest.skip("openssl is not installed")
        raise
    return directory / "cluster-tls"


def table_under(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without the header row."""
    section = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def for_lsf(program: str) -> str:
    """Return the program with the arguments that the document's table gives for LSF."""
    program, added = program.replace("SLURMCluster", "LSFCluster"), ""
    rows = table_under("How do I run it with LSF?")
    for cells in rows:
        slurm, lsf = ([word for word in re.findall("`([^`]+)`", cell) if re.match(r"\w+=", word)] for cell in cells)
        for argument in slurm:
            assert f"{argument},\n" in program, argument
            program = program.replace(argument, lsf.pop(0))
        added += "".join(f"        {argument},\n" for argument in lsf)
    (lists,) = ([re.findall("`([^`]+)`", cell)[0] for cell in cells] for cells in rows if "LIST" in cells[0])
    assert lists[0] in program, lists
    return program.replace(*lists).replace("        protocol=", f"{added}        protocol=")


def write_program(
    directory: Path, tls: Path, *, jobs: int = 1, python: str = PYTHON, pause_s: int = 60, is_for_lsf: bool = False
) -> tuple[Path, str]:
    """Write the document's program for a scheduler on this machine; return its path and the scheduler's address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    text = block_with("python", "SLURMCluster")
    for documented, used in (
        ("scheduler.facility", "127.0.0.1"),
        (":8786", f":{port}"),
        (f'"{TLS_DIRECTORY}"', f'"{tls}"'),
        (LOGS, str(directory / "logs")),
        ("JOBS = 32", f"JOBS = {jobs}"),
        ("time.sleep(60)", f"time.sleep({pause_s})"),
        (PYTHON, python),
    ):
        assert documented in text, documented
        text = text.replace(documented, used)
    program = directory / "cluster.py"
    program.write_text(for_lsf(text) if is_for_lsf else text)
    return program, f"127.0.0.1:{port}"
