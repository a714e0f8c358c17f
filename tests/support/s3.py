"""A server of S3 in a process of its own: nanio, which keeps objects as files of a folder.

It is a server for use, not a mock: it verifies the signature of each request, streams bodies both
ways, answers ranges, and keeps its objects when it is killed.

with running(folder) as server:
    server.environ   # for a client, and for a server of ours
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from attrs import define, field

from support.ports import kept_port

BUCKET = "files"
STARTING = 100.0  # seconds, for a busy machine


@define
class S3Server:
    """A running server.

    Attributes:
        folder: Where it keeps its objects.
        port: Where it listens.
        process: Its process.
    """

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def url(self) -> str:
        """The value of FILES_URL for it."""
        return f"s3://{BUCKET}/some/prefix"

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables of a client."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def objects(self) -> list[Path]:
        """The objects of the bucket."""
        return [path for path in (self.folder / BUCKET / "some").rglob("*") if path.is_file()]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(self.folder)]
        self.process = subprocess.Popen(  # noqa: S603 - a program of the test environment
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            env={
                "PATH": os.environ["PATH"],
                "NANIO_ACCESS_KEY": self.environ["AWS_ACCESS_KEY_ID"],
                "NANIO_SECRET_KEY": self.environ["AWS_SECRET_ACCESS_KEY"],
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "it has ended"
            try:
                httpx2.get(f"http://127.0.0.1:{self.port}/", timeout=STARTING)
            except httpx2.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("it does not answer")

    def stop(self) -> None:
        """Kill it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STARTING)


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    """Run a server that has an empty bucket."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    with kept_port() as port:
        server = S3Server(folder, port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
