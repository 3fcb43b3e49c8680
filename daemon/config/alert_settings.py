"""The section [alerts]. Pure."""

import re

from pydantic import Field, field_validator

from daemon.config.errors import quoted
from daemon.config.section import OptionalPath, OptionalText, Section
from daemon.config.text import example
from handlers.uris import without_userinfo


class AlertSettings(Section):
    """Messages to people when something is wrong; docs/alerts.md lists them."""

    urls_file: OptionalPath = Field(None, **example(""))
    """File with apprise addresses, one on each line, as in "mailtos://user:password@example.org". They contain secrets:
    other users must not be able to read the file. Needs the extra "alerts". Empty: no messages."""
    repeat_s: float = Field(43_200, ge=600)
    """Seconds after which a message is repeated while its cause lasts."""
    daily_digest: OptionalText = Field("07:00", **example("07:00"))
    """Local time of the daily digest, as in "07:00". Empty: none."""
    heartbeat_url: OptionalText = Field(None, repr=False, **example(""))
    """Address that the daemon requests every minute while it is ready. A dead daemon sends no message, so a monitoring
    service at this address should alert people when the requests stop. Empty: none."""

    @field_validator("daily_digest")
    @classmethod
    def _digest_is_a_time(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError(f'{quoted(value)} is not a time of day such as "07:00"')
        return value

    @field_validator("heartbeat_url")
    @classmethod
    def _url_is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(
                f"{quoted(without_userinfo(value))} is not an address that begins with http:// or https://"
            )
        return value
