"""The metrics of a real server: Prometheus scrapes it, and each panel of the dashboard has data."""

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from attrs import frozen
from support.prometheus import Prometheus, check, check_metrics, prometheus
from support.server import (
    Client,
    Server,
    bearer,
    open_client,
    open_line,
    read_answer,
    serving,
    upgrade_request,
    write_agents,
)
from support.wire import TEXT, client_frame

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
DOCS = ROOT / "docs"
NETRA = "netra.v1"
SECONDS = 100.0  # for Prometheus to scrape the server: an upper bound, not a fixed wait
POLL = 0.2  # seconds between two queries

AGENTS = """
import trio
from netra_trio import Run
from netra_trio.errors import RetryableAgentError


async def talker(run: Run) -> None:
    await run.think("Well")
    async with run.tool("counter", to=100) as tool:
        tool.result = 100
    for number in range(100):
        await run.emit(f"{number} ")
        if number % 10 == 0:
            await trio.sleep(0.002)


async def quick(run: Run) -> str:
    return run.content


async def forever(run: Run) -> None:
    await run.emit("going on")
    await trio.sleep_forever()


async def flaky(run: Run) -> str:
    if run.attempt == 1:
        raise RetryableAgentError("not yet")
    return "now"


async def flood(run: Run) -> None:
    for _ in range(1000):
        await run.emit("x" * 60_000)
"""
NAMES = ("talker", "quick", "forever", "flaky", "flood")
SETTINGS = {
    "WEBSOCKET_MAX_MESSAGE_RATE": "20",
    "WEBSOCKET_BURST_QUEUE": "2",
    "WEBSOCKET_SEND_TIMEOUT": "400",
    "WEBSOCKET_DRAIN_TIMEOUT": "400",
}


@frozen
class Watched:
    """A server with traffic, and the Prometheus that scrapes it."""

    server: Server
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    write_agents(folder, AGENTS)
    agents = [part for name in NAMES for part in ("--agent", f"outside_agents:{name}")]
    with (
        serving(folder, *agents, **SETTINGS) as server,
        prometheus(folder, target=server.address) as watcher,
    ):
        trio.run(traffic, server)
        yield Watched(server, watcher)


async def traffic(server: Server) -> None:
    """Cause everything that a metric counts."""
    server.http("GET", "/ws/config")
    server.http("GET", "/ws/nothing")
    server.upgrade("?ticket=none")
    async with server.connect("alice", subprotocols=[NETRA]) as alice:
        await bad_and_good(alice)
        for agent in ("talker", "flaky"):
            await alice.send("user_message", {"content": "hello", "agent": agent}, f"k-{agent}")
            await alice.until("agent_completed")
        await stopped(alice)
    await come_back(server)
    await too_many(server)
    await trio.to_thread.run_sync(deaf, server)


async def bad_and_good(client: Client) -> None:
    await client.send("nonsense")
    await client.expect("error")
    await client.send("ping")
    await client.expect("pong")


async def stopped(client: Client) -> None:
    await client.send("user_message", {"content": "hello", "agent": "forever"}, "k-stop")
    started = (await client.until("partial_result"))[-1]
    await client.send("stop_agent", {"run_id": started["payload"]["run_id"]})
    await client.until("agent_completed")


async def come_back(server: Server) -> None:
    """Lose a connection during a run and resume: missed deltas arrive merged."""
    headers = [bearer("carol")]
    async with open_client(server.url, subprotocols=[NETRA], headers=headers) as carol:
        hello = await carol.expect("connection_established")
        await carol.send("user_message", {"content": "hello", "agent": "talker"}, "k-lost")
        await carol.until("agent_completed")
        await trio.aclose_forcefully(carol.socket._stream)
    ended = partial(server.process.wait_log, "connection_ended", user_id="carol")
    await trio.to_thread.run_sync(ended)
    query = f"?session_id={hello['payload']['session_id']}&last_seq=0"
    async with server.connect("carol", subprotocols=[NETRA], query=query) as carol:
        assert carol.hello["payload"]["resume"]["verdict"] == "exact"
        frames = await carol.until("agent_completed")
        assert any("seq_from" in frame for frame in frames)


async def too_many(server: Server) -> None:
    async with server.connect("bob") as bob:
        for number in range(23):
            await bob.send("user_message", {"content": "hello", "agent": "quick"}, f"k-{number}")
        assert (await bob.until("error"))[-1]["payload"]["code"] == "RATE_LIMIT_EXCEEDED"


def deaf(server: Server) -> None:
    """Request much data and read nothing, until the server closes the connection."""
    with closing(open_line(server.address)) as line:
        line.sendall(upgrade_request(server.address, headers=[bearer("dave")]))
        assert read_answer(line).status == 101
        asked = {"type": "user_message", "payload": {"content": "hello", "agent": "flood"}}
        line.sendall(client_frame(TEXT, orjson.dumps(asked)))
        (end,) = server.process.wait_log("connection_ended", user_id="dave")
    assert end["reason"] == "send_timeout"


def queries() -> Iterator[tuple[str, str]]:
    """Return the title and the query of each panel of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def wait_for_data(watcher: Prometheus, query: str) -> list[Any]:
    """Return the series of a query as soon as one of them has a number."""
    asked = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
    deadline = time.monotonic() + SECONDS
    while True:
        series = watcher.query(asked)
        if any(math.isfinite(float(each["value"][1])) for each in series):
            return series
        assert time.monotonic() < deadline, f"no data: {asked}: {series}"
        time.sleep(POLL)


def test_promtool_reports_no_problem(watched: Watched) -> None:
    answer = watched.server.http("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert check_metrics(answer.text) == ""
    assert check_metrics("# TYPE wrongTotal counter\nwrongTotal 1\n") != ""


def test_every_query_of_the_dashboard_returns_data(watched: Watched) -> None:
    found = list(queries())
    assert len(found) > 40
    for title, query in found:
        assert wait_for_data(watched.prometheus, query), title


def test_the_dashboard_finds_its_servers(watched: Watched) -> None:
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    (query,) = [each["query"] for each in variables if each["name"] == "instance"]
    metric, label = query.removeprefix("label_values(").removesuffix(")").split(", ")
    assert watched.prometheus.label_values(label, metric) == [watched.server.address]


NOT_ZERO = (
    'netra_connections_opened_total{verdict="new"}',
    'netra_connections_opened_total{verdict="exact"}',
    'netra_connections_ended_total{reason="peer_lost"}',
    'netra_connections_ended_total{reason="send_timeout"}',
    "netra_connection_duration_seconds_count",
    "netra_reconnection_seconds_count",
    'netra_recoveries_total{kind="connection", outcome="recovered"}',
    'netra_recoveries_total{kind="frame", outcome="recovered"}',
    'netra_recoveries_total{kind="run", outcome="recovered"}',
    'netra_messages_received_total{type="user_message"}',
    'netra_messages_received_total{type="invalid"}',
    'netra_messages_sent_total{type="partial_result"}',
    'netra_messages_sent_total{type="error"}',
    'netra_message_processing_seconds_count{type="stop_agent"}',
    "netra_message_confirmation_seconds_count",
    'netra_errors_total{code="INVALID_TOKEN"}',
    'netra_errors_total{code="UNKNOWN_MESSAGE_TYPE"}',
    'netra_rate_limit_events_total{limit="messages", outcome="delayed"}',
    'netra_rate_limit_events_total{limit="messages", outcome="refused"}',
    'netra_openings_total{result="opened"}',
    'netra_openings_total{result="INVALID_TOKEN"}',
    'netra_http_request_duration_seconds_count{endpoint="/ws/config"}',
    'netra_http_request_duration_seconds_count{endpoint="other"}',
    "netra_first_delta_seconds_count",
    "netra_delta_gap_seconds_count",
    "netra_stop_seconds_count",
    "netra_deltas_merged_total",
    "netra_run_retries_total",
    'netra_runs_ended_total{agent="talker", status="completed"}',
    'netra_tool_duration_seconds_count{outcome="completed"}',
    "netra_event_loop_lag_seconds_count",
    "netra_tasks",
    "process_open_fds",
)


@pytest.mark.parametrize("series", NOT_ZERO)
def test_traffic_is_counted(watched: Watched, series: str) -> None:
    wait_for_data(watched.prometheus, f"{series} > 0")


def test_no_label_contains_input_of_a_client(watched: Watched) -> None:
    text = watched.server.http("GET", "/metrics").text
    for told in ("alice", "carol", "nonsense", "/ws/nothing", "sess_", "conn_", "run_", "k-"):
        values = [line for line in text.splitlines() if line[:1] != "#" and f'"{told}' in line]
        assert values == []


def test_an_administrator_reads_the_same_metrics(watched: Watched) -> None:
    admin = bearer("root", permissions=["netra:admin"])
    answer = watched.server.http("GET", "/ws/stats", [admin])
    assert answer.status_code == 200
    metrics = answer.json()
    groups = {"connections", "messages", "health", "delivery", "runs", "files", "server"}
    assert set(metrics) == groups
    assert metrics["connections"]["connections_opened_total"]["exact"] == 1
    assert metrics["messages"]["messages_received_total"]["stop_agent"] == 1
    assert metrics["health"]["recoveries_total"]["run/recovered"] == 1
    assert metrics["delivery"]["first_delta_seconds"]["count"] >= 3
    users = {each["user_id"]: each for each in metrics["connections"]["per_user"]}
    assert users["carol"] == {"user_id": "carol", "connections": 0, "sessions": 1, "runs": 0}
    assert watched.server.http("GET", "/ws/stats", [bearer("alice")]).status_code == 403
    assert watched.server.http("GET", "/ws/stats").status_code == 401


def yaml_blocks(page: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def test_promtool_accepts_the_documented_configuration(tmp_path: Path) -> None:
    scrape, alerts = yaml_blocks(DOCS / "metrics.md")
    assert check(tmp_path, "config", scrape, "--syntax-only") == 0
    assert check(tmp_path, "rules", alerts) == 0
    assert check(tmp_path, "rules", alerts.replace("rate(", "late(")) != 0


def test_every_documented_alert_can_be_queried(watched: Watched) -> None:
    _, alerts = yaml_blocks(DOCS / "metrics.md")
    expressions = re.findall(r"expr: (?:>\n)?(.*?)\n +for:", alerts, re.DOTALL)
    assert len(expressions) == 4
    for expression in expressions:
        # Without the comparison, so that a healthy server has data too.
        series, _, _ = expression.rpartition(" > ") if " > " in expression else (expression, "", "")
        asked = " ".join(series.split()).removesuffix(" == 0")
        wait_for_data(watched.prometheus, asked)
