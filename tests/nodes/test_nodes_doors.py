"""Two real nodes: the events door with every request at the other node than the one before."""

from pathlib import Path

from support.curl import CurlPolls, CurlStream, post, say
from support.nodes import ANSWER, Nodes
from support.server import Frame


def test_requests_of_one_session_reach_both_nodes(
    tmp_path: Path, valkey_url: str, database_url: str
) -> None:
    settings = {"REDIS_URL": valkey_url, "DATABASE_URL": database_url, "DOORS": "events"}
    with Nodes(tmp_path, 2, None, **settings) as nodes:
        addresses = [nodes.server(number).address for number in (0, 1)]
        _stream(addresses)
        _poll(addresses)


def _stream(addresses: list[str]) -> None:
    with CurlStream(addresses[0]) as stream:
        say(addresses[1], stream.session_id, "count")
        frames = stream.until("partial_result")
    number = 0
    while frames[-1]["type"] != "agent_completed":
        number += 1
        at, other = addresses[number % 2], addresses[(number + 1) % 2]
        with CurlStream(at, session_id=stream.session_id, last=stream.last) as stream:
            assert stream.hello["payload"]["resume"]["verdict"] == "exact"
            frames.append(stream.frame())  # the next event of the run, which stays at its node
            assert post(other, stream.session_id, {"type": "ping"}) == 202
            frames += stream.until("pong")[:-1]
    _check(frames)


def _poll(addresses: list[str]) -> None:
    polls = CurlPolls(addresses, "bob")
    frames = polls.poll()
    say(addresses[1], polls.session_id, "count", user="bob")
    while frames[-1]["type"] != "agent_completed":
        found = polls.poll()
        frames = [*frames, *found]
    _check(frames[1:])
    assert polls.verdicts == ["new"]  # the other node passes the polls on


def _check(frames: list[Frame]) -> None:
    """Check that each event of a run came once, and in order."""
    after = 0
    for frame in frames:
        assert frame.get("seq_from", frame["seq"]) == after + 1
        after = frame["seq"]
    deltas = [frame["payload"] for frame in frames if frame["type"] == "partial_result"]
    assert "".join(delta["content"] for delta in deltas) == ANSWER
