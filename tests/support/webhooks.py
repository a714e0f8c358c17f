"""A webhook without a network: its requests, and scripted answers, in virtual time.

webhook = ScriptedWebhook()
webhook.script = ["status 500", None]       # the first attempt fails; None: it is accepted
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import trio

from netra_trio.stores.notifications import Notification
from netra_trio.webhook.endpoint import NotDelivered


class ScriptedWebhook:
    """Replaces `Endpoint`.

    Attributes:
        script: The results of the next attempts: None, or why one fails.
        default: The result of all others.
        attempts: The notifications of all attempts, each with its time.
        accepted: Those that were accepted.
        seconds: The time of an attempt.
        running: How many attempts there are now.
        most: How many there were at once.
    """

    def __init__(self) -> None:
        self.script: list[str | None] = []
        self.default: str | None = None
        self.attempts: list[tuple[float, Notification]] = []
        self.accepted: list[Notification] = []
        self.seconds = 0.0
        self.running = self.most = 0

    def __call__(self, *_: Any, **__: Any) -> Self:
        """Return itself, in place of the class."""
        return self

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Hold it open."""
        yield self

    async def send(self, notification: Notification) -> None:
        """Record an attempt."""
        self.attempts.append((trio.current_time(), notification))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.running -= 1
        reason = self.script.pop(0) if self.script else self.default
        if reason is not None:
            raise NotDelivered(reason)
        self.accepted.append(notification)

    @property
    def results(self) -> list[tuple[str, str]]:
        """The accepted notifications: type, and status or question."""
        return [(each.type, each.status or each.question_id or "") for each in self.accepted]
