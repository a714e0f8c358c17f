"""A real nginx with the configuration of the project, on free ports and in a temporary folder.

    with nginx(tmp_path, server.address) as proxy:
        proxy.url                     # wss://127.0.0.1:PORT/ws
        proxy.reload()
        proxy.access_log()

    with nginx(tmp_path, first.address, second.address) as proxy:
        proxy.http("GET", "/ws/health")   # of either

The program is the installed one, or Debian's package, which is unpacked without installation.
Without both, tests that need it are skipped with a reason; in CI they fail.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest
import trustme
from attrs import frozen

from support.debian import unpacked
from support.ports import kept_port
from support.server import PATIENCE, Headers

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIGURATION = DEPLOY / "nginx.conf"
NODES_CONFIGURATION = DEPLOY / "nginx-nodes.conf"
SERVERS = {  # the addresses of the servers in each configuration
    CONFIGURATION: ("127.0.0.1:8000",),
    NODES_CONFIGURATION: ("172.30.0.11:8000", "172.30.0.12:8000"),
}
NAME = "127.0.0.1"  # the name in the certificate, instead of the example in the configuration
POLL_SECONDS = 0.02

ORIGIN = "https://chat.example.com"
UNLIMITED = {"burst=100 nodelay": "burst=10000 nodelay"}
AGENTS = """
from pathlib import Path

import trio


async def echo(run):
    await run.emit(run.content)


async def count(run):
    await run.emit("one ")
    while not Path(f"go-{run.content}").exists():
        await trio.sleep(0.01)
    await run.emit("two")


async def wait(run):
    await run.emit("waiting")
    await trio.sleep_forever()
"""
NAMES = [f"--agent=outside_agents:{name}" for name in ("echo", "count", "wait")]


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere: a requirement is missing."""
    text = f"NOT TESTED with nginx, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@cache
def program() -> Path:
    """Return the path of nginx; download it if necessary."""
    if (own := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) is not None:
        return Path(own)
    return unpacked("nginx", missing) / "usr" / "sbin" / "nginx"


@frozen
class Nginx:
    """A running nginx.

    Attributes:
        process: The master process.
        folder: The folder of its configuration and logs.
        port: The port with TLS.
        plain_port: The port without TLS, which redirects.
        tls: A TLS context that trusts its certificate.
        authority: The file of the certificate authority.
    """

    process: "subprocess.Popen[bytes]"
    folder: Path
    port: int
    plain_port: int
    tls: ssl.SSLContext
    authority: Path

    @property
    def url(self) -> str:
        """The URL of the WebSocket."""
        return f"wss://{NAME}:{self.port}/ws"

    def http(
        self, method: str, path: str, headers: Headers = (), **options: Any
    ) -> httpx2.Response:
        """Send an HTTP request with TLS."""
        with httpx2.Client(timeout=PATIENCE, trust_env=False, verify=self.tls) as client:
            return client.request(
                method, f"https://{NAME}:{self.port}{path}", headers=list(headers), **options
            )

    def workers(self) -> set[int]:
        """Return the process ids of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in path.read_text().split()}

    def reload(self) -> None:
        """Reload the configuration; return when the old workers have ended."""
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while not (now := self.workers()) or now & before:
            assert time.monotonic() < deadline, "the workers of before are still there"
            time.sleep(POLL_SECONDS)

    def logs(self) -> str:
        """Return the text of its logs."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def wait_log(self, text: str) -> str:
        """Wait until the logs contain a text, and return them: lines are written after answers."""
        deadline = time.monotonic() + PATIENCE
        while text not in (logs := self.logs()):
            assert time.monotonic() < deadline, logs
            time.sleep(POLL_SECONDS)
        return logs


@contextmanager
def nginx(folder: Path, *targets: str, changes: Mapping[str, str] = {}) -> Iterator[Nginx]:
    """Run nginx in front of one server, or of two nodes, with the deployed configuration for that.

    Args:
        folder: An empty folder.
        targets: The address of each server.
        changes: Parts of the configuration, which have to occur, and their replacements.
    """
    ((configuration, examples),) = (
        item for item in SERVERS.items() if len(item[1]) == len(targets)
    )
    binary = program()
    authority = trustme.CA()
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    with kept_port() as port, kept_port() as plain_port:
        here = {
            "user www-data;": "daemon off;" + (" user root;" if os.geteuid() == 0 else ""),
            "pid /run/nginx.pid;": f"pid {folder}/nginx.pid;",
            "worker_processes auto;": "worker_processes 1;",
            "worker_rlimit_nofile 65536;": "worker_rlimit_nofile 1024;",
            "worker_connections 32768;": "worker_connections 512;",
            "/var/log/nginx/": f"{folder}/",
            "/etc/ssl/chat.example.com/fullchain.pem": f"{folder}/server.pem",
            "/etc/ssl/chat.example.com/privkey.pem": f"{folder}/server.pem",
            "listen 80;": f"listen {NAME}:{plain_port};",
            "listen 443 ssl;": f"listen {NAME}:{port} ssl;",
            "server_name chat.example.com;": f"server_name {NAME};",
            **{
                f"server {example} ": f"server {target} "
                for example, target in zip(examples, targets, strict=True)
            },
            "http {": "http {"
            + "".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY),
        }
        text = configuration.read_text()
        for old, new in {**here, **changes}.items():
            assert old in text, f"{configuration.name} has no {old!r}"
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        command = [str(binary), "-p", str(folder), "-c", "nginx.conf", "-e", "start.log"]
        process = subprocess.Popen(command)  # noqa: S603 - a test's own command line
        try:
            _wait_until_ready(process, port, folder)
            yield Nginx(process, folder, port, plain_port, tls, folder / "authority.pem")
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "start.log").read_text()
        try:
            socket.create_connection((NAME, port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise AssertionError("nginx is not ready")
