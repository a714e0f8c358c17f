"""Compression as a client of another project sees it: our listener, and Hypercorn's command."""

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from playwright.sync_api import expect
from support.browser import answers, chromium, said, say, sign_in, visiting
from support.deflating import MIB, RSV1, bomb, deflated_frame, server_messages
from support.server import (
    PATIENCE,
    Frame,
    Server,
    open_line,
    serving,
    sign,
    stock_serving,
    upgrade_request,
)
from support.wire import CLOSE, FIN, TEXT, raw_frame
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame as WebSocketFrame
from websockets.protocol import State
from websockets.uri import parse_uri

pytestmark = pytest.mark.unmeasured

LIMIT = 10_240  # bytes of a message; the hard limit is 16 times this
LONG = "a long message, " * 500
OFFER = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
RUNS = {"own": serving, "stock": stock_serving}


@pytest.fixture(scope="module", params=RUNS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("server")
    environ = {"WEBSOCKET_COMPRESSION": "true", "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100"}
    with RUNS[request.param](directory, **environ) as running:
        yield running


class Client:
    """A client of `websockets`, without its network.

    Attributes:
        core: Its protocol.
        frames: The frames of the server so far.
        bytes_in: The size of what the server has sent.
    """

    def __init__(self, server: Server, user: str) -> None:
        self.core = ClientProtocol(
            parse_uri(f"{server.url}?token={sign(user)}"),
            extensions=[ClientPerMessageDeflateFactory()],
        )
        self.frames: list[WebSocketFrame] = []
        self.bytes_in = 0
        self._sock = open_line(server.address)
        self.core.send_request(self.core.connect())
        self.flush()
        while self.core.state is State.CONNECTING:
            self.read()

    def flush(self) -> None:
        """Write what was prepared."""
        self._sock.sendall(b"".join(self.core.data_to_send()))

    def read(self) -> None:
        """Read once."""
        data = self._sock.recv(MIB)
        assert data, "the server closed"
        self.bytes_in += len(data)
        self.core.receive_data(data)
        self.frames += [
            one for one in self.core.events_received() if isinstance(one, WebSocketFrame)
        ]

    def until(self, kind: str) -> Frame:
        """Return the next frame of this type."""
        while True:
            while self.frames:
                frame: Frame = orjson.loads(self.frames.pop(0).data)
                if frame["type"] == kind:
                    return frame
            self.read()

    def say(self, content: str) -> None:
        """Send a `user_message`."""
        payload = {"content": content, "agent": "echo"}
        self.core.send_text(orjson.dumps({"type": "user_message", "payload": payload}))
        self.flush()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def test_a_conversation_is_compressed(server: Server) -> None:
    client = Client(server, "alice")
    assert [extension.name for extension in client.core.extensions] == ["permessage-deflate"]
    before = client.bytes_in
    client.say(LONG)
    assert LONG in client.until("agent_completed")["payload"]["result"]
    assert client.bytes_in - before < len(LONG)
    client.close()


def counted(server: Server) -> dict[str, float]:
    """Return the metric of compression: its values by direction and form."""
    found = re.findall(
        r'^netra_compression_bytes_total\{direction="(\w+)",form="(\w+)"\} (\S+)$',
        server.http("GET", "/metrics").text,
        re.MULTILINE,
    )
    assert len(found) == 4
    return {f"{direction} {form}": float(value) for direction, form, value in found}


def test_a_metric_counts_both_forms(server: Server) -> None:
    before = counted(server)
    client = Client(server, "metric")
    client.say(LONG)
    client.until("agent_completed")
    client.close()
    after = counted(server)
    for direction in ("sent", "received"):
        plain, compressed = (
            after[f"{direction} {form}"] - before[f"{direction} {form}"]
            for form in ("plain", "compressed")
        )
        assert plain > len(LONG)
        assert 0 < compressed < plain / 5


@pytest.mark.parametrize("server", ["own"], indirect=True)
def test_a_browser_compresses_by_itself(server: Server) -> None:
    before = counted(server)
    with chromium() as browser, visiting(browser, server.address) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, LONG)
        expect(said(page)).to_contain_text(LONG.strip(), timeout=PATIENCE * 1000)
        expect(answers(page)).not_to_be_empty(timeout=PATIENCE * 1000)
    after = counted(server)
    assert after["received plain"] - before["received plain"] > len(LONG)
    assert after["received compressed"] - before["received compressed"] < len(LONG) / 5


def test_the_limit_of_a_message_counts_inflated_bytes(server: Server) -> None:
    client = Client(server, "limits")
    client.core.send_text(b"x" * (LIMIT + 1))
    client.flush()
    error = client.until("error")["payload"]
    assert (error["code"], error["recoverable"]) == ("MESSAGE_TOO_LARGE", True)
    client.core.send_text(b"x" * 16 * LIMIT)
    client.flush()
    error = client.until("error")["payload"]
    assert (error["code"], error["recoverable"]) == ("MESSAGE_TOO_LARGE", True)
    client.core.send_text(b"x" * (16 * LIMIT + 1))
    client.flush()
    error = client.until("error")["payload"]
    assert (error["code"], error["recoverable"]) == ("MESSAGE_TOO_LARGE", False)
    while client.core.close_rcvd is None:
        client.read()
    assert client.core.close_rcvd.code == 1009
    client.close()


HOSTILE = {
    "a bomb": (deflated_frame(bomb(50 * MIB)), 1009),
    "noise": (deflated_frame(b"noise"), 1007),
    "a reserved bit": (raw_frame(FIN | RSV1 | 0x20 | TEXT, b"\x00"), 1002),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_ends_one_connection(server: Server, name: str) -> None:
    data, code = HOSTILE[name]
    other = Client(server, "other")
    with open_line(server.address) as sock:
        path = f"/ws?token={sign('mallory')}"
        sock.sendall(upgrade_request(server.address, path, [OFFER]) + data)
        answer = b""
        while more := sock.recv(MIB):
            answer += more
            _, _, frames = answer.partition(b"\r\n\r\n")
            if frames.endswith(code.to_bytes(2, "big")) or b"too_big" in frames[-20:]:
                break
    opcode, payload, _ = list(server_messages(frames))[-1]
    assert (opcode, payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
    other.say(LONG)
    other.until("agent_completed")
    other.close()
    assert "Traceback" not in server.process.err.text


@pytest.mark.parametrize("value", ["permessage-deflate;", "a=b", '"quoted"'])
def test_a_header_that_is_no_list_of_extensions_is_refused(server: Server, value: str) -> None:
    answer = server.upgrade("", (OFFER[0], value))
    error = answer.refuses(400, "BAD_REQUEST")
    assert "Sec-WebSocket-Extensions" in error["error"]


def test_a_client_without_an_acceptable_offer_gets_none(server: Server) -> None:
    for headers in ([], [(OFFER[0], "permessage-deflate; unknown")]):
        answer = server.upgrade(f"?token={sign('plain')}", *headers)
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers
