"""Files that hooks name: programs and secrets."""

import base64
import binascii
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from daemon.config.hook_settings import HookSettings
from handlers.errors import SettingsFault
from handlers.secret_file import read_secret_line
from handlers.text import printable

SECRET_PREFIX = "whsec_"  # noqa: S105  the mark of Standard Webhooks before a secret
_MIN_SECRET_BYTES = 16


def hook_problems(hooks: Iterable[HookSettings]) -> Iterator[str]:
    """Yield one line for each file that a hook names and that cannot be used."""
    for index, hook in enumerate(hooks):
        if hook.command and not os.access(hook.command[0], os.X_OK):
            yield f"hook[{index}].command: {printable(hook.command[0])} does not exist, or this user cannot run it"
        if hook.secret_file is not None:
            try:
                read_hook_secret(hook.secret_file, f"hook[{index}].secret_file")
            except SettingsFault as fault:
                yield str(fault)


def read_hook_secret(path: Path, key: str) -> bytes:
    """Return the secret that signs a hook's requests, decoded.

    Raises
    ------
    SettingsFault
        If the file cannot be read, is readable by other users, or does not contain at least 16 bytes in base64.
        The text shows no part of the secret.
    """
    text = read_secret_line(path, key, "secret")
    try:
        secret = base64.b64decode(text.strip().removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) < _MIN_SECRET_BYTES:
        hint = "write one line there, for example by: openssl rand -base64 32"
        raise SettingsFault(
            key, f"{path} does not contain a secret of at least {_MIN_SECRET_BYTES} bytes in base64", hint
        )
    return secret
