"""A waiting run that moves to another node, as JSON."""

from typing import Any
from unittest.mock import MagicMock

import orjson
import pytest
from attrs import evolve
from stores.samples import new

from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import RunSpec
from netra_trio.ids import FileId, MessageId, UserId
from netra_trio.node.host import SessionHost
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.stores.files import StoredFile

POSTED = tuple(
    HistoryMessage(MessageId(f"posted_{place}"), role, "text", 7.5)
    for place, role in enumerate(("user", "agent"))
)


def host(**agents: Any) -> SessionHost:
    return SessionHost(MagicMock(), MagicMock(), agents)


@pytest.mark.parametrize("history", [None, (), POSTED])
async def test_a_waiting_run_keeps_its_specification(
    history: tuple[HistoryMessage, ...] | None,
) -> None:
    spec = RunSpec(new("hello"), echo, frozenset({"may"}), None, 5.0, 1.0, history)
    dumped = orjson.loads(orjson.dumps(host().dump_run(spec)))
    loaded = host(echo=echo).load_run(dumped)
    assert loaded is not None
    assert (loaded.message, loaded.history) == (spec.message, history)
    assert (loaded.permissions, loaded.timeout) == (spec.permissions, spec.timeout)
    assert host().load_run(dumped) is None


async def test_a_run_of_an_earlier_version_has_the_history_of_its_thread() -> None:
    dumped = host().dump_run(RunSpec(new("hello"), echo, frozenset(), None, 5.0))
    del dumped["history"]
    loaded = host(echo=echo).load_run(dumped)
    assert loaded is not None
    assert loaded.history is None


async def test_a_waiting_run_keeps_its_files() -> None:
    file = StoredFile(FileId("file_1"), UserId("ann"), "a.txt", "text/plain", 5, "00", 7.5)
    message = evolve(new("hello"), attachments=(file.file_id,))
    spec = RunSpec(message, echo, frozenset(), None, 5.0, files=(file,))
    dumped = orjson.loads(orjson.dumps(host().dump_run(spec)))
    loaded = host(echo=echo).load_run(dumped)
    assert loaded is not None
    assert (loaded.message, loaded.files) == (message, (file,))


async def test_a_run_of_an_earlier_version_has_no_files() -> None:
    dumped = host().dump_run(RunSpec(new("hello"), echo, frozenset(), None, 5.0))
    del dumped["files"], dumped["message"]["attachments"]
    loaded = host(echo=echo).load_run(dumped)
    assert loaded is not None
    assert (loaded.message.attachments, loaded.files) == ((), ())
