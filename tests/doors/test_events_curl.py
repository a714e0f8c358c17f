"""The events door over real sockets, with curl: streams and polls that are cut, and their ends."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.curl import CurlPolls, CurlStream, answered, environ, post, say
from support.markdown import ROOT, blocks
from support.server import SOON, Frame, Server, serving, sign, stock_serving, write_agents

pytestmark = pytest.mark.unmeasured

PAGE = ROOT / "docs" / "doors-events.md"
TOKENS = 24
ANSWER = "".join(f"{number} " for number in range(TOKENS))
SOURCE = f"""
import trio

async def count(run):
    for number in range({TOKENS}):
        await run.emit(f"{{number}} ")
        await trio.sleep(0.01)

async def flood(run):
    for _ in range(200):
        await run.emit("x" * 10_000)

async def wait(run):
    await run.emit("begun")
    await trio.sleep_forever()
"""
AGENTS = [f"--agent=outside_agents:{name}" for name in ("count", "flood", "wait")]
STOCK = """
from netra_trio import create_app
import outside_agents

app = create_app(agents={"count": outside_agents.count, "wait": outside_agents.wait})
"""
HTTP2 = "--http2-prior-knowledge"


def check_answer(frames: list[Frame]) -> None:
    """Check that each event of a run came once, and in order."""
    numbered = [frame for frame in frames if "seq" in frame]
    after = 0
    for frame in numbered:
        assert frame.get("seq_from", frame["seq"]) == after + 1
        after = frame["seq"]
    assert numbered[-1]["type"] == "agent_completed"
    assert numbered[-1]["payload"]["status"] == "completed"
    deltas = [frame["payload"] for frame in numbered if frame["type"] == "partial_result"]
    assert "".join(delta["content"] for delta in deltas) == ANSWER


@contextmanager
def _serving(folder: Path, **settings: str) -> Iterator[Server]:
    write_agents(folder, SOURCE)
    with serving(folder, *AGENTS, DOORS="events", **settings) as running:
        yield running


@contextmanager
def _stock_serving(folder: Path, **settings: str) -> Iterator[Server]:
    write_agents(folder, SOURCE)
    (folder / "outside_app.py").write_text(STOCK)
    with stock_serving(folder, app="outside_app:app", DOORS="events", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _serving(tmp_path_factory.mktemp("server"), WEBSOCKET_SEND_TIMEOUT="500") as running:
        yield running


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _stock_serving(tmp_path_factory.mktemp("stock")) as running:
        yield running


@pytest.fixture(params=["server", "stock"])
def served(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(("each", "more"), [(1, []), (5, []), (2, [HTTP2])])
def test_a_stream_that_is_cut_after_every_nth_event(
    served: Server, each: int, more: list[str]
) -> None:
    server, user = served, f"stream-{each}"
    frames: list[Frame] = []
    with CurlStream(server.address, user, more=more) as stream:
        say(server.address, stream.session_id, "count", user=user, more=more)
        frames += [stream.frame() for _ in range(each)]
    while frames[-1]["type"] != "agent_completed":
        session_id, last = stream.session_id, stream.last
        with CurlStream(server.address, user, session_id, last, more) as stream:
            assert stream.hello["payload"]["resume"]["verdict"] == "exact"
            for _ in range(each):
                frames.append(stream.frame())
                if frames[-1]["type"] == "agent_completed":
                    break
    check_answer(frames)


@pytest.mark.parametrize("more", [[], [HTTP2]])
def test_polls_with_lost_answers_and_cuts(served: Server, more: list[str]) -> None:
    server, user = served, f"polls-{len(more)}"
    polls = CurlPolls([server.address], user, more)
    frames = polls.poll()
    say(server.address, polls.session_id, "count", user=user, more=more)
    number = 0
    while frames[-1]["type"] != "agent_completed":
        number += 1
        if number % 3 == 0:
            polls.cut()
        else:
            frames += polls.poll("wait=5", is_lost=number % 3 == 1)
    check_answer(frames)
    assert set(polls.verdicts) == {"new", "exact"}


def test_a_drain_ends_streams_and_polls(tmp_path: Path) -> None:
    with _serving(tmp_path, WEBSOCKET_DRAIN_TIMEOUT="1000") as server:
        polls = CurlPolls([server.address], "bob")
        polls.poll()
        with CurlStream(server.address) as stream:
            _begin_to_drain(server, stream)
            frames = polls.poll()
            while polls.close is None:
                frames += polls.poll()
            assert "server_draining" in {frame["type"] for frame in frames}
            assert polls.close == {"code": 1012, "reason": "drained"}
            _check_drained(server, stream)


def test_a_drain_of_the_stock_host_ends_streams(tmp_path: Path) -> None:
    with (
        _stock_serving(tmp_path, WEBSOCKET_DRAIN_TIMEOUT="1000") as server,
        CurlStream(server.address) as stream,
        CurlStream(server.address, "bob", more=[HTTP2]) as other,
    ):
        _begin_to_drain(server, stream)
        assert {frame["type"] for frame in other.rest()} == {"server_draining"}
        _check_drained(server, stream)


def _begin_to_drain(server: Server, stream: CurlStream) -> None:
    frame = {"type": "agent_request", "payload": {"agent": "wait", "input": "go"}}
    assert post(server.address, stream.session_id, frame) == 202
    stream.until("partial_result")
    server.process.send_signal(signal.SIGTERM)


def _check_drained(server: Server, stream: CurlStream) -> None:
    assert {frame["type"] for frame in stream.rest()} == {"server_draining", "agent_completed"}
    assert stream.close == {"code": 1012, "reason": "drained"}
    assert server.process.wait() == 0


def test_a_client_that_takes_nothing_can_resume(server: Server) -> None:
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = server.address.rpartition(":")
        stalled.connect((host, int(port)))
        request = [
            "GET /ws/events HTTP/1.1",
            f"Host: {server.address}",
            f"Authorization: Bearer {sign('stalled')}",
            "\r\n",
        ]
        stalled.sendall("\r\n".join(request).encode())
        text = ""
        while '"session_id":"' not in text:
            text += stalled.recv(4096).decode()
        session_id = text.partition('"session_id":"')[2].partition('"')[0]
        frame = {"type": "agent_request", "payload": {"agent": "flood", "input": "go"}}
        assert post(server.address, session_id, frame, user="stalled") == 202
        server.process.wait_log("connection_ended", user_id="stalled")
        with CurlStream(server.address, "stalled", session_id) as stream:
            assert stream.hello["payload"]["resume"]["verdict"] == "exact"
            size, kind = 0, ""
            while kind != "agent_completed":
                got = stream.frame()
                kind, payload = got["type"], got["payload"]
                size += len(payload["content"]) if kind == "partial_result" else 0
                ack = {"type": "ack", "payload": {"seq": stream.last}}
                assert post(server.address, session_id, ack, user="stalled") == 202
    assert size == 200 * 10_000


def test_refusals(server: Server) -> None:
    url = f"http://{server.address}/ws/events"
    token = ["-H", f"Authorization: Bearer {sign()}"]
    for status, arguments in (
        (401, [url]),
        (400, [*token, "-H", "Last-Event-ID: 1", url]),
        (403, [*token, "-H", "Origin: https://evil.example", url]),
        (405, [*token, "-X", "DELETE", url]),
        (200, [*token, "--head", url]),
        (204, ["-X", "OPTIONS", url]),
    ):
        assert answered(*arguments)[0] == status
    assert post(server.address, "sess_none", {"type": "ping"}) == 404


def test_the_configuration_names_the_door(server: Server) -> None:
    doors: dict[str, Any] = server.http("GET", "/ws/config").json()["websocket_config"]["doors"]
    assert doors == {"events": {"stream": "/ws/events", "messages": "/ws/messages"}}


def test_the_example_of_the_page(server: Server, tmp_path: Path) -> None:
    script = "\n".join(block.text for block in blocks("sh") if block.page == PAGE)
    done = subprocess.run(  # noqa: S603 - the project's own documentation
        ["/bin/sh", "-euc", script],
        cwd=tmp_path,
        env={**environ(), "SERVER": f"http://{server.address}", "TOKEN": sign("page")},
        timeout=SOON,
        check=False,
    )
    assert done.returncode == 0
    stream = (tmp_path / "events.txt").read_text()
    assert "id: 1\ndata: " in stream
    assert '"type":"agent_completed"' in stream
    frames = json.loads((tmp_path / "poll.json").read_text())["frames"]
    assert frames[0]["payload"]["resume"]["verdict"] == "exact"
    numbers = [frame.get("seq_from", frame["seq"]) for frame in frames[1:]]
    assert numbers[0] == 2
    assert frames[-1]["type"] == "agent_completed"
