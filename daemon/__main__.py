"""The `temwatch` command. Exit codes: 0 done, 1 the work failed, 2 bad usage or input."""

import atexit
import gc
import os
import sys

from daemon.commands.imports.command_names import IMPORT_COMMANDS


def main() -> None:
    """Run the command that the command line names."""
    _use_utf_8()
    _open_closed_streams()
    _make_collection_rare()
    # pydantic would read the metadata of every installed distribution in search of its plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if sys.argv[1:] and sys.argv[1] in IMPORT_COMMANDS:
        # A script calls these for each section. The group of all commands takes a sixth of their start to import.
        from daemon.commands.imports.start import run_alone

        run_alone(sys.argv[1], sys.argv[2:])
    from daemon.temwatch import temwatch

    temwatch()


def _use_utf_8() -> None:
    """Start again in Python's UTF-8 mode if the locale has another encoding, such as ISO-8859-1.

    Metafiles and the configuration name files in UTF-8. Encoded by the locale, "é" would name another file.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  our own command


def _open_closed_streams() -> None:
    """Replace closed standard streams, as in `temwatch run >&-`, by the null device.

    Otherwise the next file that is opened would be standard output or standard error, and get what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  open until the end


def _make_collection_rare() -> None:
    """Make garbage collection rare, and leave out the pass at the end of the process.

    Imports create hundreds of thousands of objects, and a section of 20,000 tiles a million. None is in a reference
    cycle, but with Python's default thresholds the passes take a third of a command's time.
    """
    gc.set_threshold(100_000, 50, 20)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    main()
