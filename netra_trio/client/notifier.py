"""A notification from one task to another.

notifier.notify()       # by any task, without waiting
await notifier.wait()   # by the one task that acts on it
"""

import contextlib

import trio


class Notifier:
    """A memory channel that holds one notification: several in a row become one."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](1)

    def notify(self) -> None:
        """Notify; does nothing if a notification is pending."""
        with contextlib.suppress(trio.WouldBlock):
            self._send.send_nowait(None)

    def clear(self) -> None:
        """Discard a pending notification."""
        with contextlib.suppress(trio.WouldBlock):
            self._receive.receive_nowait()

    async def wait(self) -> None:
        """Wait for a notification, and take it. Cancelling is safe."""
        await self._receive.receive()
