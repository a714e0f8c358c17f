"""A real nginx with the project's own configuration, on free ports and in a folder of its own.

    with nginx(tmp_path, server.address) as proxy:
        proxy.url                     # wss://127.0.0.1:PORT/ws
        proxy.reload()
        proxy.access_log()

The program is the machine's own, or Debian's package, fetched and unpacked without being installed.
Where there is neither, tests that need it are skipped, and say so; in CI they fail.
"""

import fcntl
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
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

from support.ports import kept_port
from support.server import PATIENCE, Headers

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
KEPT_IN = Path(__file__).parents[2] / ".nox"
PACKAGES = ("nginx", "nginx-common")
NAME = "127.0.0.1"  # whom the certificate is for: the configuration's is an example
FETCH_SECONDS = 120.0
LOOK_SECONDS = 0.02


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere: the environment lacks something."""
    text = f"NOT TESTED with nginx, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@cache
def program() -> Path:
    """Return the program."""
    if (own := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) is not None:
        return Path(own)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        missing("nginx, or apt-get to fetch it with")
    KEPT_IN.mkdir(exist_ok=True)
    folder = KEPT_IN / "debian-nginx"  # "nginx" is the session's own environment
    # Of several who find nothing one fetches, and the others wait for it.
    with folder.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(folder)
    return folder / "usr" / "sbin" / "nginx"


def _fetch(folder: Path) -> None:
    draft = Path(tempfile.mkdtemp(prefix="nginx-draft-", dir=KEPT_IN))
    try:
        draft.chmod(0o755)
        # Lists of its own: those of the machine may be missing, or too old, and only root's.
        for part in ("state/lists/partial", "cache/archives/partial"):
            (draft / part).mkdir(parents=True)
        own = [f"-oDir::State={draft}/state", f"-oDir::Cache={draft}/cache", "-qq"]
        _run(["apt-get", *own, "update"], draft)
        _run(["apt-get", *own, "download", *PACKAGES], draft)
        for package in draft.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), str(draft)], draft)
        shutil.rmtree(draft / "state")
        shutil.rmtree(draft / "cache")
        draft.rename(folder)  # whole or not at all
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603 - a test's own command line
        command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
    )
    if done.returncode != 0:
        missing(f"Debian's package: {done.stderr[-500:]}")


@frozen
class Nginx:
    """An nginx that runs.

    Attributes:
        process: Its master.
        folder: Its configuration and logs.
        port: Where it speaks TLS.
        plain_port: Where it sends pages to TLS.
        tls: What trusts its certificate.
        authority: The file of the authority behind that.
    """

    process: "subprocess.Popen[bytes]"
    folder: Path
    port: int
    plain_port: int
    tls: ssl.SSLContext
    authority: Path

    @property
    def url(self) -> str:
        """The WebSocket behind it."""
        return f"wss://{NAME}:{self.port}/ws"

    def http(
        self, method: str, path: str, headers: Headers = (), **options: Any
    ) -> httpx2.Response:
        """Ask over HTTP with TLS."""
        with httpx2.Client(timeout=PATIENCE, trust_env=False, verify=self.tls) as client:
            return client.request(
                method, f"https://{NAME}:{self.port}{path}", headers=list(headers), **options
            )

    def workers(self) -> set[int]:
        """Return the process ids of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in path.read_text().split()}

    def reload(self) -> None:
        """Read the configuration again; return when the workers of before are gone."""
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while not (now := self.workers()) or now & before:
            assert time.monotonic() < deadline, "the workers of before are still there"
            time.sleep(LOOK_SECONDS)

    def logs(self) -> str:
        """Return all that its logs have."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def wait_log(self, text: str) -> str:
        """Return all that its logs have once this is among it: lines follow their answers."""
        deadline = time.monotonic() + PATIENCE
        while text not in (logs := self.logs()):
            assert time.monotonic() < deadline, logs
            time.sleep(LOOK_SECONDS)
        return logs


@contextmanager
def nginx(folder: Path, target: str, changes: Mapping[str, str] = {}) -> Iterator[Nginx]:
    """Run nginx in front of an address, with the deployed configuration.

    Args:
        folder: An empty folder.
        target: The server's address.
        changes: What to write instead of parts of the configuration, which have to be there.
    """
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
            "server 127.0.0.1:8000 ": f"server {target} ",
            "http {": "http {"
            + "".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY),
        }
        text = CONFIGURATION.read_text()
        for old, new in {**here, **changes}.items():
            assert old in text, f"deploy/nginx.conf has no {old!r}"
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
            time.sleep(LOOK_SECONDS)
        else:
            return
    raise AssertionError("nginx is not ready")
