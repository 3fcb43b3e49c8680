"""Reading files of secrets that settings name. A file that other users can read or change is refused."""

from pathlib import Path

from handlers.errors import SettingsFault
from handlers.file_status import FileStatus
from handlers.regular_file import NotRegular, read_regular

MAX_BYTES = 2**20


def read_named(path: Path, setting: str) -> tuple[bytes, FileStatus]:
    """Return the content and the status of a small file. Raises SettingsFault, whose subject is the setting."""
    try:
        content, status = read_regular(path, MAX_BYTES + 1)
    except NotRegular as error:
        raise SettingsFault(setting, str(error)) from None
    except OSError as error:
        raise SettingsFault(setting, f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise SettingsFault(setting, f"{path} is longer than {MAX_BYTES} bytes")
    return content, status


def read_secret(path: Path, setting: str) -> str:
    """Return the text of a file that only its owner and its group can read, and only its owner can write.

    Raises
    ------
    SettingsFault
        If the file cannot be read, is open to other users, or is not UTF-8. The fault's text shows no content.
    """
    content, status = read_named(path, setting)
    if status.st_mode & 0o027:
        raise SettingsFault(setting, f"{path} is open to other users", f"chmod 0640 {path}")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SettingsFault(setting, f"{path} is not UTF-8 text") from None


def read_secret_line(path: Path, setting: str, what: str) -> str:
    """Return the only line of a secret file, without the line break at its end.

    Parameters
    ----------
    what : the content, for faults, as in "password".

    Raises
    ------
    SettingsFault
        As `read_secret`, and if the file is empty or holds several lines or unprintable characters.
    """
    text = read_secret(path, setting)
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or not line.isprintable():
        found = "is empty" if not line else "holds more than one line of printable characters"
        raise SettingsFault(setting, f"{path} {found}", f"write the {what} there, on one line")
    return line
