"""A client that watches a thread, and what it shows of the runs.

view = View()
await view.watch(client, "t")
await view.until(client, "agent_completed")
assert view.texts == {run_id: "hello"}
"""

from typing import Any

import trio
from attrs import define, field

from netra_trio.agents.run import Run
from support.frame_client import FrameClient

THREAD = "t"
WORDS = 8
WHOLE = "".join(f"{number} " for number in range(WORDS))  # what `count` emits

Frame = dict[str, Any]


async def count(run: Run) -> str:
    """Emit a word each second."""
    for number in range(WORDS):
        await run.emit(f"{number} ")
        await trio.sleep(1)
    return "counted"


async def burst(run: Run) -> None:
    """Emit as fast as possible."""
    for number in range(int(run.content)):
        await run.emit(f"{number} ")


async def steps(run: Run) -> None:
    """Have one event each second."""
    await run.think("hm")
    await trio.sleep(1)
    await run.emit("a😀 ")
    await trio.sleep(1)
    async with run.tool("add", one=1) as tool:
        await trio.sleep(1)
        await run.emit("b")
        await trio.sleep(1)
        tool.result = 2
    await trio.sleep(1)
    await run.think("hm")
    await trio.sleep(1)
    await run.emit("c")
    await trio.sleep(1)


async def say(client: FrameClient, content: str = "hello", **more: Any) -> None:
    """Send a message to the thread."""
    await client.say(content, thread_id=THREAD, **more)


@define(eq=False)
class View:
    """The view of one thread at a client, to which the received frames are applied.

    Attributes:
        place: The epoch and the offset of the newest event.
        texts: The text of each run.
        statuses: The status of each run.
        messages: The messages of users, by run.
        questions: The open questions of each run.
        events: The types of all events, in order.
        gaps: The gaps.
    """

    room: str = ""
    place: tuple[str, int] = ("", 0)
    texts: dict[str, str] = field(factory=dict)
    statuses: dict[str, str] = field(factory=dict)
    messages: dict[str, Any] = field(factory=dict)
    questions: dict[str, set[str]] = field(factory=dict)
    events: list[str] = field(factory=list)
    gaps: list[tuple[int, int]] = field(factory=list)

    async def watch(self, client: FrameClient, thread_id: str = THREAD, **more: Any) -> Frame:
        """Watch a thread; return the payload of the reply."""
        await client.send("watch_thread", {"thread_id": thread_id, **more}, "watch")
        return self.join((await client.until("room_joined"))[-1])

    async def again(self, client: FrameClient, **more: Any) -> Frame:
        """Watch it with the newest place."""
        epoch, offset = self.place
        return await self.watch(client, epoch=epoch, after=offset, **more)

    def join(self, frame: Frame) -> Frame:
        """Apply the reply."""
        assert frame["correlation_id"] == "watch"
        joined: Frame = frame["payload"]
        self.room, self.place = joined["room"], (joined["epoch"], joined["offset"])
        for run in joined["runs"]:
            run_id = run["run_id"]
            self.texts[run_id] = run["content"]
            self.statuses[run_id] = run["status"]
            self.questions[run_id] = {each["question_id"] for each in run["questions"]}
        return joined

    async def until(self, client: FrameClient, kind: str) -> list[Frame]:
        """Apply frames up to and including the next event of this type; return its frames."""
        frames: list[Frame] = []
        while not frames or frames[-1].get("event", {}).get("type") != kind:
            frames += [await self.next(client)]
        return frames

    async def next(self, client: FrameClient) -> Frame:
        """Apply the next frame of the room; return its payload."""
        frame = await client.next()
        while frame["type"] == "thread_changed":  # at any time
            frame = await client.next()
        return self.take(frame)

    def take(self, frame: Frame) -> Frame:
        """Apply a frame; return its payload."""
        payload: Frame = frame["payload"]
        assert payload.get("room") == self.room, frame
        if frame["type"] == "room_gap":
            self.gaps.append((payload["from"], payload["to"]))
            return payload
        assert frame["type"] == "room_event", frame
        assert "seq" not in frame
        epoch, offset = self.place
        if payload["epoch"] == epoch:
            first = payload.get("offset_from") or payload["offset"]
            assert first > offset
        self.place = (payload["epoch"], payload["offset"])
        self.apply(payload["event"])
        return payload

    def apply(self, event: Frame) -> None:
        """Apply an event."""
        kind, payload = event["type"], event["payload"]
        run_id = payload["run_id"]
        self.events.append(kind)
        if kind == "user_message":
            self.messages[run_id] = payload
            self.statuses[run_id] = "queued"
        elif kind == "agent_started":
            self.statuses[run_id] = "running"
            self.texts.setdefault(run_id, "")
        elif kind == "partial_result":
            self.texts[run_id] = self.texts.get(run_id, "") + payload["content"]
        elif kind == "agent_asking":
            self.questions.setdefault(run_id, set()).add(payload["question_id"])
        elif kind == "agent_answered":
            self.questions[run_id].remove(payload["question_id"])
        elif kind == "agent_completed":
            self.statuses[run_id] = payload["status"]

    async def rest(self, client: FrameClient, seconds: float = 10.0) -> None:
        """Apply the frames of the next seconds."""
        with trio.move_on_after(seconds):
            while True:
                await self.next(client)


async def text_of(client: FrameClient) -> str:
    """Return the text that the asking client gets, up to the end of its run."""
    frames = await client.until("agent_completed")
    return "".join(
        frame["payload"]["content"] for frame in frames if frame["type"] == "partial_result"
    )
