"""A real Prometheus and promtool, from Debian's package, unpacked without installation.

    check_metrics(text)
    with prometheus(tmp_path, target="127.0.0.1:8000") as server:
        series = server.query("netra_connections")

If the programs are installed, they are used. Otherwise apt downloads the package, with package
lists in a separate folder, so that it needs no permission and changes nothing. Without apt or a
network, tests that need it are skipped with a reason; in CI they fail.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest
from attrs import field, frozen

from support.debian import unpacked
from support.ports import HOST, kept_port

CHECK_SECONDS = 100.0
READY_SECONDS = 100.0
PATIENCE = 100.0  # seconds: only a bound
POLL_SECONDS = 0.05  # seconds between two checks of another process
SCRAPE = "250ms"
READY = 200  # the HTTP status; before that it is 503

_CONFIG = """
global:
  scrape_interval: {scrape}
  scrape_timeout: {scrape}
scrape_configs:
  - job_name: netra
    static_configs:
      - targets: ["{target}"]
"""


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere: a requirement is missing."""
    text = f"NOT TESTED with Prometheus, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@cache
def programs() -> Path:
    """Return the folder with `prometheus` and `promtool`; download them if necessary."""
    found = [shutil.which(name) for name in ("prometheus", "promtool")]
    if found[0] is not None and found[1] is not None:
        return Path(found[0]).parent
    return unpacked("prometheus", missing, with_dependencies=False) / "usr" / "bin"


def check_metrics(text: str) -> str:
    """Return the complaints of promtool about an exposition; empty if there are none."""
    done = subprocess.run(  # noqa: S603 - a test's own command line
        [programs() / "promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=CHECK_SECONDS,
        check=False,
    )
    output = (done.stdout + done.stderr).strip()
    return output or ("" if done.returncode == 0 else f"exit code {done.returncode}")


def check(folder: Path, kind: str, text: str, *options: str) -> int:
    """Return the exit code of promtool for a file of a kind: `config` or `rules`."""
    file = folder / f"{kind}.yml"
    file.write_text(text)
    done = subprocess.run(  # noqa: S603 - a test's own command line
        [programs() / "promtool", "check", kind, *options, file],
        capture_output=True,
        timeout=CHECK_SECONDS,
        check=False,
    )
    return done.returncode


@frozen
class Prometheus:
    """A Prometheus that scrapes a server."""

    address: str
    client: httpx2.Client = field(
        factory=lambda: httpx2.Client(timeout=PATIENCE, trust_env=False, verify=False)
    )

    def query(self, expression: str) -> list[Any]:
        """Return the current series of an expression."""
        return self._ask("/api/v1/query", query=expression)["result"]  # type: ignore[no-any-return]

    def label_values(self, label: str, metric: str) -> list[str]:
        """Return the values of a label in the series of a metric."""
        path = f"/api/v1/label/{label}/values"
        return self._ask(path, **{"match[]": metric})  # type: ignore[return-value]

    def is_ready(self) -> bool:
        """Whether it is ready and has scraped the server."""
        try:
            is_up = self.client.get(f"http://{self.address}/-/ready").status_code == READY
        except httpx2.TransportError:
            return False
        return is_up and bool(self.query("up == 1"))

    def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        body = self.client.get(f"http://{self.address}{path}", params=parameters).json()
        assert body["status"] == "success", body
        return body["data"]  # type: ignore[no-any-return]


@contextmanager
def prometheus(folder: Path, *, target: str) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `host:port`; yield it after its first scrape."""
    program = programs() / "prometheus"
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(scrape=SCRAPE, target=target))
    with kept_port() as port, (folder / "prometheus.log").open("w") as log:
        server = Prometheus(f"{HOST}:{port}")
        process = subprocess.Popen(  # noqa: S603 - a test's own command line
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={server.address}",
                "--log.level=warn",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_ready(server, process, folder / "prometheus.log")
            yield server
        finally:
            server.client.close()
            process.kill()
            process.wait()


def _wait_ready(server: Prometheus, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not server.is_ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(POLL_SECONDS)
