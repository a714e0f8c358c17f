"""Two real nodes: limits of a user over both, and what a user asks of a run at the other one."""

from pathlib import Path

import trio
from support.nodes import Nodes
from support.server import PATIENCE, bearer, open_client

from netra_trio.ids import UserId
from netra_trio.stores.sql.store import SqlStore


async def test_two_nodes_serve_a_user_as_one(
    tmp_path: Path, valkey_url: str, database_url: str
) -> None:
    settings = {
        "REDIS_URL": valkey_url,
        "DATABASE_URL": database_url,
        "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "2",
    }
    with Nodes(tmp_path, 2, None, **settings) as nodes, trio.fail_after(PATIENCE):
        one, two = nodes.server(0), nodes.server(1)

        # A ticket is used once, on whichever node.
        ticket = await trio.to_thread.run_sync(one.ticket)
        async with open_client(f"{two.url}?ticket={ticket}") as client:
            await client.expect("connection_established")
        for server in (one, two):
            answer = await trio.to_thread.run_sync(server.upgrade, f"?ticket={ticket}")
            assert answer.status == 401

        # A run is stopped from the other node; its end goes to its own session.
        async with one.connect() as asker, two.connect() as stopper:
            await asker.say("count")
            started = (await asker.until("partial_result"))[-1]
            await stopper.send("stop_agent", {"run_id": started["payload"]["run_id"]})
            end = (await asker.until("agent_completed"))[-1]
            assert end["payload"]["status"] == "cancelled"
            assert end["payload"]["run_id"] == started["payload"]["run_id"]
            await stopper.answers()

            # The oldest connection makes room, although the new one is at the other node.
            async with two.connect() as newest:
                frames, code = await asker.rest()
                assert frames[-1]["payload"]["code"] == "CONNECTION_LIMIT_EXCEEDED"
                assert code == 4429

                # A user who is disabled loses both within two seconds.
                begin = trio.current_time()
                store = SqlStore(database_url)
                async with store.open():
                    assert await store.set_user_enabled(UserId("alice"), enabled=False)
                for client in (stopper, newest):
                    frames, code = await client.rest()
                    assert frames[-1]["payload"]["code"] == "USER_DISABLED"
                    assert code == 4403
                seconds = trio.current_time() - begin
        answer = await trio.to_thread.run_sync(lambda: one.upgrade("", bearer()))
        assert answer.status == 403
        assert seconds < 10, "two seconds, on a machine that is not busy"
