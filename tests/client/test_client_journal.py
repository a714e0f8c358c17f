"""The file of the outbox: what is not confirmed survives the client."""

from pathlib import Path

import orjson
import pytest
import trio
import trio.lowlevel
from support.scripted import ScriptedNetwork, opened

from netra_trio.client import OutboxUnusable
from netra_trio.client.journal import SPARE_BYTES, Journal
from netra_trio.client.outbox import Entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.jsonl"


def kept(path: Path) -> list[tuple[str, str]]:
    with Journal.open(path) as journal:
        return [(entry.key, entry.text) for entry in journal.entries]


def test_what_is_not_settled_is_there_again(path: Path) -> None:
    first, second = Entry("c-1", '{"é": 1}'), Entry("c-2", "two")
    with Journal.open(path) as journal:
        assert journal.entries == []
        journal.add(first)
        journal.add(second)
        journal.remove(first)
        journal.remove(first)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes().splitlines()) == 3
    assert kept(path) == [("c-2", "two")]
    assert len(path.read_bytes().splitlines()) == 1


def test_a_line_that_was_cut_off_was_not_sent(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.add(Entry("c-1", "one"))
        journal.add(Entry("c-2", "two"))
    path.write_bytes(path.read_bytes()[:-5])
    assert kept(path) == [("c-1", "one")]


@pytest.mark.parametrize("line", ["something else", "[]", '{"done": "c-9"}', '{"add": "c-1"}', "5"])
def test_what_is_no_outbox(path: Path, line: str) -> None:
    path.write_text(f"{line}\n")
    with pytest.raises(OutboxUnusable, match="line 1"):
        kept(path)
    assert path.read_text() == f"{line}\n"


def test_one_client_at_a_time(path: Path) -> None:
    with Journal.open(path), pytest.raises(OutboxUnusable, match="another client"):
        kept(path)
    assert kept(path) == []


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutboxUnusable, match="No such file"):
        kept(tmp_path / "nowhere" / "outbox")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutboxUnusable):
        kept(tmp_path / "folder")


def test_it_does_not_grow_for_ever(path: Path) -> None:
    with Journal.open(path) as journal:
        for number in range(150):
            entry = Entry(f"c-{number}", "x" * 10_000)
            journal.add(entry)
            journal.remove(entry)
            assert path.stat().st_size < SPARE_BYTES + 20_000
        journal.add(Entry("last", "x"))
    assert kept(path) == [("last", "x")]


async def test_what_was_written_stays_and_what_was_not_goes(path: Path) -> None:
    with trio.fail_after(30):
        async with opened(ScriptedNetwork(), outbox=path) as (client, peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, "one")
                await peer.expect("user_message")
                nursery.start_soon(client.send, "two")
                while client.stats.queued < 2:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert client.stats.queued == 1
    assert [orjson.loads(text)["payload"] for _, text in kept(path)] == [{"content": "one"}]


async def test_unconfirmed_messages_go_out_under_their_keys(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.add(Entry("c-1", '{"type":"user_message","correlation_id":"c-1"}'))
        journal.add(Entry("c-2", '{"type":"user_message","correlation_id":"c-2"}'))
    with trio.fail_after(30):
        async with opened(ScriptedNetwork(), outbox=path) as (client, peer):
            assert client.stats.queued == 2
            first = await peer.expect("user_message")
            assert first == {"type": "user_message", "correlation_id": "c-1"}
            peer.confirm(first, status="duplicate")
            second = await peer.expect("user_message")
            peer.error("AGENT_NOT_FOUND", second["correlation_id"])
            peer.complete()
            found = []
            async for event in client.events():
                found.append((event.type, event.correlation_id))
                if event.type == "agent_completed":
                    break
        assert found == [
            ("connected", None),
            ("message_confirmed", "c-1"),
            ("error", "c-2"),
            ("agent_completed", "c-1"),
        ]
    assert kept(path) == []
