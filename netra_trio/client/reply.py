"""A reply that one task waits for and another one gives.

reply = Reply()
reply.settle("answer")
assert await reply.result() == "answer"
"""

from typing import Generic, TypeVar

import trio

from netra_trio.client.errors import ClientError

T = TypeVar("T")


class Reply(Generic[T]):
    """The outcome of a message or a request; it is settled once.

    Attributes:
        settled: Set when the outcome is known.
    """

    def __init__(self) -> None:
        self.settled = trio.Event()
        self._answer: T | None = None
        self._failure: ClientError | None = None

    def settle(self, answer: T | None = None, failure: ClientError | None = None) -> None:
        """Give the answer, or the error that is raised instead."""
        self._answer, self._failure = answer, failure
        self.settled.set()

    async def result(self) -> T | None:
        """Wait for the answer. Cancelling is safe.

        Raises:
            ClientError: There is no answer.
        """
        await self.settled.wait()
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        return self._answer
