"""Sign requests according to Standard Webhooks. Pure.

Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import base64
import hashlib
import hmac


def signature_headers(secret: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that authenticate a body and its time.

    Parameters
    ----------
    timestamp : seconds since 1970 UTC; the receiver refuses old ones, which prevents replayed requests.

    >>> signature_headers(b"secret of sixteen", "msg_1", 1614265330, b"{}")["webhook-signature"]
    'v1,cA7UXkcie6HEHmXzSIkoHGxOiN7dKhjrYR5bsoMlXbM='
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
