"""The links of a node: gives received messages to the link that they belong to."""

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from netra_trio.cluster.link import Link, Post
from netra_trio.ids import NodeId
from netra_trio.protocol.fields import JsonObject


class Links:
    """The open links of a node, at both ends.

    Args:
        post: Sends a message to a node.
        start_soon: Starts a task of the node.
    """

    def __init__(
        self, post: Post, start_soon: Callable[[Callable[[], Awaitable[object]]], object]
    ) -> None:
        self._post = post
        self._start_soon = start_soon
        self._links: dict[str, Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def open(self, peer: NodeId) -> Link:
        """Open a link to the owner of a session; `close` has to follow."""
        link = Link(secrets.token_urlsafe(12), peer, self._post)
        self._links[link.id] = link
        return link

    @contextmanager
    def accepted(self, link_id: str, peer: NodeId) -> Iterator[Link]:
        """Open this end of a link that another node has opened."""
        link = self._links[link_id] = Link(link_id, peer, self._post)
        try:
            yield link
        finally:
            self.close(link)

    def close(self, link: Link) -> None:
        """Close a link, and tell the other end."""
        if self._links.pop(link.id, None) is not None:
            link.break_off()
            if not link.peer_knows:
                self._tell(link)

    def deliver(self, sender: NodeId, header: JsonObject, data: bytes) -> None:
        """Give a message to its link."""
        link = self._links.get(header["link"])
        if link is not None and link.peer == sender:
            link.deliver(header, data)
        elif not Link.is_break(header):  # the other end does not know that it is closed
            self._tell(Link(header["link"], sender, self._post))

    def _tell(self, link: Link) -> None:
        with suppress(RuntimeError):  # the node has ended: the other one sees its lease go
            self._start_soon(link.tell_broken)

    def break_all(self, peer: NodeId) -> None:
        """Break the links to a node that is gone."""
        for link in self._links.values():
            if link.peer == peer:
                link.peer_knows = True
                link.break_off()
