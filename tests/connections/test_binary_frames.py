"""Binary frames of events: with their data for `netra.v2`, references for all others."""

import orjson
import pytest
import trio
from attrs import define, field
from support.memory import open_server
from trio.testing import MockClock

from netra_trio.connections.binary_data import DATA_SECONDS, add_data
from netra_trio.connections.writer import WRITE_BYTES
from netra_trio.errors import ContentMissing, StorageUnavailable
from netra_trio.ids import CorrelationId, FileId, RunId
from netra_trio.protocol.binary import (
    EVENT_DATA_BYTES,
    BinaryEvent,
    BinaryFrame,
    join_binary,
    split_binary,
)
from netra_trio.protocol.codec import Encoded, encode_event
from netra_trio.protocol.compact import CompactEncoder
from netra_trio.protocol.messages import BinaryResult
from netra_trio.protocol.wire_format import (
    COMPACT,
    JSON_ACKNOWLEDGING,
    JSON_PLAIN,
    WireFormat,
)
from netra_trio.sessions.event_log import Entry

FILE = FileId("file_1")
OTHERS = pytest.mark.parametrize("wire", [JSON_ACKNOWLEDGING, JSON_PLAIN], ids=["v1", "plain"])


def entry_of(data: bytes, seq: int = 3) -> Entry:
    result = BinaryResult(RunId("run_1"), "audio/pcm", FILE, len(data))
    return Entry(seq, BinaryEvent(result, data), len(data), False, 1.5, "c-1")


def copied(size: int, seq: int = 3) -> Entry:
    """Return an entry of another node's log, which has no data."""
    payload = {"run_id": "run_1", "media_type": "audio/pcm", "file_id": FILE, "bytes": size}
    event = Encoded(BinaryResult.TYPE, RunId("run_1"), orjson.dumps(payload))
    return Entry(seq, event, size, False, 1.5, "c-1")


def test_an_event_is_one_binary_frame_with_its_data() -> None:
    frame = CompactEncoder().encode_event(entry_of(b"\xff\x00"))
    assert type(frame) is BinaryFrame
    text, data = split_binary(frame)
    assert data == b"\xff\x00"
    assert orjson.loads(text) == {
        "type": "binary_result",
        "payload": {
            "run_id": "run_1",
            "media_type": "audio/pcm",
            "file_id": "file_1",
            "bytes": 2,
        },
        "timestamp": 1.5,
        "correlation_id": "c-1",
        "seq": 3,
    }


@OTHERS
def test_other_subprotocols_get_its_reference(wire: WireFormat) -> None:
    frame = wire.encoder().encode_event(entry_of(b"\xff\x00"))
    assert type(frame) is bytes
    assert orjson.loads(frame)["payload"]["file_id"] == "file_1"
    assert wire.encoder().references == []


def test_an_event_of_another_node_is_a_reference_until_its_data_is_read() -> None:
    encoder, entry = CompactEncoder(), copied(EVENT_DATA_BYTES)
    frame = encoder.encode_event(entry)
    assert frame == encode_event(entry)
    [reference] = encoder.references
    assert (reference.frame, reference.file_id) == (frame, FILE)
    assert reference.with_data(b"x") == join_binary(frame, b"x")


def test_larger_data_is_never_in_an_event() -> None:
    encoder = CompactEncoder()
    encoder.encode_event(copied(EVENT_DATA_BYTES + 1))
    large = BinaryResult(RunId("run_1"), "audio/pcm", FILE, EVENT_DATA_BYTES + 1)
    encoder.encode_event(Entry(4, large, 50, False, 1.5, "c-1"))
    assert encoder.references == []


@define(eq=False)
class DataFiles:
    """Files whose content takes a second each."""

    files: dict[FileId, bytes]
    fault: Exception | None = None
    seconds: float = 1.0
    reads: list[FileId] = field(factory=list)

    async def read_bytes(self, file_id: FileId, max_bytes: int) -> bytes:
        self.reads.append(file_id)
        await trio.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault
        return self.files[file_id][:max_bytes]


def encoded(*entries: Entry) -> tuple[list[bytes], CompactEncoder]:
    encoder = CompactEncoder()
    return [b"control", *(encoder.encode_event(entry) for entry in entries)], encoder


async def test_the_data_of_another_nodes_event_is_read(autojump_clock: MockClock) -> None:
    events, encoder = encoded(copied(2, 3), entry_of(b"own", 4), copied(2, 5))
    before = events.copy()
    assert await add_data(events, encoder.references, DataFiles({FILE: b"ab"}, seconds=0.5))
    assert events == [
        before[0],
        join_binary(before[1], b"ab"),
        before[2],
        join_binary(before[3], b"ab"),
    ]
    assert encoder.references == []


@pytest.mark.parametrize(
    ("files", "reads"),
    [
        (DataFiles({}, fault=ContentMissing(), seconds=0.5), 2),
        (DataFiles({}, fault=StorageUnavailable()), 1),  # the next one would wait as well
        (DataFiles({FILE: b"a"}, seconds=0.0), 2),  # not the bytes that the event names
        (DataFiles({FILE: b"ab"}, seconds=DATA_SECONDS + 1), 1),
    ],
    ids=["missing", "unavailable", "other content", "slow"],
)
async def test_a_reference_is_sent_where_its_data_cannot_be_read(
    autojump_clock: MockClock, files: DataFiles, reads: int
) -> None:
    events, encoder = encoded(copied(2, 3), copied(2, 4))
    before = events.copy()
    has_answered = await add_data(events, encoder.references, files)
    assert has_answered == (reads == 2)
    assert events == before
    assert encoder.references == []
    assert len(files.reads) == reads
    assert trio.current_time() <= DATA_SECONDS


async def test_the_data_that_came_in_time_is_sent(autojump_clock: MockClock) -> None:
    events, encoder = encoded(copied(2, 3), copied(2, 4))
    second = events[2]
    await add_data(events, encoder.references, DataFiles({FILE: b"ab"}, seconds=DATA_SECONDS - 0.1))
    assert [type(event) for event in events] == [bytes, BinaryFrame, bytes]
    assert events[2] is second


async def test_cancelled_while_data_is_read(autojump_clock: MockClock) -> None:
    events, encoder = encoded(copied(2))
    with trio.move_on_after(0.5) as scope:
        await add_data(events, encoder.references, DataFiles({FILE: b"ab"}))
    assert scope.cancelled_caught


async def test_a_connection_waits_once_for_a_storage_that_hangs(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[FileId] = []

    async def hanging(_: object, file_id: FileId, max_bytes: int) -> bytes:
        reads.append(file_id)
        await trio.sleep_forever()
        raise AssertionError(max_bytes)

    async with open_server(heartbeat_interval_ms=3_600_000) as server:
        monkeypatch.setattr(type(server.node.services.files), "read_bytes", hanging)
        client = server.start(wire=COMPACT)
        session_id = (await client.expect("connection_established"))["payload"]["session_id"]
        client.peer.cut()
        await client.done.wait()
        session = server.node.sessions.get(session_id)
        assert session is not None
        for _ in range(4):  # each is a write of its own
            session.events.append(copied(WRITE_BYTES).event, WRITE_BYTES, CorrelationId("c-1"))
        since = trio.current_time()
        again = server.start(wire=COMPACT, session_id=session_id, last_seq=0)
        await again.expect("connection_established")
        assert [(await again.expect("binary_result"))["seq"] for _ in range(4)] == [1, 2, 3, 4]
        assert trio.current_time() - since == pytest.approx(DATA_SECONDS)
        assert len(reads) == 1
