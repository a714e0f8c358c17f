"""Both ends of a link between two nodes, without a broker.

near, far, post = pair()
post.keeps = True       # messages wait in `post.kept`
"""

from collections.abc import Callable
from typing import Any

import trio
from attrs import define, field

from netra_trio.cluster.link import Link
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId

NEAR, FAR = NodeId("near"), NodeId("far")

Message = tuple[dict[str, Any], bytes]


@define
class Post:
    """Delivers messages of both nodes at once, except those that a test keeps or loses.

    Attributes:
        keeps: Whether messages are kept in `kept` instead.
        is_down: Whether a message raises.
        is_hung: Whether a message waits for ever.
    """

    ends: dict[NodeId, Callable[[NodeId, dict[str, Any], bytes], None]] = field(factory=dict)
    kept: list[tuple[NodeId, Message]] = field(factory=list)
    keeps: bool = False
    is_down: bool = False
    is_hung: bool = False

    def of(self, sender: NodeId) -> Any:
        async def post(node: NodeId, kind: str, header: dict[str, Any], data: bytes) -> None:
            assert kind == "link"
            await trio.lowlevel.checkpoint()
            if self.is_hung:
                await trio.sleep_forever()
            if self.is_down:
                raise BrokerUnavailable("down")
            if self.keeps:
                self.kept.append((node, (header, data)))
            elif node in self.ends:
                self.ends[node](sender, header, data)

        return post


def pair() -> tuple[Link, Link, Post]:
    """Return both ends of a link."""
    post = Post()
    near, far = Link("id", FAR, post.of(NEAR)), Link("id", NEAR, post.of(FAR))
    post.ends = {
        NEAR: lambda _, header, data: near.deliver(header, data),
        FAR: lambda _, header, data: far.deliver(header, data),
    }
    return near, far, post
