"""S3 over a line that damages data: every error of the libraries below becomes ours."""

import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from netra_trio.errors import StorageUnavailable
from netra_trio.files.base import CHUNK_BYTES
from netra_trio.files.s3 import S3Storage
from netra_trio.ids import FileId

SIZE = 10 * CHUNK_BYTES


def answer_damaged(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Answer one request with the first half of an object, then with bytes that TLS refuses."""
    raw, _ = listener.accept()
    with raw:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)

        def flush() -> None:
            raw.sendall(outgoing.read())

        def feed() -> None:
            flush()
            incoming.write(raw.recv(65_536))

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                feed()
        head = b""
        while b"\r\n\r\n" not in head:
            try:
                head += tls.read()
            except ssl.SSLWantReadError:
                feed()
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode()
        tls.write(answer + bytes(SIZE // 2))
        flush()
        raw.sendall(b"\x17\x03\x03\x00\x20" + os.urandom(32))  # a record with a false signature


@contextmanager
def damaging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve, with TLS, an object that is damaged on the way."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name, value in {
            "AWS_ENDPOINT_URL": f"https://127.0.0.1:{listener.getsockname()[1]}",
            "AWS_CA_BUNDLE": str(tmp_path / "ca.pem"),
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        thread = threading.Thread(target=answer_damaged, args=(listener, context))
        thread.start()
        yield
        thread.join(100)
        assert not thread.is_alive()


async def test_content_that_is_damaged_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with damaging(tmp_path, monkeypatch):
        storage, received = S3Storage("files", ""), bytearray()
        async with storage.open(), storage.read(FileId("file_1")) as chunks:
            with pytest.raises(StorageUnavailable):
                await collect(chunks, received)
        assert 0 < len(received) <= SIZE // 2


async def collect(chunks: AsyncIterator[bytes], received: bytearray) -> None:
    async for chunk in chunks:
        received += chunk
