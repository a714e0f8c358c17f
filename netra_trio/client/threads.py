"""The threads of the user: the result of `Client.threads`.

threads = client.threads()
page = await threads.list(query="invoice")
async for event in threads:
    print(event.payload["thread_id"], event.payload["change"])
"""

from typing import Any, Literal

import orjson

from netra_trio.client.event import Event
from netra_trio.client.feed import Events
from netra_trio.client.session import ClientSession
from netra_trio.protocol.fields import HISTORY_PAGE

Rating = Literal["up", "down"]

_NULL = orjson.Fragment(b"null")  # in a frame; fields that are None are left out


class Threads:
    """The threads of the user.

    Iterating over it returns a `thread_changed` for each change by any session of the user, from
    the call of `Client.threads` on; `gap` after a reconnection, because changes may be missing:
    list the threads again; and `lagged` if the iteration is too slow and events were dropped. The
    iteration ends with the block of the client, and raises when the client fails. One task at a
    time may iterate.

    Its methods raise `MessageRefused` if the server refuses, and `ClientError` if the client ends
    first. They repeat the request after a temporary error or a lost connection. Cancelling is safe;
    the request may have been sent.
    """

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._feed = session.new_room_feed()
        session.thread_changes.add(self._feed)

    def __aiter__(self) -> Events:
        return Events(self._feed)

    async def list(
        self, limit: int = HISTORY_PAGE, before: str | None = None, query: str | None = None
    ) -> dict[str, Any]:
        """Return a page of the threads, newest update first: `threads` and `has_more`.

        Each thread has `thread_id`, `room`, `title`, `created_at`, `updated_at` (Unix seconds),
        `runs_active`, `asks` and `unread`.

        Args:
            limit: The most threads to return, 1 to 100.
            before: A thread id: the page begins after it.
            query: A text of 1 to 200 characters: only threads with it in their title or a message.
        """
        payload = {"limit": limit, "before": before, "query": query}
        return (await self._session.ask("list_threads", payload)).payload

    async def rename(self, thread_id: str, title: str) -> Event:
        """Set the title of a thread, at most 200 characters; return its `thread_changed`."""
        return await self._session.ask("rename_thread", {"thread_id": thread_id, "title": title})

    async def mark_read(self, thread_id: str, message_id: str) -> Event:
        """Set the read mark of a thread to a message; return its `thread_changed`."""
        payload = {"thread_id": thread_id, "message_id": message_id}
        return await self._session.ask("mark_read", payload)

    async def delete(self, thread_id: str) -> Event:
        """Stop the runs of a thread, and delete it with its messages; return its `thread_changed`.

        If the connection is lost after the thread was deleted, the repeated request may be refused
        with THREAD_NOT_FOUND.
        """
        return await self._session.ask("delete_thread", {"thread_id": thread_id})

    async def feedback(
        self, message_id: str, rating: Rating | None, comment: str | None = None
    ) -> Event:
        """Rate an agent's message; return the `thread_changed` of its thread.

        Args:
            message_id: The message.
            rating: `up` or `down`; None removes it.
            comment: A text of at most 2 000 characters.
        """
        given = _NULL if rating is None else rating
        payload = {"message_id": message_id, "rating": given, "comment": comment}
        return await self._session.ask("feedback", payload)
