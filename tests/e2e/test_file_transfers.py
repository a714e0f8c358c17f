"""Files over real sockets: curl on each host, cut and slow bodies, workers, S3 and kill -9."""

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.curl import answered
from support.s3 import running as s3_running
from support.server import Server, bearer, serving, servings, sign, stock_serving

from netra_trio.server.asgi import CLOSING

pytestmark = pytest.mark.unmeasured

MIB = 1024 * 1024
LARGEST = 25 * MIB
GROWTH = 24 * MIB  # of the memory of a server by a transfer of 25 MiB, with room for its allocator


@pytest.fixture(scope="module", params=["own host", "stock host"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Return each host in turn."""
    folder = tmp_path_factory.mktemp("host")
    start = serving if request.param == "own host" else stock_serving
    with start(folder) as server:
        yield server


@pytest.fixture(scope="module")
def largest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the largest size."""
    path = tmp_path_factory.mktemp("content") / "largest.bin"
    path.write_bytes(os.urandom(LARGEST))
    return path


def upload(server: Server, user: str, *arguments: str, query: str = "") -> tuple[int, Any]:
    """Upload with curl; return the status and the answer."""
    url = f"http://{server.address}/ws/files{query}"
    status, body = answered("-H", f"Authorization: Bearer {sign(user)}", *arguments, url)
    return status, json.loads(body)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def peak(server: Server) -> int:
    """Return the most memory that a server has had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)) * 1024


def test_curl_uploads_a_form_and_a_body(host: Server, tmp_path: Path) -> None:
    path = tmp_path / "na\u00efve report.md"
    path.write_text("# Report\n")
    expected = {"media_type": "text/markdown", "bytes": 9, "sha256": digest(path)}
    for arguments, query in (
        (("-F", f"file=@{path}"), ""),
        (("-F", "comment=x", "-F", f"file=@{path};type=image/png"), ""),
        (("--data-binary", f"@{path}"), "?name=report.md"),
        (("-X", "POST", "-T", str(path)), "?name=report.md"),
        (("-X", "POST", "-T", "-", "-H", "Transfer-Encoding: chunked"), "?name=none"),
    ):
        status, answer = upload(host, "curl", *arguments, query=query)
        assert status == 200, answer
        if query != "?name=none":
            assert answer == {"file_id": answer["file_id"], **expected}
    status, answer = upload(host, "curl", "-F", f"a=@{path}", "-F", f"b=@{path}")
    assert (status, answer["code"]) == (400, "BAD_REQUEST")
    status, answer = upload(host, "curl", "-F", "comment=x")
    assert (status, answer["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_the_largest_file_there_and_back(
    host: Server, largest: Path, tmp_path: Path, version: str
) -> None:
    before = peak(host)
    # curl asks for `100 Continue` before a body of this size.
    status, answer = upload(host, "large", version, "-F", f"file=@{largest}")
    assert (status, answer["sha256"]) == (200, digest(largest))
    got = tmp_path / "got"
    headers = [version, "-H", f"Authorization: Bearer {sign('large')}", "-o", str(got)]
    status, _ = answered(*headers, f"http://{host.address}/ws/files/{answer['file_id']}")
    assert (status, digest(got)) == (200, answer["sha256"])
    assert peak(host) - before < GROWTH


def test_one_byte_more_is_refused(host: Server, largest: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.write_bytes(largest.read_bytes() + b"x")
    for arguments in (
        ("--http2-prior-knowledge", "-F", f"file=@{more}"),
        ("--data-binary", f"@{more}"),
        ("-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", str(more)),
    ):
        status, answer = upload(host, "more", *arguments)
        assert (status, answer["code"]) == (413, "MESSAGE_TOO_LARGE")


def raw_upload(server: Server, user: str, length: int) -> socket.socket:
    """Begin an upload of a raw body."""
    name, port = server.address.rsplit(":", 1)
    peer = socket.create_connection((name, int(port)))
    head = [
        "POST /ws/files HTTP/1.1",
        f"Host: {server.address}",
        f"Authorization: Bearer {sign(user)}",
        f"Content-Length: {length}",
    ]
    peer.sendall("".join(f"{line}\r\n" for line in (*head, "")).encode())
    return peer


def spooled(folder: Path) -> list[Path]:
    """Return the temporary files of uploads below the folder of a server."""
    return list((folder / ".netra" / "files" / "spool").glob("*"))


def until(condition: Any, what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_an_upload_that_is_cut_leaves_nothing_and_is_repeated(
    tmp_path: Path, largest: Path
) -> None:
    with serving(tmp_path) as server:
        with raw_upload(server, "cut", LARGEST) as peer, largest.open("rb") as content:
            peer.sendall(content.read(10 * MIB))
            until(lambda: spooled(tmp_path), "no temporary file")
        until(lambda: not spooled(tmp_path), "the temporary file is left")
        status, answer = upload(server, "cut", "--data-binary", f"@{largest}")
        assert (status, answer["sha256"]) == (200, digest(largest))
        files = [path for path in (tmp_path / ".netra" / "files").rglob("*") if path.is_file()]
        assert [path.name for path in files] == [answer["file_id"]]


def test_a_body_that_stalls(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_SEND_TIMEOUT="300") as server:
        with raw_upload(server, "stall", 100) as peer:
            peer.sendall(b"x")
            answer = b""
            while data := peer.recv(65_536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_killed_server_leaves_nothing_after_a_while(tmp_path: Path, largest: Path) -> None:
    with servings(tmp_path) as start:
        server = start()
        with raw_upload(server, "killed", LARGEST) as peer, largest.open("rb") as content:
            peer.sendall(content.read(10 * MIB))
            until(lambda: spooled(tmp_path), "no temporary file")
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        (left,) = spooled(tmp_path)
        os.utime(left, (0, 0))  # as if an hour had passed
        start()
        until(lambda: not spooled(tmp_path), "the temporary file is left")


def test_two_workers_have_the_same_files(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", FILES_USER_MAX_BYTES="70") as server:
        mine = [bearer("workers")]
        stored = server.http("POST", "/ws/files", mine, content=b"content")
        file_id = stored.json()["file_id"]
        body = json.dumps({"file_id": file_id}).encode()
        issued = server.http("POST", "/ws/ticket", mine, content=body).json()["ticket"]
        for _ in range(10):  # each connection may be of either worker
            with_token = server.http("GET", f"/ws/files/{file_id}", mine)
            with_ticket = server.http("GET", f"/ws/files/{file_id}?ticket={issued}")
            assert [with_token.content, with_ticket.content] == [b"content"] * 2
        again = [server.http("POST", "/ws/files", mine, content=b"content") for _ in range(11)]
        assert [answer.status_code for answer in again] == [200] * 9 + [429] * 2
        assert [answer.json()["code"] for answer in again[9:]] == ["QUEUE_FULL"] * 2


def test_files_in_s3(tmp_path: Path, largest: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with (
        s3_running(tmp_path / "s3") as s3,
        serving(folder, FILES_URL=s3.url, TMPDIR=str(tmp_path), **s3.environ) as server,
    ):
        status, answer = upload(server, "s3", "-F", f"file=@{largest}")
        assert (status, answer["sha256"]) == (200, digest(largest))
        assert [digest(path) for path in s3.objects if path.name == answer["file_id"]] == [
            answer["sha256"]
        ]
        got = tmp_path / "got"
        headers = ["-H", f"Authorization: Bearer {sign('s3')}", "-o", str(got)]
        url = f"http://{server.address}/ws/files/{answer['file_id']}"
        assert answered(*headers, url)[0] == 200
        assert digest(got) == answer["sha256"]
        assert answered(*headers, "-r", "5-104", url)[0] == 206
        assert got.read_bytes() == largest.read_bytes()[5:105]
        assert server.http("GET", "/ws/health").json()["checks"]["files"] == "ok"
        s3.stop()
        assert server.http("GET", "/ws/health").json()["checks"]["files"] != "ok"
        status, answer = upload(server, "s3", "--data-binary", "x")
        assert (status, answer["code"]) == (503, "SERVICE_UNAVAILABLE")
        s3.start()
        assert upload(server, "s3", "--data-binary", "x")[0] == 200


@pytest.mark.parametrize("start", [serving, stock_serving], ids=["own host", "stock host"])
def test_a_drain_waits_for_transfers(start: Any, tmp_path: Path) -> None:
    content = os.urandom(LARGEST)
    with start(tmp_path) as server:
        path = tmp_path / "content"
        path.write_bytes(content)
        status, answer = upload(server, "alice", "--data-binary", f"@{path}")
        assert status == 200
        with raw_upload(server, "alice", 4) as sending, raw_download(server, answer) as receiving:
            sending.sendall(b"ab")
            received = receiving.recv(MIB)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait_log("draining")
            time.sleep(2 * CLOSING)  # both go on for longer than anything else at the end
            sending.sendall(b"cd")
            assert b" 200 " in sending.recv(MIB).partition(b"\r\n")[0]
            while piece := receiving.recv(MIB):
                received += piece
        assert received.partition(b"\r\n\r\n")[2] == content
        assert server.process.wait() == 0


def test_a_drain_does_not_wait_longer_than_its_time(tmp_path: Path) -> None:
    with (
        serving(tmp_path, WEBSOCKET_DRAIN_TIMEOUT="1000") as server,
        raw_upload(server, "alice", 4),
    ):
        assert server.process.end() == 0
        [drained] = server.process.logs("drained")
        assert drained["aborted"] == 0
        assert server.process.logs("exit") == []


def raw_download(server: Server, answer: Any) -> socket.socket:
    """Begin to download a file, which is larger than what is on the way."""
    line = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    line.sendall(
        f"GET /ws/files/{answer['file_id']} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {sign('alice')}\r\nConnection: close\r\n\r\n".encode()
    )
    return line
