"""Bytes in both directions: binary frames of `netra.v2`, over lost connections too."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from attrs import evolve
from support.clients import InTurn, Plain
from support.server import PATIENCE, serving, sign, write_agents
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import (
    Client,
    Event,
    MessageRefused,
    OutboxUnusable,
    connect,
)
from netra_trio.client.line import SUBPROTOCOLS
from netra_trio.client.outbox import Outbox, OutboxMessage
from netra_trio.client.outbox_file import OutboxFile
from netra_trio.ids import UserId
from netra_trio.protocol.binary import split_binary
from netra_trio.testing import After, Drop, Every, Step, assert_nothing_lost, open_network

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
SOUNDS = [bytes([number]) * 40_000 for number in range(3)]
EVENTS = 11  # confirmation, start, four deltas, three pieces of sound, a thought, the end
OFFERS = pytest.mark.parametrize(
    "offers",
    [SUBPROTOCOLS[:1], SUBPROTOCOLS, SUBPROTOCOLS[::-1]],
    ids=["v2", "v2 first", "v1 first"],
)


async def speak(run: Run) -> str:
    """Emit text, sound and a thought, in turn."""
    for word, sound in zip(("one ", "two ", "three "), SOUNDS, strict=True):
        await run.emit(word)
        await run.emit_bytes(sound, media_type="audio/pcm")
        await trio.sleep(0.01)
    await run.think("hm")
    await run.emit("end")
    return "said"


async def look(run: Run) -> str:
    """Return the types and digests of the files of the message."""
    found = [
        f"{file.media_type} {hashlib.sha256(await file.read()).hexdigest()}"
        for file in run.attachments
    ]
    return ",".join(found)


LOOKED = f"image/png {hashlib.sha256(PNG).hexdigest()}"


async def listen(client: Client) -> list[Any]:
    """Return what the client gets of a run, with neighbouring text joined."""
    said: list[Any] = []
    async for event in await client.send("speak", correlation_id="k"):
        if event.type == "partial_result":
            text = event.payload["content"]
            if said and isinstance(said[-1], str):
                said[-1] += text
            else:
                said.append(text)
        elif event.type == "binary_result":
            assert event.payload["bytes"] == 40_000
            said.append(event.data)
    return said


async def hear(offers: tuple[str, ...], *script: Step) -> list[Any]:
    async with open_network({"speak": speak}, script) as network:
        dialer = InTurn(network, offers)
        async with network.connect(dialer=dialer) as client:
            said = await listen(client)
        assert dialer.opened == 1 + client.stats.reconnections
    assert_nothing_lost(network.trace)
    assert network.trace.announced == []
    return said


WHOLE = ["one ", SOUNDS[0], "two ", SOUNDS[1], "three ", SOUNDS[2], "end"]


async def test_the_data_comes_with_its_event(autojump_clock: MockClock) -> None:
    assert await hear(SUBPROTOCOLS) == WHOLE


async def test_only_the_reference_comes_with_the_first_version(autojump_clock: MockClock) -> None:
    whole = [None if isinstance(each, bytes) else each for each in WHOLE]
    assert await hear(SUBPROTOCOLS[1:]) == whole


@OFFERS
@pytest.mark.parametrize("cut", range(EVENTS))
async def test_lost_after_one_frame(
    autojump_clock: MockClock, offers: tuple[str, ...], cut: int
) -> None:
    said = await hear(offers, After(cut, Drop()))
    # None: it came on a connection of the first version.
    known = [mine if mine is None else whole for mine, whole in zip(said, WHOLE, strict=True)]
    assert said == known
    assert None not in said or offers != SUBPROTOCOLS[:1]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
async def test_lost_after_every_nth_frame(autojump_clock: MockClock, n: int) -> None:
    assert await hear(SUBPROTOCOLS[:1], Every(n, Drop())) == WHOLE


async def test_a_message_with_data(autojump_clock: MockClock) -> None:
    async with open_network({"look": look}) as network, network.connect() as client:
        run = await client.send("look", data=PNG, media_type="image/png")
        assert await run.result() == LOOKED


@pytest.mark.parametrize("cut", range(4))
async def test_a_message_with_data_over_a_lost_connection(
    autojump_clock: MockClock, cut: int
) -> None:
    async with open_network({"look": look}, [After(cut, Drop())]) as network:
        async with network.connect() as client:
            run = await client.send("look", data=PNG, media_type="image/png", correlation_id="k")
            assert await run.result() == LOOKED
            again = await client.send("look", data=PNG, media_type="image/png", correlation_id="k")
            assert again.run_id == run.run_id
        assert await network.store.count_file_bytes(UserId("alice")) == len(PNG)
    assert_nothing_lost(network.trace)


async def test_a_type_that_the_content_contradicts(autojump_clock: MockClock) -> None:
    async with open_network({"look": look}) as network, network.connect() as client:
        with pytest.raises(MessageRefused, match="expected image/png, as the content shows") as e:
            await client.send("look", data=PNG, media_type="image/jpeg")
        assert e.value.code == "VALIDATION_ERROR"
        run = await client.send("look", data=PNG, media_type="image/png")
        assert await run.result() == LOOKED


@pytest.mark.parametrize(
    "options",
    [
        {"data": b"x"},
        {"media_type": "image/png"},
        {"data": b"x", "media_type": "image/png", "attachments": ["file_1"]},
    ],
)
async def test_arguments_that_do_not_fit(
    autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    async with open_network({"look": look}) as network, network.connect() as client:
        with pytest.raises(ValueError, match="expected data and media_type"):
            await client.send("look", **options)


async def test_data_that_is_too_large_is_refused_before_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    async with open_network({"look": look}) as network, network.connect() as client:
        with pytest.raises(MessageRefused, match="MESSAGE_TOO_LARGE"):
            await client.send("look", data=bytes(10_240), media_type="audio/pcm")


@pytest.mark.parametrize("is_plain", [False, True], ids=["v1", "plain"])
async def test_other_connections_take_no_data(autojump_clock: MockClock, is_plain: bool) -> None:
    async with open_network({"look": look}) as network:
        dialer = Plain(network) if is_plain else InTurn(network, SUBPROTOCOLS[1:])
        async with network.connect(dialer=dialer) as client:
            await (await client.send("hello")).result()
            with pytest.raises(MessageRefused, match=r"not one of netra\.v2"):
                await client.send("look", data=PNG, media_type="image/png")


async def test_data_that_waits_for_a_connection_of_the_first_version(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_network({"look": look}, [After(0, Drop())]) as network,
        network.connect(dialer=InTurn(network, SUBPROTOCOLS)) as client,
    ):
        with pytest.raises(MessageRefused, match="Upload the data"):
            await client.send("look", data=PNG, media_type="image/png")
        assert await (await client.send("hello")).result() == ""


# The outbox.


def test_a_frame_with_data() -> None:
    message = OutboxMessage("k", '{"a":1}', data=b"\xff\x00")
    assert isinstance(message.frame, bytes)
    assert split_binary(message.frame) == (b'{"a":1}', b"\xff\x00")
    assert message.size == 4 + 7 + 2
    assert OutboxMessage("k", '{"a":1}').frame == '{"a":1}'


def test_messages_with_data_are_taken_out() -> None:
    outbox = Outbox()
    first, second = OutboxMessage("1", "{}"), OutboxMessage("2", "{}", data=b"")
    outbox.add(first)
    outbox.add(second)
    assert outbox.take_binary() == [second]
    assert (list(outbox), outbox.size) == ([first], 2)


def test_the_file_keeps_the_data(tmp_path: Path) -> None:
    path = tmp_path / "outbox.jsonl"
    with OutboxFile.open(path) as file:
        file.add(OutboxMessage("1", "{}", data=b"\xff\x00"))
        file.add(OutboxMessage("2", "{}"))
    with OutboxFile.open(path) as file:
        kept = [(message.key, message.text, message.data) for message in file.messages]
    assert kept == [("1", "{}", b"\xff\x00"), ("2", "{}", None)]


def test_a_file_with_other_data(tmp_path: Path) -> None:
    path = tmp_path / "outbox.jsonl"
    path.write_bytes(orjson.dumps({"add": "1", "frame": "{}", "data": "no base64!"}) + b"\n")
    with pytest.raises(OutboxUnusable, match="line 1"), OutboxFile.open(path):
        pass


# A real server.

AGENT = """
async def speak(run):
    for file in run.attachments:
        await run.emit(f"{file.media_type} {file.bytes}")
    await run.emit_bytes(bytes(1000), media_type="audio/pcm")
    await run.emit_bytes(bytes(256 * 1024), media_type="audio/pcm")
    await run.emit_bytes(bytes(256 * 1024 + 1), media_type="audio/pcm")
"""


async def test_data_over_tcp(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENT)
    with serving(tmp_path, "--agent=outside_agents:speak") as server, trio.fail_after(PATIENCE):
        async with connect(server.url, token=sign()) as client:
            run = await client.send("hello", data=PNG, media_type="image/png")
            events = [event async for event in run]
            assert [e.payload["content"] for e in events if e.type == "partial_result"] == [
                f"image/png {len(PNG)}"
            ]
            results = [event for event in events if event.type == "binary_result"]
            sizes = [1000, 256 * 1024, 256 * 1024 + 1]
            assert [event.payload["bytes"] for event in results] == sizes
            # The last one is more than an event may have.
            assert [event.data for event in results] == [bytes(1000), bytes(256 * 1024), None]
            for event, size in zip(results, sizes, strict=True):
                assert await client.data_of(event) == bytes(size)
                assert await client.data_of(evolve(event, data=None)) == bytes(size)
            with pytest.raises(ValueError, match="expected a binary_result, got pong"):
                await client.data_of(Event("pong"))
