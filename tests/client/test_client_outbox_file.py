"""The file of the outbox: unconfirmed messages survive the client."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import trio
import trio.lowlevel
from support.scripted import ScriptedNetwork, opened
from support.server import STARTING

from netra_trio.client import OutboxUnusable
from netra_trio.client.outbox import OutboxMessage
from netra_trio.client.outbox_file import SPARE_BYTES, OutboxFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.jsonl"


def kept(path: Path) -> list[tuple[str, str]]:
    with OutboxFile.open(path) as file:
        return [(message.key, message.text) for message in file.messages]


def test_unsettled_messages_are_read_again(path: Path) -> None:
    first, second = OutboxMessage("c-1", '{"é": 1}'), OutboxMessage("c-2", "two")
    with OutboxFile.open(path) as file:
        assert file.messages == []
        file.add(first)
        file.add(second)
        file.remove(first)
        file.remove(first)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes().splitlines()) == 3
    assert kept(path) == [("c-2", "two")]
    assert len(path.read_bytes().splitlines()) == 1


def test_an_incomplete_last_line_is_ignored(path: Path) -> None:
    with OutboxFile.open(path) as file:
        file.add(OutboxMessage("c-1", "one"))
        file.add(OutboxMessage("c-2", "two"))
    path.write_bytes(path.read_bytes()[:-5])
    assert kept(path) == [("c-1", "one")]


@pytest.mark.parametrize("line", ["something else", "[]", '{"done": "c-9"}', '{"add": "c-1"}', "5"])
def test_an_invalid_file_is_rejected_and_unchanged(path: Path, line: str) -> None:
    path.write_text(f"{line}\n")
    with pytest.raises(OutboxUnusable, match="line 1"):
        kept(path)
    assert path.read_text() == f"{line}\n"


def test_a_second_client_is_rejected(path: Path) -> None:
    with OutboxFile.open(path), pytest.raises(OutboxUnusable, match="another client"):
        kept(path)
    assert kept(path) == []


def test_an_unusable_path_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(OutboxUnusable, match="No such file"):
        kept(tmp_path / "nowhere" / "outbox")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutboxUnusable):
        kept(tmp_path / "folder")


FULL = """
import resource, sys
from pathlib import Path
from netra_trio.client import OutboxUnusable
from netra_trio.client.outbox import OutboxMessage
from netra_trio.client.outbox_file import OutboxFile

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with OutboxFile.open(Path(sys.argv[1])) as file:
    file.add(OutboxMessage("c-1", "x" * 600))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    for number in range(3):
        try:
            file.add(OutboxMessage("c-2", "y" * 600))
        except OutboxUnusable as error:
            assert "File too large" in str(error), error
        else:
            raise AssertionError("half of a message is on the disk")
    file.add(OutboxMessage("c-3", "z"))
"""


def test_a_message_that_does_not_fit_on_the_disk(path: Path) -> None:
    """The disk takes the first bytes of a line: the message is refused, the file stays valid."""
    subprocess.run([sys.executable, "-c", FULL, str(path)], check=True, timeout=STARTING)  # noqa: S603
    assert [key for key, _ in kept(path)] == ["c-1", "c-3"]


def test_the_file_is_emptied_when_everything_is_settled(path: Path) -> None:
    with OutboxFile.open(path) as file:
        for number in range(150):
            message = OutboxMessage(f"c-{number}", "x" * 10_000)
            file.add(message)
            file.remove(message)
            assert path.stat().st_size < SPARE_BYTES + 20_000
        file.add(OutboxMessage("last", "x"))
    assert kept(path) == [("last", "x")]


async def test_a_cancelled_message_stays_if_it_was_written(path: Path) -> None:
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


async def test_unconfirmed_messages_are_sent_under_their_keys(path: Path) -> None:
    with OutboxFile.open(path) as file:
        file.add(OutboxMessage("c-1", '{"type":"user_message","correlation_id":"c-1"}'))
        file.add(OutboxMessage("c-2", '{"type":"user_message","correlation_id":"c-2"}'))
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
