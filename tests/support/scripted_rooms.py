"""The rooms of a scripted server.

desk = Desk(peer, "news")
await desk.join(offset=4)               # expects join_room, and answers it
desk.say(5, "hello")
"""

from typing import Any

from attrs import define

from support.scripted import Frame, Peer, wall_clock

THREAD_ROOM = "thread:0123456789abcdefghijkl"


@define(eq=False)
class Desk:
    """A room of a scripted server, on one connection."""

    peer: Peer
    room: str = "news"
    epoch: str = "e1"

    async def join(self, **answer: Any) -> Frame:
        """Expect a request to join or to watch, and answer it; return the request's payload."""
        kind = "watch_thread" if "runs" in answer else "join_room"
        request = await self.peer.expect(kind)
        self.joined(request, **answer)
        payload: Frame = request["payload"]
        return payload

    def joined(self, request: Frame, *, offset: int = 0, verdict: str = "new", **more: Any) -> None:
        """Answer a request to join."""
        place = {"room": self.room, "epoch": self.epoch, "offset": offset}
        payload = {**place, "verdict": verdict, "replayed": 0, **more}
        self.peer.control("room_joined", payload, request["correlation_id"])

    def event(self, offset: int, kind: str, payload: Frame, **more: Any) -> None:
        """Send an event of the room."""
        frame = {
            "room": self.room,
            "offset": offset,
            "epoch": self.epoch,
            "event": {"type": kind, "payload": payload},
            "timestamp": wall_clock(),
            **more,
        }
        self.peer.control("room_event", frame)

    def say(self, offset: int, content: Any, user: str = "bob") -> None:
        """Send a message of a user."""
        self.event(offset, "room_message", {"user_id": user, "content": content})

    def delta(self, offset: int, content: str, run_id: str = "run_9", **more: Any) -> None:
        """Send a piece of an answer."""
        self.event(offset, "partial_result", {"run_id": run_id, "content": content}, **more)

    def gap(self, first: int, last: int) -> None:
        """Say that events are lost."""
        self.peer.control("room_gap", {"room": self.room, "from": first, "to": last})

    async def join_once(self, answer: Frame) -> None:
        """Expect a request to join, and answer it."""
        await self.join(**answer)

    async def leave(self) -> Frame:
        """Expect a request to leave, and answer it; return its payload."""
        while (request := await self.peer.next())["type"] == "ack":
            pass
        assert request["type"] in {"leave_room", "unwatch_thread"}, request
        self.peer.control("room_left", {"room": self.room}, request["correlation_id"])
        payload: Frame = request["payload"]
        return payload


def user_message(run_id: str = "run_9", **more: Any) -> Frame:
    """Return the payload of a `user_message` of a room."""
    said = {"message_id": "msg_9", "run_id": run_id, "user_id": "alice", "content": "hi"}
    return {**said, **more}


def run_state(content: str = "", run_id: str = "run_9", **more: Any) -> Frame:
    """Return a run as `room_joined` lists it."""
    return {
        "run_id": run_id,
        "message_id": "msg_9",
        "agent_name": "echo",
        "status": "running",
        "content": content,
        "questions": [],
        **more,
    }
