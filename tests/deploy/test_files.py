"""The files in `deploy/`: the unit, the container, the kernel, and what they agree on."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.deployed import CONTAINER, DEPLOY, EXIT_SECONDS, container

from netra_trio.cli.main import app
from netra_trio.config.settings import TABLE, Settings

UNIT = DEPLOY / "netra-trio.service"
NGINX = (DEPLOY / "nginx.conf", DEPLOY / "nginx-nodes.conf")
KERNEL = DEPLOY / "90-netra-trio.conf"
INSTRUCTIONS = {
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "WORKDIR",
}


def unit() -> dict[str, list[str]]:
    """Return the values of each key of the unit."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(key, []).append(value)
    return found


def number(pattern: str, file: Path) -> int:
    """Return the one number that a pattern finds in a file."""
    (found,) = re.findall(pattern, file.read_text(), re.MULTILINE)
    return int(found)


def check_command(words: list[str]) -> None:
    """Check that the command line takes these words, of which the first is the program."""
    assert Path(words[0]).name == "netra-trio"
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_the_unit_verifies(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NOT TESTED with systemd, for want of systemd-analyze")
    copy = tmp_path / UNIT.name
    program = "/opt/netra/.venv/bin/netra-trio"
    assert program in UNIT.read_text()
    # The program is not there on this machine; everything else is looked at.
    copy.write_text(UNIT.read_text().replace(program, sys.executable))
    done = subprocess.run(  # noqa: S603 - a test's own command line
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    if "Failed to" in done.stderr:
        pytest.skip(f"NOT TESTED with systemd: {done.stderr[-300:]}")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands_of_the_unit() -> None:
    for key in ("ExecStartPre", "ExecStart"):
        (line,) = unit()[key]
        check_command(shlex.split(line))


def test_the_unit_waits_for_the_drain() -> None:
    (patience,) = unit()["TimeoutStopSec"]
    assert int(patience) >= Settings().drain_timeout_ms / 1000 + EXIT_SECONDS
    assert unit()["KillSignal"] == ["SIGTERM"]


def test_the_secrets_of_the_unit() -> None:
    (line,) = unit()["Environment"]
    named = dict(word.split("=") for word in line.split())
    # One machine needs no broker of its own: `--workers` brings one. A webhook is optional.
    optional = {"REDIS_URL_FILE", "NOTIFY_WEBHOOK_SECRET_FILE"}
    known = {row.file_env for row in TABLE.values() if row.in_file} - optional
    assert set(named) == known
    credentials = {value.partition(":")[0] for value in unit()["LoadCredential"]}
    assert set(named.values()) == {f"%d/{name}" for name in credentials}


def test_files_for_ten_thousand_connections() -> None:
    connections = Settings().max_connections
    (files,) = unit()["LimitNOFILE"]
    assert int(files) > connections
    for file in NGINX:
        assert number(r"^worker_rlimit_nofile (\d+);", file) > 2 * connections
        assert number(r"^ +worker_connections (\d+);", file) > 2 * connections
    assert number(r"^fs.file-max = (\d+)$", KERNEL) > 3 * connections


def test_the_kernels_settings() -> None:
    lines = [x for x in KERNEL.read_text().splitlines() if x and not x.startswith("#")]
    for line in lines:
        name, value = re.fullmatch(r"([a-z0-9_.-]+) = ([0-9 ]+)", line).groups()  # type: ignore[union-attr]
        path = Path("/proc/sys", *name.split("."))
        if Path("/proc/sys/net/ipv4/ip_local_port_range").exists():
            assert path.exists(), f"{name}: this kernel has no such setting"
            assert len(path.read_text().split()) == len(value.split())


def test_the_container_has_known_instructions() -> None:
    instructions = container()
    assert {name for name, _ in instructions} == INSTRUCTIONS
    assert instructions[0][0] == "FROM"
    assert [rest.split()[0] for name, rest in instructions if name == "FROM"] == [
        "docker.io/library/python:3.13-slim"
    ] * 2


def test_the_container_is_not_root() -> None:
    (user,) = [rest for name, rest in container() if name == "USER"]
    assert int(user) > 0
    before_user = [name for name, _ in container()].index("USER")
    assert "RUN" not in [name for name, _ in container()][before_user:]


def test_the_command_of_the_container() -> None:
    parts = dict(container())
    check_command([*json.loads(parts["ENTRYPOINT"]), *json.loads(parts["CMD"])])


def test_the_health_check_of_the_container() -> None:
    rest = dict(container())["HEALTHCHECK"]
    program, flag, source = json.loads(rest.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    compile(source, str(CONTAINER), "exec")
