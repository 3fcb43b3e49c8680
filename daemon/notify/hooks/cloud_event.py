"""Events as CloudEvents 1.0 in JSON (structured mode), and their JSON Schema. Pure.

Source: https://github.com/cloudevents/spec, spec.md, json-format.md and extensions/sequence.md, version 1.0.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from daemon.montages.announcements import Announced, Kind, MontageData, StackData, utc_text

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event of temwatch as a CloudEvent 1.0."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"use_attribute_docstrings": True}

    specversion: Literal["1.0"]
    id: str
    """Id of the event: the same in each delivery, unique over all events."""
    source: str
    """The sending temwatch: the name of its machine, as in "//acquisition1/temwatch"."""
    type: Kind
    """Type of the event."""
    subject: str
    """The montage or stack: "montages/17", "stacks/em/v1/s_raw". Events of one subject are delivered in order."""
    time: str
    """When the event was recorded; RFC 3339, UTC."""
    sequence: str
    """Number of the event in the journal, with leading zeros. Ascends in the order of recording."""
    datacontenttype: Literal["application/json"]
    data: MontageData | StackData
    """`MontageData` for the types montage.*, `StackData` for the types stack.*."""


def cloud_event_json(event: Announced, host: str) -> dict[str, Any]:
    """Return the JSON values of an event."""
    return {
        "specversion": "1.0",
        "id": event.event_id,
        "source": f"//{host}/temwatch",
        "type": str(event.kind),
        "subject": event.subject,
        "time": utc_text(event.at),
        "sequence": f"{event.number:020d}",
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }


def cloud_event_body(event: Announced, host: str) -> bytes:
    """Return the delivered body: the same bytes in each attempt."""
    return json.dumps(cloud_event_json(event, host), ensure_ascii=True).encode()


def event_for_test(event_id: str, at: float, host: str) -> bytes:
    """Return the body of the test event of `temwatch notify test`. Its data are empty.

    Parameters
    ----------
    at : seconds since 1970 UTC.
    """
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"//{host}/temwatch",
        "type": "test",
        "subject": "test",
        "time": utc_text(at),
        "datacontenttype": "application/json",
        "data": {},
    }
    return json.dumps(event).encode()


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema of a delivered event."""
    schema = TypeAdapter(CloudEvent).json_schema(schema_generator=_WithoutTitles)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _WithoutTitles(GenerateJsonSchema):
    """Omits the titles of fields, which repeat their names, and joins the lines of descriptions."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate(self, schema: Any, mode: Any = "validation") -> Any:
        return _joined(super().generate(schema, mode))


def _joined(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: " ".join(each.split()) if key == "description" and isinstance(each, str) else _joined(each)
            for key, each in value.items()
        }
    return [_joined(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.stdout.write(json.dumps(event_schema(), indent=2) + "\n")
