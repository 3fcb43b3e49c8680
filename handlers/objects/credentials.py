"""Reading keys for S3 from a credentials file, by the rules of the AWS programs."""

import configparser
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handlers.errors import SettingsFault, StoreFault
from handlers.place import StoreAccess
from handlers.secret_file import read_secret

KEPT_S = 60.0
"""Time after which the file is read again, since the keys may be replaced at any time."""

Keys = dict[str, object]
_HINT = "check mipmaps.store.credentials_file, or ~/.aws/credentials"


def from_file(access: StoreAccess) -> Callable[[], Keys] | None:
    """Return a function that reads the keys of a profile; None if they come from the environment or the machine's role.

    A configured file or profile takes precedence over the environment, and the environment over the usual file.
    """
    path = access.credentials_file or _usual_file()
    is_configured = bool(access.credentials_file or access.profile)
    if not is_configured and ("AWS_ACCESS_KEY_ID" in os.environ or not path.is_file()):
        return None
    profile = access.profile or os.environ.get("AWS_PROFILE") or "default"
    if not is_configured and "AWS_PROFILE" not in os.environ and not _has_profile(path, profile):
        return None  # a file without the profile does not override the machine's role
    read = read_private if access.credentials_file else _text_of
    return lambda: _keys(_parsed(path, read(path)), path, profile)


def read_private(path: Path) -> str:
    """Return the text of the configured file. Raises StoreFault if it cannot be read, or other users can read it."""
    try:
        return read_secret(path, "mipmaps.store.credentials_file")
    except SettingsFault as fault:
        raise StoreFault(fault.subject, fault.problem, fault.hint or _HINT) from None


def _usual_file() -> Path:
    """Return the path; a `~` remains in it for a user without a home directory, such as some containers have."""
    return Path(os.path.expanduser(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"))  # noqa: PTH111  Path's raises


def _has_profile(path: Path, profile: str) -> bool:
    return _parsed(path, _text_of(path)).has_section(profile)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise StoreFault(str(path), f"the credentials cannot be read: {problem}", _HINT) from error


def _parsed(path: Path, text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text, str(path))
    except configparser.Error:  # its message may contain a key
        raise StoreFault(str(path), "is not a valid INI file", _HINT) from None
    return parser


def _keys(parser: configparser.RawConfigParser, path: Path, profile: str) -> Keys:
    if not parser.has_section(profile):
        raise StoreFault(str(path), f"has no profile [{profile}]", "check mipmaps.store.profile, or AWS_PROFILE")
    section = parser[profile]
    try:
        keys: Keys = {
            "access_key_id": section["aws_access_key_id"].strip(),
            "secret_access_key": section["aws_secret_access_key"].strip(),
        }
    except KeyError as error:
        problem = f"profile [{profile}] lacks {error.args[0]}"
        raise StoreFault(
            str(path), problem, "add it: temwatch reads keys only, not credential_process or SSO"
        ) from None
    token = section.get("aws_session_token", "").strip()
    return {**keys, "token": token or None, "expires_at": datetime.now(UTC) + timedelta(seconds=KEPT_S + 300)}
