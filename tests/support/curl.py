"""curl as a client of the events door.

    with CurlStream(server.address, user="alice") as stream:
        assert post(server.address, stream.session_id, {"type": "ping"}, user="alice") == 202
        frames = stream.until("pong")

If curl is not installed, Debian's package is unpacked.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import pytest
from attrs import define, field

from support.debian import libraries, unpacked
from support.server import Frame, Output, sign

SKIPPED = {"thread_changed", "heartbeat"}  # frames that may come at any time


def _missing(what: str) -> NoReturn:
    pytest.fail(f"These tests need curl; there is no {what}")


@cache
def _program() -> tuple[str, dict[str, str]]:
    """Return the program and its environment."""
    own = shutil.which("curl")
    if own is not None:
        return own, {}
    folder = unpacked("curl", _missing)
    return str(folder / "usr/bin/curl"), {"LD_LIBRARY_PATH": ":".join(libraries(folder))}


def environ() -> dict[str, str]:
    """Return the environment of a script that runs curl."""
    program, more = _program()
    path = os.pathsep.join([str(Path(program).parent), os.environ["PATH"]])
    return {"PATH": path, "NO_PROXY": "*", **more}


def curl(*arguments: str) -> "subprocess.Popen[str]":
    """Start curl."""
    program, more = _program()
    return subprocess.Popen(  # noqa: S603 - a test's own command line
        [program, "--silent", "--show-error", "--no-buffer", "--noproxy", "*", *arguments],
        env={"PATH": os.environ["PATH"], **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def answered(*arguments: str) -> tuple[int, str]:
    """Run curl; return the status and the body of the answer."""
    with curl(*arguments, "--write-out", "\n%{http_code}") as process:
        text, _ = process.communicate()
    body, _, status = text.rpartition("\n")
    assert status.isdecimal(), text
    return int(status), body


def post(
    address: str, session_id: str, frame: Any, *, user: str = "alice", more: Sequence[str] = ()
) -> int:
    """Send a frame; return the status."""
    url = f"http://{address}/ws/messages?session_id={session_id}"
    headers = ["-H", f"Authorization: Bearer {sign(user)}", "-H", "Content-Type: application/json"]
    status, body = answered(*more, *headers, "--data-binary", json.dumps(frame), url)
    assert status != 202 or body == ""
    return status


def say(address: str, session_id: str, content: str, **options: Any) -> None:
    """Send a `user_message`."""
    frame = {"type": "user_message", "payload": {"content": content}}
    assert post(address, session_id, frame, **options) == 202


@define(eq=False)
class CurlStream:
    """A stream of frames, which curl prints.

    Args:
        address: The address of the server.
        user: The user.
        session_id: The session to resume.
        last: The id of the last event that the client has.
        more: More arguments of curl.

    Attributes:
        hello: The first frame.
        close: The data of the close event.
    """

    address: str
    user: str = "alice"
    session_id: str = ""
    last: int = 0
    more: Sequence[str] = ()
    hello: Frame = field(init=False)
    close: dict[str, Any] | None = field(init=False, default=None)
    _process: "subprocess.Popen[str]" = field(init=False)
    _output: Output = field(init=False)
    _taken: int = field(init=False, default=0)

    def __enter__(self) -> Self:
        url = f"http://{self.address}/ws/events"
        arguments = [*self.more, "-H", f"Authorization: Bearer {sign(self.user)}"]
        if self.session_id:
            url += f"?session_id={self.session_id}"
            arguments += ["-H", f"Last-Event-ID: {self.last}"]
        self._process = curl(*arguments, url)
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        self._output = Output(pipe)
        self.hello = self.frame()
        self.session_id = self.hello["payload"]["session_id"]
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Kill curl."""
        self._process.kill()
        self._process.wait()
        self._output.join()

    def frame(self) -> Frame:
        """Wait for the next frame."""
        while True:
            event = self._event()
            frame: Frame = json.loads(event["data"])
            assert "event" not in event, frame
            assert event.get("id") == (str(frame["seq"]) if "seq" in frame else None)
            self.last = frame.get("seq", self.last)
            if frame["type"] not in SKIPPED:
                return frame

    def until(self, kind: str) -> list[Frame]:
        """Return the frames up to and including the next one of this type."""
        frames = [self.frame()]
        while frames[-1]["type"] != kind:
            frames.append(self.frame())
        return frames

    def rest(self) -> list[Frame]:
        """Return the frames up to the close event, which the end of the answer follows."""
        frames = []
        while "event" not in (event := self._event()):
            frames.append(json.loads(event["data"]))
        assert event["event"] == "close"
        self.close = json.loads(event["data"])
        assert self._process.wait() == 0
        return [frame for frame in frames if frame["type"] not in SKIPPED]

    def _event(self) -> dict[str, str]:
        def look(lines: list[str]) -> list[str] | None:
            left = lines[self._taken :]
            return left[: left.index("")] if "" in left else None

        lines = self._output.wait_for(look)
        self._taken += len(lines) + 1
        pairs = [line.partition(": ") for line in lines]
        assert {name for name, _, _ in pairs} <= {"id", "data", "event"}, lines
        return {name: value for name, _, value in pairs}


@define(eq=False)
class CurlPolls:
    """Long-polls with curl.

    Args:
        addresses: The addresses of the servers, which are asked in turn.
        user: The user.
        more: More arguments of curl.

    Attributes:
        session_id: The session.
        last: The last number that the client has.
        verdicts: The verdicts of the openings.
        close: The close of the last answer.
    """

    addresses: Sequence[str]
    user: str = "alice"
    more: Sequence[str] = ()
    session_id: str = ""
    last: int = 0
    verdicts: list[str] = field(init=False, factory=list)
    close: dict[str, Any] | None = field(init=False, default=None)
    _polls: int = field(init=False, default=0)

    def arguments(self, query: str = "") -> list[str]:
        """Return the arguments of the next poll."""
        address = self.addresses[self._polls % len(self.addresses)]
        self._polls += 1
        if self.session_id:
            query += f"&session_id={self.session_id}&last_seq={self.last}"
        headers = ["-H", f"Authorization: Bearer {sign(self.user)}", "-H"]
        url = f"http://{address}/ws/events?{query}"
        return [*self.more, *headers, "Accept: application/json", url]

    def poll(self, query: str = "", *, is_lost: bool = False) -> list[Frame]:
        """Poll once; return the frames, none of a lost answer."""
        status, body = answered(*self.arguments(query))
        assert status == 200, body
        if is_lost:
            return []
        found = json.loads(body)
        for frame in found["frames"]:
            if frame["type"] == "connection_established":
                self.session_id = frame["payload"]["session_id"]
                self.last = frame["payload"]["resume"]["last_seq"]
                self.verdicts.append(frame["payload"]["resume"]["verdict"])
            self.last = frame.get("seq", self.last)
        self.close = found.get("close")
        return [frame for frame in found["frames"] if frame["type"] not in SKIPPED]

    def cut(self) -> None:
        """Begin a poll, and kill curl before or after its answer."""
        process = curl(*self.arguments())
        process.kill()
        process.communicate()
