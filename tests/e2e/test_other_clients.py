"""Conversations with WebSocket clients of other projects.

The command line and the two clients of `websockets`, trio-websocket, npm's `ws`, Node's own, and a
real browser on a page of an allowed origin and of a foreign one.
"""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import websockets.asyncio.client
import websockets.sync.client
from support.node import run_script
from support.pages import pages
from support.server import (
    PATIENCE,
    SUBPROTOCOL,
    Frame,
    Process,
    Server,
    bearer,
    serving,
    sign,
)
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

pytestmark = pytest.mark.unmeasured

KINDS = ["message_confirmed", "agent_started", "partial_result", "agent_completed"]
EVIL = "evil.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("server"),
        WEBSOCKET_MAX_MESSAGE_RATE="1000",
        WEBSOCKET_MAX_CONNECTIONS_PER_USER="50",
    ) as running:
        yield running


def message(kind: str, **payload: Any) -> str:
    return orjson.dumps({"type": kind, "payload": payload}).decode()


def check_conversation(frames: list[Frame], text: str) -> None:
    """Check the frames of a client that sent one message to the echo agent."""
    assert [frame["type"] for frame in frames if "seq" in frame] == KINDS
    assert frames[0]["type"] == "connection_established"
    assert frames[-1]["payload"]["result"] == text
    assert [frame["seq"] for frame in frames if "seq" in frame] == [1, 2, 3, 4]


def ended(server: Server, user: str, count: int = 1) -> list[Frame]:
    """Wait until that many connections of the user have ended, and return their log lines."""

    def find(lines: list[str]) -> list[Frame] | None:
        logs = [orjson.loads(line) for line in lines if '"connection_ended"' in line]
        found = [line for line in logs if line["user_id"] == user]
        return found if len(found) >= count else None

    return server.process.err.wait_for(find)


# --- Python


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_sync(server: Server, compression: str | None) -> None:
    user = f"sync-{compression}"
    with websockets.sync.client.connect(
        server.url,
        additional_headers=[bearer(user)],
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=compression,
        proxy=None,
        open_timeout=PATIENCE,
    ) as client:
        assert client.subprotocol == SUBPROTOCOL
        frames = [orjson.loads(client.recv(PATIENCE))]
        client.send(message("ping", n=1))
        assert orjson.loads(client.recv(PATIENCE))["payload"] == {"n": 1}
        client.send(message("user_message", content="grüße", agent="echo"))
        while frames[-1]["type"] != "agent_completed":
            frames.append(orjson.loads(client.recv(PATIENCE)))
        client.send(message("ack", seq=4))
        assert client.ping().wait(PATIENCE)
        # A message in several fragments is one message.
        client.send(iter([message("ping", n=1)[:5], message("ping", n=1)[5:]]))
        assert orjson.loads(client.recv(PATIENCE))["type"] == "pong"
    check_conversation(frames, "grüße")
    assert (client.close_code, ended(server, user)[0]["peer_code"]) == (1000, 1000)


def test_websockets_asyncio(server: Server) -> None:
    async def talk() -> list[Frame]:
        token = base64.urlsafe_b64encode(sign("asyncio").encode()).decode().rstrip("=")
        async with websockets.asyncio.client.connect(
            server.url,
            subprotocols=[Subprotocol(SUBPROTOCOL), Subprotocol(f"jwt.{token}")],
            proxy=None,
        ) as client:
            assert client.subprotocol == SUBPROTOCOL
            await client.send(message("user_message", content="x" * 9000, agent="echo"))
            frames = []
            async for data in client:
                frames.append(orjson.loads(data))
                if frames[-1]["type"] == "agent_completed":
                    break
            return frames

    frames = asyncio.run(asyncio.wait_for(talk(), PATIENCE))
    check_conversation(frames, "x" * 9000)
    assert ended(server, "asyncio")[0]["peer_code"] == 1000


def test_websockets_gets_the_reason_of_a_refusal(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        websockets.sync.client.connect(f"{server.url}?token=wrong", proxy=None)
    assert refused.value.response.status_code == 401
    assert orjson.loads(refused.value.response.body)["code"] == "INVALID_TOKEN"


def test_websockets_command_line(server: Server) -> None:
    command = ["-m", "websockets", f"{server.url}?token={sign('typing')}"]
    with Process(command, directory=server.process.directory, environ={}, typed=True) as client:

        def shown(text: str) -> None:
            client.out.wait_for(lambda lines: any(text in line for line in lines))

        shown('"connection_established"')
        client.type(message("user_message", content="typed by hand", agent="echo"))
        shown('"result":"typed by hand"')
        client.type("hello")
        shown('"code":"JSON_PARSE_ERROR"')
        client.hang_up()
        assert client.wait() == 0
        assert "Connection closed: 1000 (OK)." in client.out.text
    assert ended(server, "typing")[0]["peer_code"] == 1000


@pytest.mark.parametrize("protocols", [(), (SUBPROTOCOL,)])
async def test_trio_websocket(server: Server, protocols: tuple[str, ...]) -> None:
    async with server.connect("trio", subprotocols=protocols) as client:
        assert client.socket.subprotocol == (protocols[0] if protocols else None)
        await client.say("hello", agent="echo")
        frames = [client.hello, *await client.until("agent_completed")]
        check_conversation(frames, "hello")
        await client.socket.ping(b"beat")
        await client.answers()


# --- Node


@pytest.fixture(scope="module")
def of_node(server: Server) -> Any:
    return run_script("clients.mjs", {"url": server.url, "token": sign("node")})


@pytest.mark.parametrize(
    ("name", "protocol"), [("ws", SUBPROTOCOL), ("plain", ""), ("builtin", SUBPROTOCOL)]
)
def test_clients_of_node(of_node: Any, name: str, protocol: str) -> None:
    talk = of_node[name]
    assert (talk["code"], talk["clean"], talk["protocol"]) == (1000, True, protocol)
    assert talk["extensions"] == ""
    # A frame that is sent in the open event arrives before the first frame is read.
    assert talk["frames"][1]["type"] == "pong"
    assert talk["frames"][1]["payload"] == {"from": name}
    check_conversation(talk["frames"], f"hello from {name}")


def test_ws_gets_the_reason_of_a_refusal(of_node: Any) -> None:
    assert of_node["refused"]["status"] == 401
    assert of_node["refused"]["body"]["code"] == "INVALID_TOKEN"
    assert of_node["pong"] == "are you there"


# --- a browser


@pytest.fixture(scope="module")
def of_browser(server: Server) -> Any:
    with pages(b"<!doctype html><title>a page</title>") as port:
        return run_script(
            "page.mjs",
            {
                "server": server.address,
                "token": sign("browser"),
                "allowed": f"http://localhost:{port}/",
                "foreign": f"http://{EVIL}:{port}/",
            },
        )


@pytest.mark.parametrize(
    ("way", "protocol"),
    [("by_ticket", SUBPROTOCOL), ("by_subprotocol", SUBPROTOCOL), ("by_query", "")],
)
def test_a_browser_converses(of_browser: Any, way: str, protocol: str) -> None:
    talk = of_browser["allowed"][way]
    assert talk["opened"]
    assert (talk["code"], talk["clean"]) == (1000, True)
    assert (talk["protocol"], talk["extensions"]) == (protocol, "")
    check_conversation(talk["frames"], "hello 🌍")


def test_a_page_of_an_allowed_origin_reads_http(of_browser: Any, server: Server) -> None:
    page = of_browser["allowed"]
    assert page["origin"].startswith("http://localhost:")
    assert page["config"]["status"] == 200
    expected = server.http("GET", "/ws/config").json()["websocket_config"]
    got = page["config"]["body"]["websocket_config"]
    assert got["connection_limits"] == expected["connection_limits"]
    assert page["ticket"]["body"]["expires_in"] == 30
    # A browser hides why an upgrade was refused; the answer for the ticket has the reason.
    assert page["no_ticket"]["status"] == 401
    assert page["no_ticket"]["body"]["code"] == "INVALID_TOKEN"


@pytest.mark.parametrize("way", ["by_ticket_again", "without"])
def test_a_browser_without_a_valid_credential_is_refused(of_browser: Any, way: str) -> None:
    talk = of_browser["allowed"][way]
    assert not talk["opened"]
    assert (talk["code"], talk["clean"], talk["frames"]) == (1006, False, [])


def test_a_browser_gets_the_close_code(of_browser: Any) -> None:
    talk = of_browser["allowed"]["failing"]
    codes = [frame["payload"].get("code") for frame in talk["frames"]]
    assert codes == [
        None,
        "INVALID_MESSAGE_TYPE",
        *["JSON_PARSE_ERROR"] * 4,
        "ERROR_LIMIT_EXCEEDED",
    ]
    assert (talk["code"], talk["clean"]) == (4400, True)


def test_a_foreign_page_gets_nothing(of_browser: Any, server: Server) -> None:
    page = of_browser["foreign"]
    assert page["origin"].startswith(f"http://{EVIL}:")
    for name in ("config", "ticket", "no_ticket"):
        assert page[name] == {"failed": "TypeError"}
    for name in ("by_ticket", "by_subprotocol", "by_query", "without", "failing"):
        assert (page[name]["opened"], page[name]["code"]) == (False, 1006)
    for path in ("/ws", "/ws/ticket"):
        server.process.wait_log("opening_refused", origin=page["origin"], path=path)
    refusals = server.process.logs("opening_refused", origin=page["origin"])
    assert {line["code"] for line in refusals} == {"ORIGIN_NOT_ALLOWED"}
    assert {line["path"] for line in refusals} == {"/ws", "/ws/ticket"}
