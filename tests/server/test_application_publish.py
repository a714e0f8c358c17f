"""The application publishes to rooms, on one process and through a broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from attrs import evolve
from support.valkey import Server as Valkey
from support.valkey import server as valkey_server

from netra_trio.agents.demo.echo import echo
from netra_trio.broker.base import Backend
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.config.settings import Settings
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import SessionId, UserId
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.server.application import Application, create_app
from netra_trio.stores.memory import MemoryStore

SETTINGS = evolve(Settings(), jwt_secret_key="x" * 32)
ROOM = "news"


async def anyone(_user: str, _room: str, action: str) -> bool:
    return action != "see"


@asynccontextmanager
async def running(
    backend: Backend | None = None, *, rooms: PermissionCheck | None = None, **options: Any
) -> AsyncIterator[Application]:
    """Run an application."""
    store = MemoryStore() if backend is None else MemoryStore(backend.directory.node)
    settings = evolve(SETTINGS, **options)
    app = create_app(
        agents={"echo": echo}, settings=settings, store=store, backend=backend, rooms=rooms
    )
    async with app.running():
        yield app


async def test_a_message_of_the_application_has_no_user() -> None:
    async with running() as app:
        first = await app.publish(ROOM, {"headline": "…"}, key="k-1")
        assert (first.offset, first.is_duplicate) == (1, False)
        assert (await app.publish(ROOM, "other", "k-1")).is_duplicate
        assert (await app.publish(ROOM, "plain")).offset == 2
        broker = app.node.services.broker
        found = await broker.history(ROOM, epoch=first.epoch, after=0)
        events = [RoomEvent.unpack(each).event for each in found.events]
    assert events == [
        {"type": "room_message", "payload": {"content": {"headline": "…"}}},
        {"type": "room_message", "payload": {"content": "plain"}},
    ]


async def test_the_settings_limit_the_history() -> None:
    async with running(room_history_events=2) as app:
        for _ in range(3):
            epoch = (await app.publish(ROOM, "x")).epoch
        found = await app.node.services.broker.history(ROOM, epoch=epoch, after=0)
    assert [each.offset for each in found.events] == [2, 3]


async def test_all_nodes_have_the_same_rooms() -> None:
    shared = MemoryServer()
    async with (
        running(MemoryBackend(server=shared)) as one,
        running(MemoryBackend(server=shared)) as two,
    ):
        first = await one.publish(ROOM, "1", "k")
        again = await two.publish(ROOM, "2", "k")
        assert (again.epoch, again.offset, again.is_duplicate) == (first.epoch, 1, True)


async def test_invalid_messages() -> None:
    wrong: Any = 5
    async with running() as app:
        with pytest.raises(ValueError, match="room: expected"):
            await app.publish(":presence:a", "x")
        with pytest.raises(ValueError, match="key: expected"):
            await app.publish(ROOM, "x", "")
        with pytest.raises(TypeError, match="content: expected an object or a str, got int"):
            await app.publish(ROOM, wrong)


async def test_an_application_that_does_not_run() -> None:
    app = create_app(agents={"echo": echo}, settings=SETTINGS, store=MemoryStore())
    with pytest.raises(RuntimeError, match="does not run"):
        await app.publish(ROOM, "x")
    # Names need no broker: a program may print them.
    assert app.user_room("alice").startswith("user:")
    assert app.user_room("alice") != app.user_room("bob")
    assert app.thread_room("alice", "main").startswith("thread:")
    assert app.thread_room("alice", "main") != app.thread_room("bob", "main")


async def test_a_user_is_kicked_on_all_nodes() -> None:
    shared = MemoryServer()
    async with (
        running(MemoryBackend(server=shared), rooms=anyone) as one,
        running(MemoryBackend(server=shared), rooms=anyone) as two,
    ):
        rooms = two.node.services.rooms
        feeds = {
            user: rooms.open_feed(UserId(user), SessionId(user), wake=lambda: None)
            for user in ("alice", "bob")
        }
        for feed in feeds.values():
            await rooms.join(feed, ROOM)
            feed.take(max_bytes=10_000, lags=False)
        await one.kick(ROOM, "alice")
        with trio.fail_after(10):
            while [each.user_id for each in rooms.members(ROOM)] != ["bob"]:
                await trio.lowlevel.checkpoint()
        (left,) = feeds["alice"].take(max_bytes=10_000, lags=False)
        assert orjson.loads(left)["type"] == "room_left"
        with pytest.raises(ValueError, match="room: expected"):
            await one.kick("a::b", "alice")


async def test_the_broker_is_away_for_a_while() -> None:
    with valkey_server() as valkey:
        store = MemoryStore()
        app = create_app(
            agents={"echo": echo},
            settings=SETTINGS,
            store=store,
            backend=ValkeyBackend(store.owner, valkey.url),
        )
        with trio.fail_after(60):
            async with app.running():
                assert (await app.publish(ROOM, "1", "k-1")).offset == 1
                valkey.stop()
                try:
                    with pytest.raises(BrokerUnavailable):
                        await app.publish(ROOM, "2", "k-2")
                finally:
                    valkey.go_on()
                await _published(app, valkey)


async def _published(app: Application, valkey: Valkey) -> None:
    """Publish again under the same key, until the broker answers: it is published once."""
    while True:
        try:
            again = await app.publish(ROOM, "2", "k-2")
        except BrokerUnavailable:
            await trio.sleep(0.05)
        else:
            break
    assert again.offset == 2
    assert valkey.command("XLEN", f"nt:{{r:{ROOM}}}:l") == 2
