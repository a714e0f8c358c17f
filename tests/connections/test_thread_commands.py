"""The commands about threads: list, title, read mark, deletion and feedback, on two devices."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from support.devices import call, changed, converse, devices, history, threads
from support.memory import EPOCH, Client, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.memory import MemoryStore

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def emit(run: Run) -> None:
    await run.emit(f"about {run.content}")


async def wait(run: Run) -> None:
    await run.emit("working")
    await trio.sleep(60)


async def ask(run: Run) -> None:
    await run.ask("Which one?")


AGENTS = {"emit": emit, "wait": wait, "ask": ask}


async def code(client: Client, kind: str, payload: Any) -> tuple[str, str]:
    """Return the code and the text of the error that answers a request."""
    error = await call(client, kind, payload)
    return error["code"], error["error"]


# The list.


async def test_a_listed_thread(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (client,):
        await trio.sleep(1)
        await converse(client, "one two three")
        await trio.sleep(1)
        await converse(client, "four")
        await client.say("five", agent="ask", thread_id="t")
        await client.until("agent_asking")
        await client.say("waits", thread_id="t")
        await client.until("message_confirmed")
        await trio.sleep(1)
        assert await threads(client) == [
            {
                "thread_id": "t",
                "room": thread_room(UserId("alice"), ThreadId("t")),
                "title": "one two three",
                "created_at": EPOCH + 1,
                "updated_at": EPOCH + 2,
                "runs_active": 2,
                "asks": True,
                "unread": 2,
            }
        ]


async def test_pages_are_in_the_order_of_updates(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (client,):
        for number, name in enumerate("abcb"):
            await converse(client, f"hello {number}", thread_id=name)
            await trio.sleep(1)
        page = await call(client, "list_threads", {"limit": 2})
        assert [each["thread_id"] for each in page["threads"]] == ["b", "c"]
        assert page["has_more"] is True
        page = await call(client, "list_threads", {"limit": 2, "before": "c"})
        assert [each["thread_id"] for each in page["threads"]] == ["a"]
        assert page["has_more"] is False
        assert await threads(client, before="a") == []
        assert (await code(client, "list_threads", {"before": "unknown"}))[0] == "THREAD_NOT_FOUND"


async def test_the_query_searches_titles_and_messages(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        devices(server, 1) as (client,),
        devices(server, 1, user="bob") as (bob,),
    ):
        await converse(client, "Lisbon in May", thread_id="trip")
        await converse(client, "bread", thread_id="food")
        assert [each["thread_id"] for each in await threads(client, query="LISBON")] == ["trip"]
        found = await threads(client, query="about b")  # in an answer
        assert [each["thread_id"] for each in found] == ["food"]
        await call(client, "rename_thread", {"thread_id": "food", "title": "Sourdough"})
        assert [each["thread_id"] for each in await threads(client, query="sour")] == ["food"]
        assert await threads(client, query="zebra") == []
        assert await threads(bob, query="Lisbon") == []


async def test_lists_and_histories_share_a_rate(autojump_clock: MockClock) -> None:
    async with open_server() as server, devices(server, 1) as (client,):
        for _ in range(5):
            assert await threads(client) == []
            assert (await code(client, "get_thread_history", {"thread_id": "t"}))[0] == (
                "THREAD_NOT_FOUND"
            )
        error = await call(client, "list_threads")
        assert (error["code"], error["retry_after_ms"]) == ("RATE_LIMIT_EXCEEDED", 100)
        await trio.sleep(0.125)
        assert await threads(client) == []


# Each field at its limit and one beyond.


@pytest.mark.parametrize(
    ("kind", "payload", "path"),
    [
        ("list_threads", {"limit": 0}, "$.payload.limit"),
        ("list_threads", {"limit": 101}, "$.payload.limit"),
        ("list_threads", {"limit": True}, "$.payload.limit"),
        ("list_threads", {"query": ""}, "$.payload.query"),
        ("list_threads", {"query": " "}, "$.payload.query"),
        ("list_threads", {"query": "x" * 201}, "$.payload.query"),
        ("list_threads", {"before": "no id"}, "$.payload.before"),
        ("list_threads", {"after": "t"}, "$.payload.after"),
        ("rename_thread", {"thread_id": "t"}, "$.payload.title"),
        ("rename_thread", {"thread_id": "t", "title": " "}, "$.payload.title"),
        ("rename_thread", {"thread_id": "t", "title": "x" * 201}, "$.payload.title"),
        ("rename_thread", {"thread_id": "x" * 65, "title": "x"}, "$.payload.thread_id"),
        ("mark_read", {"thread_id": "t"}, "$.payload.message_id"),
        ("mark_read", {"thread_id": "t", "message_id": ""}, "$.payload.message_id"),
        ("mark_read", {"thread_id": "t", "message_id": "none"}, "$.payload.message_id"),
        ("delete_thread", {}, "$.payload.thread_id"),
        ("feedback", {"message_id": "none", "rating": "up"}, "$.payload.message_id"),
        ("feedback", {"message_id": "m"}, "$.payload.rating"),
        ("feedback", {"message_id": "m", "rating": "good"}, "$.payload.rating"),
        (
            "feedback",
            {"message_id": "m", "rating": None, "comment": "x" * 2001},
            "$.payload.comment",
        ),
    ],
)
async def test_a_value_beyond_its_limit(
    autojump_clock: MockClock, kind: str, payload: Any, path: str
) -> None:
    async with open_server(agents=AGENTS) as server, devices(server, 1) as (client,):
        await converse(client, "hello")
        found, text = await code(client, kind, payload)
        assert found == "VALIDATION_ERROR"
        assert text.startswith(path)
        assert await client.sync() == []


async def test_values_at_their_limits(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, devices(server, 1) as (client,):
        await converse(client, "hello")
        title = "x" * 200
        renamed = await call(client, "rename_thread", {"thread_id": "t", "title": title})
        assert renamed["thread"]["title"] == title
        assert len(await threads(client, limit=1, query=title)) == 1
        assert len(await threads(client, limit=100)) == 1
        answer = (await history(client))[1]["message_id"]
        rated = {"message_id": answer, "rating": "down", "comment": "x" * 2000}
        assert (await call(client, "feedback", rated))["change"] == "updated"
        assert (await history(client))[1]["feedback"] == {
            "rating": "down",
            "comment": "x" * 2000,
        }


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("rename_thread", {"title": "x"}),
        ("mark_read", {"message_id": "m"}),
        ("delete_thread", {}),
    ],
)
async def test_a_thread_of_another_user_is_not_found(
    autojump_clock: MockClock, kind: str, payload: Any
) -> None:
    async with (
        open_server(agents=AGENTS) as server,
        devices(server, 1) as (client,),
        devices(server, 1, user="bob") as (bob,),
    ):
        await converse(client, "hello")
        for thread_id in ("t", "unknown"):
            request = {"thread_id": thread_id, **payload}
            assert (await code(bob, kind, request))[0] == "THREAD_NOT_FOUND"
        message = (await history(client))[1]["message_id"]
        rated = {"message_id": message, "rating": "up"}
        assert (await code(bob, "feedback", rated))[0] == "VALIDATION_ERROR"
        assert await client.sync() == []
        assert [each["title"] for each in await threads(client)] == ["hello"]


async def test_only_an_answer_can_be_rated(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, devices(server, 1) as (client,):
        confirmed = await converse(client, "hello")
        rated = {"message_id": confirmed["message_id"], "rating": "up"}
        found, text = await code(client, "feedback", rated)
        assert (found, text.split(":")[0]) == ("VALIDATION_ERROR", "$.payload.message_id")


# Two devices.


async def test_a_title_is_seen_by_all_devices(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 3) as clients:
        one, two, three = clients
        await converse(one, "hello")
        for client in (two, three):
            assert (await changed(client))["thread"]["title"] == "hello"
        renamed = await call(two, "rename_thread", {"thread_id": "t", "title": "A greeting"})
        assert (renamed["thread_id"], renamed["change"]) == ("t", "renamed")
        assert renamed["thread"] == (await threads(two))[0]
        assert renamed["thread"]["title"] == "A greeting"
        begin = trio.current_time()
        for client in (one, three):
            assert await changed(client) == renamed
        assert trio.current_time() == begin
        assert await two.sync() == []


async def test_a_read_mark_is_seen_by_all_devices(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        for content in ("a", "b", "c"):
            await converse(one, content)
        await trio.sleep(1)
        await two.sync()
        messages = await history(one)
        mark = {"thread_id": "t", "message_id": messages[3]["message_id"]}
        marked = await call(one, "mark_read", mark)
        assert (marked["change"], marked["thread"]["unread"]) == ("updated", 1)
        assert await changed(two) == marked
        earlier = {"thread_id": "t", "message_id": messages[0]["message_id"]}
        assert (await call(two, "mark_read", earlier))["thread"]["unread"] == 1
        assert (await changed(one))["thread"]["unread"] == 1


async def test_feedback_is_seen_by_all_devices(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "hello")
        assert (await changed(two))["change"] == "updated"
        answer = (await history(one))[1]["message_id"]
        for rating, comment in (("down", "wrong"), ("up", None), (None, None)):
            given = {"message_id": answer, "rating": rating}
            if comment is not None:
                given["comment"] = comment
            rated = await call(one, "feedback", given)
            assert rated["change"] == "updated"
            assert await changed(two) == rated
            expected = {name: value for name, value in given.items() if name != "message_id"}
            shown = (await history(two))[1].get("feedback")
            assert shown == (None if rating is None else expected)


async def test_a_deletion_is_seen_by_all_devices(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "hello")
        assert (await changed(two))["change"] == "updated"
        deleted = await call(one, "delete_thread", {"thread_id": "t"})
        assert deleted == {"thread_id": "t", "change": "deleted"}
        assert await changed(two) == deleted
        for client in (one, two):
            assert await threads(client) == []
            found, _ = await code(client, "get_thread_history", {"thread_id": "t"})
            assert found == "THREAD_NOT_FOUND"
            assert (await code(client, "delete_thread", {"thread_id": "t"}))[0] == (
                "THREAD_NOT_FOUND"
            )


# Order, the store, and a client that leaves.


class SlowStore(MemoryStore):
    """A store whose calls for threads take a scripted time.

    Attributes:
        delays: Seconds of the next calls; None for a call that fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float | None] = []

    async def _delay(self) -> None:
        seconds = self.delays.pop(0) if self.delays else 0.0
        if seconds is None:
            raise StoreUnavailable("scripted")
        await trio.sleep(seconds)

    async def set_title(self, *args: Any, **more: Any) -> bool:
        await self._delay()
        return await super().set_title(*args, **more)

    async def mark_read(self, *args: Any, **more: Any) -> bool:
        await self._delay()
        return await super().mark_read(*args, **more)

    async def set_feedback(self, *args: Any, **more: Any) -> Any:
        await self._delay()
        return await super().set_feedback(*args, **more)

    async def delete_thread(self, *args: Any, **more: Any) -> bool:
        await self._delay()
        return await super().delete_thread(*args, **more)

    async def list_threads(self, *args: Any, **more: Any) -> Any:
        await self._delay()
        return await super().list_threads(*args, **more)


async def test_the_changes_of_a_thread_are_made_in_order(autojump_clock: MockClock) -> None:
    store = SlowStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (client,),
    ):
        await converse(client, "hello")
        await converse(client, "hello, too", thread_id="u")
        store.delays = [2.0, 0.5]
        for title in ("first", "second", "third"):
            rename = {"thread_id": "t", "title": title}
            await client.send("rename_thread", rename, title)
        await client.send("rename_thread", {"thread_id": "u", "title": "beside"}, "beside")
        replies = [await client.expect("thread_changed") for _ in range(4)]
        assert [
            (each["correlation_id"], each["payload"]["thread"]["title"]) for each in replies
        ] == [
            ("beside", "beside"),
            ("first", "first"),
            ("second", "second"),
            ("third", "third"),
        ]


async def test_ten_requests_of_a_kind_at_once(autojump_clock: MockClock) -> None:
    store = SlowStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (client,),
    ):
        await converse(client, "hello")
        store.delays = [1.0]
        for number in range(11):
            rename = {"thread_id": "t", "title": f"title {number}"}
            await client.send("rename_thread", rename, str(number))
        refused = await client.expect("error")
        assert refused["correlation_id"] == "10"
        assert refused["payload"]["code"] == "RATE_LIMIT_EXCEEDED"
        for number in range(10):
            assert (await client.expect("thread_changed"))["correlation_id"] == str(number)
        renamed = await call(client, "rename_thread", {"thread_id": "t", "title": "last"})
        assert renamed["thread"]["title"] == "last"


REQUESTS: dict[str, Callable[[str], Any]] = {
    "list_threads": lambda _: {},
    "rename_thread": lambda _: {"thread_id": "t", "title": "new"},
    "mark_read": lambda message: {"thread_id": "t", "message_id": message},
    "feedback": lambda message: {"message_id": message, "rating": "up"},
    "delete_thread": lambda _: {"thread_id": "t"},
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_the_store_does_not_answer(autojump_clock: MockClock, kind: str) -> None:
    store = SlowStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (client,),
    ):
        await converse(client, "hello")
        request = REQUESTS[kind]((await history(client))[1]["message_id"])
        for failure in (None, 10.0):  # it fails at once, or takes too long
            store.delays = [failure]
            assert (await call(client, kind, request))["code"] == "SERVICE_UNAVAILABLE"
        reply = await call(client, kind, request)
        assert "error" not in reply


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_client_leaves_during_its_request(autojump_clock: MockClock, kind: str) -> None:
    store = SlowStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 2) as (one, two),
    ):
        await converse(one, "hello")
        await changed(two)
        request = REQUESTS[kind]((await history(one))[1]["message_id"])
        store.delays = [1.0]
        await one.send(kind, request, "c-1")
        await one.sync()
        one.peer.cut()
        await one.done.wait()
        await trio.sleep(2)
        if kind == "delete_thread":  # it continues: the request is not cancelled
            assert (await changed(two))["change"] == "deleted"
            assert await threads(two) == []
        else:
            assert await two.sync() == []
            assert [each["title"] for each in await threads(two)] == ["hello"]


async def test_a_thread_that_is_deleted_during_a_change(autojump_clock: MockClock) -> None:
    class DeletingStore(MemoryStore):
        async def set_title(self, user_id: Any, thread_id: Any, *args: Any, **more: Any) -> bool:
            is_set = await super().set_title(user_id, thread_id, *args, **more)
            await self.delete_thread(user_id, thread_id)
            return is_set

    async with (
        open_server(agents=AGENTS, store=DeletingStore(), **QUIET) as server,
        devices(server, 1) as (client,),
    ):
        await converse(client, "hello")
        rename = {"thread_id": "t", "title": "new"}
        assert (await code(client, "rename_thread", rename))[0] == "THREAD_NOT_FOUND"
