"""The body of a notification, and its signature.

>>> signature(b"{}", "secret", at=1640995200)[:23]
't=1640995200,v1=886ce92'
"""

import hmac

from orjson import dumps

from netra_trio.stores.notifications import Notification


def body_of(notification: Notification) -> bytes:
    """Return a notification as JSON, without the fields that it does not have."""
    fields = {
        "id": notification.id,
        "type": notification.type,
        "user_id": notification.user_id,
        "thread_id": notification.thread_id,
        "run_id": notification.run_id,
        "status": notification.status,
        "question_id": notification.question_id,
    }
    return dumps({name: value for name, value in fields.items() if value is not None})


def signature(body: bytes, secret: str, *, at: int) -> str:
    """Return the value of the header `Netra-Signature`.

    Args:
        body: The body of the request.
        secret: The key.
        at: When it is signed, in Unix seconds: a receiver refuses old requests.
    """
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
    return f"t={at},v1={digest}"
