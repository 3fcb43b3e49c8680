"""The three import commands, run as processes by several scripts."""

import subprocess
import sys
from pathlib import Path

LEVELS, Z, WORKERS = range(1, 7), 1000.0, 2


def run_command(url: str, step: str, metafile: Path, directory: Path, stack: str) -> None:
    """Run the command of a step.

    Parameters
    ----------
    url : of the stand-in.
    step : "ingest" or "large", which are the same command, "apply", or the kind of mipmaps.
    directory : below which each kind of mipmaps has its own directory.
    stack : the raw stack.
    """
    address = url.removesuffix("/render-ws/v1").removeprefix("http://")
    host, _, port = address.partition(":")
    given = {"host": host, "port": port, "owner": "bench", "project": "ours"}
    render = [f"--render.{key}={value}" for key, value in given.items()]
    z, place = f"{Z:g}", directory / "temwatch" / step
    ingest = "generate_EM_tilespecs_from_metafile", f"--metafile={metafile}", f"--stack={stack}", f"--z_index={z}"
    mipmaps = (
        *("generate_mipmaps", f"--input_stack={stack}", f"--z={z}", f"--levels={len(LEVELS)}"),
        *(f"--pool_size={WORKERS}", f"--output_dir={place}"),
    )
    applied = f"--mipmap_dir={directory / 'temwatch' / 'mipmaps'}"
    arguments = {
        "ingest": ingest,
        "large": ingest,
        "mipmaps": (*mipmaps, "--method=block_reduce"),
        "apply": (
            *("apply_mipmaps_to_render", f"--input_stack={stack}", "--output_stack=mips", "--close_stack=true"),
            *(f"--z={z}", applied, f"--levels={len(LEVELS)}"),
        ),
        "NEAREST": (*mipmaps, "--method=PIL", "--PIL_filter=NEAREST"),
        "png": (*mipmaps, "--method=block_reduce", "--imgformat=png"),
    }
    command = [sys.executable, "-m", "daemon", arguments[step][0], *render, *arguments[step][1:]]
    subprocess.run(command, check=True, capture_output=True)
