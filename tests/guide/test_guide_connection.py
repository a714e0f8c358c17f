"""Acceptance tests of connections and authentication, over real sockets."""

import base64
from collections.abc import Iterator

import pytest
import trio_websocket
from support.server import SUBPROTOCOL, Server, open_client, serving, sign


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


async def test_successful_connection_establishment(server: Server) -> None:
    async with server.connect("alice") as client:
        hello = client.hello
        assert hello["type"] == "connection_established"
        assert "seq" not in hello
        payload = hello["payload"]
        assert payload.keys() == {
            "connection_id",
            "session_id",
            "user_id",
            "server_time",
            "heartbeat_interval",
            "features",
            "limits",
            "resume",
            "user_room",
            "agents",
        }
        assert payload["user_id"] == "alice"
        assert payload["heartbeat_interval"] == 30_000
        assert payload["resume"] == {"verdict": "new", "replayed": 0, "last_seq": 0, "runs": []}
        await client.answers()
        async with server.connect("alice") as second:
            for name in ("connection_id", "session_id"):
                assert second.hello["payload"][name] != payload[name]


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("not-a-token", "INVALID_TOKEN"),
        (sign(secret="another-secret-of-thirty-two-bytes"), "INVALID_TOKEN"),
        (sign(exp=None), "INVALID_TOKEN"),
        (sign(seconds=-3600), "TOKEN_EXPIRED"),
    ],
    ids=["garbage", "forged", "endless", "expired"],
)
async def test_connection_fails_with_invalid_token(server: Server, token: str, code: str) -> None:
    with pytest.RaisesGroup(trio_websocket.ConnectionRejected, flatten_subgroups=True) as caught:
        async with open_client(f"{server.url}?token={token}"):
            pytest.fail("it was accepted")
    rejected = caught.value.exceptions[0]
    assert isinstance(rejected, trio_websocket.ConnectionRejected)
    assert rejected.status_code == 401
    server.upgrade(f"?token={token}").refuses(401, code)


async def test_connection_fails_without_token(server: Server) -> None:
    with pytest.RaisesGroup(trio_websocket.ConnectionRejected, flatten_subgroups=True) as caught:
        async with open_client(server.url):
            pytest.fail("it was accepted")
    rejected = caught.value.exceptions[0]
    assert isinstance(rejected, trio_websocket.ConnectionRejected)
    assert rejected.status_code == 401
    server.upgrade().refuses(401, "AUTH_REQUIRED")


@pytest.mark.parametrize("way", ["query", "header", "subprotocol", "ticket"])
async def test_jwt_authentication_flow_validation(server: Server, way: str) -> None:
    token = sign("alice", permissions=["read"])
    coded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    bearer = ("Authorization", f"Bearer {token}")
    query, protocols, headers = "", [SUBPROTOCOL], []
    if way == "query":
        query = f"?token={token}"
    elif way == "header":
        headers.append(bearer)
    elif way == "subprotocol":
        protocols.append(f"jwt.{coded}")
    else:
        query = f"?ticket={server.http('POST', '/ws/ticket', [bearer]).json()['ticket']}"
    async with open_client(server.url + query, subprotocols=protocols, headers=headers) as client:
        hello = await client.expect("connection_established")
        assert hello["payload"]["user_id"] == "alice"
        assert client.socket.subprotocol == SUBPROTOCOL

        # A new token replaces the old one; an invalid one or one of another user does not.
        await client.send("auth", {"token": sign("alice", seconds=7200)}, "a-1")
        renewed = await client.expect("auth_ok")
        assert renewed["correlation_id"] == "a-1"
        assert renewed["payload"]["expires_at"] > hello["payload"]["server_time"] + 7000
        for wrong in ("garbage", sign("bob"), sign("alice", secret="x" * 40)):
            await client.send("auth", {"token": wrong})
            error = await client.error("INVALID_TOKEN")
            assert error["recoverable"]
            assert wrong not in str(error)
        await client.answers()
