"""Spans of upgrades, resumes, runs and tools, recorded with the SDK of OpenTelemetry."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, frozen
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs
from support.doors import request
from support.event_streams import stream
from support.memory import SECRET, Client, token, wall_clock
from support.server import STARTING, bearer, open_client, serving, write_agents
from trio.testing import MockClock

from netra_trio.agents.run import Agent, Run
from netra_trio.config.settings import Settings
from netra_trio.endpoints.request import Request
from netra_trio.errors import ToolError
from netra_trio.server.application import Application, create_app
from netra_trio.stores.memory import MemoryStore
from netra_trio.telemetry.events import ToolEnded, ToolStarted
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.otlp import exporting
from netra_trio.telemetry.traces import OPENING, RESUME, RUN, TOOL, Traces
from netra_trio.transports.memory import memory_pair

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@frozen
class Traced:
    """An application whose spans are recorded."""

    app: Application
    nursery: trio.Nursery
    recorded: InMemorySpanExporter

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.recorded.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    async def open(self, query: dict[str, str] | None = None, **headers: str) -> Client:
        """Open a connection, and wait for its first frame or its refusal."""
        transport, line = memory_pair()
        client = Client(line, transport)
        given = {"authorization": f"Bearer {token()}", **headers}
        request = Request(
            headers={name: [value] for name, value in given.items()},
            query={name: [value] for name, value in (query or {}).items()},
            subprotocols=("netra.v1",),
            peer="",
        )
        refused: list[Any] = []

        async def serve() -> None:
            refused.append(await self.app.serve_upgrade(request, "/ws", lambda _: transport))
            client.peer.close(1006)
            client.done.set()

        self.nursery.start_soon(serve)
        if given["authorization"].endswith(token()):
            client.hello = await client.expect("connection_established")
        else:
            await client.done.wait()
            assert refused[0].status == 401
        return client


@asynccontextmanager
async def traced(
    agent: Agent, *, with_traces: bool = True, doors: tuple[str, ...] = ()
) -> AsyncIterator[Traced]:
    settings = evolve(Settings(), jwt_secret_key=SECRET, doors=doors)
    app = create_app(
        agents={"agent": agent}, settings=settings, store=MemoryStore(), wall_clock=wall_clock
    )
    recorded = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(recorded))
    more = [Traces(provider)] if with_traces else []
    app.instruments = Instruments(app.instruments.metrics, more)
    async with app.running(), trio.open_nursery() as nursery:
        yield Traced(app, nursery, recorded)
        nursery.cancel_scope.cancel()


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return format(context.trace_id, "032x"), format(context.span_id, "016x")


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format(span.parent.span_id, "016x")


async def ask(client: Client) -> None:
    await client.say("hello")
    await client.until("agent_completed")


async def test_a_request_its_upgrade_its_run_and_its_tools_are_one_trace(
    autojump_clock: MockClock,
) -> None:
    seen: dict[str, Any] = {}

    async def agent(run: Run) -> None:
        seen["run"], seen["current"] = run.traceparent, trace.get_current_span()

        async def beside() -> None:
            seen["beside"] = trace.get_current_span()

        run.nursery.start_soon(beside)
        async with run.tool("look"):
            seen["tool"] = trace.get_current_span()
        seen["after"] = trace.get_current_span()

    async with traced(agent) as server:
        await ask(await server.open(traceparent=PARENT, tracestate="a=b"))
        opening, run, tool = (server.one(name) for name in (OPENING, RUN, TOOL))
    assert {ids(span)[0] for span in (opening, run, tool)} == {TRACE_ID}
    assert parent_of(opening) == "00f067aa0ba902b7"
    assert parent_of(run) == ids(opening)[1]
    assert parent_of(tool) == ids(run)[1]
    assert seen["run"] == f"00-{TRACE_ID}-{ids(run)[1]}-01"
    assert seen["current"] is seen["beside"] is seen["after"]
    assert format(seen["current"].get_span_context().span_id, "016x") == ids(run)[1]
    assert format(seen["tool"].get_span_context().span_id, "016x") == ids(tool)[1]
    attributes = dict(run.attributes or {})
    attributes.pop("netra.run_id")
    expected = {"netra.agent": "agent", "netra.status": "completed", "netra.attempts": 1}
    assert attributes == expected
    assert dict(tool.attributes or {}) == {"netra.tool": "look", "netra.outcome": "completed"}


async def test_an_upgrade_without_a_parent_starts_a_trace(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        pass

    async with traced(agent) as server:
        for wrong in ("", "nonsense", PARENT.upper(), f"{PARENT}-more"):
            await server.open(traceparent=wrong)
        openings = server.spans(OPENING)
    assert [parent_of(span) for span in openings] == [None] * 4
    assert len({ids(span)[0] for span in openings}) == 4


async def test_a_refusal_is_an_error_and_contains_no_credential(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        pass

    async with traced(agent) as server:
        await server.open(authorization="Bearer a-credential")
        opening = server.one(OPENING)
    assert opening.status.status_code is StatusCode.ERROR
    assert dict(opening.attributes or {}) == {"netra.code": "INVALID_TOKEN", "netra.status": 401}
    assert "a-credential" not in opening.to_json()


async def test_the_stream_of_a_door_is_an_opening(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.emit("done")

    async with traced(agent, doors=("events",)) as server:
        headers = {"traceparent": PARENT}
        async with stream(server.app, headers=headers) as alice:
            await alice.send("user_message", {"content": "go"})
            await alice.until("agent_completed")
        opening, run = server.one(OPENING), server.one(RUN)
        assert (ids(opening)[0], parent_of(run)) == (TRACE_ID, ids(opening)[1])
        async with request(server.app, "GET", "/ws/events", user=None) as answer:
            assert answer.status == 401
        assert server.spans(OPENING)[-1].status.status_code is StatusCode.ERROR


async def test_a_failure_of_the_server_is_an_error(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def agent(run: Run) -> None:
        pass

    def fail(_: Any) -> bool:
        raise ValueError("a fault")

    monkeypatch.setattr("netra_trio.endpoints.checks.check_resume", fail)
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with traced(agent) as server:
            await server.open()
    opening = server.one(OPENING)
    assert opening.status.description == "failed"
    assert server.app.instruments.metrics.openings["failed"] == 1


async def test_a_resume_shows_the_time_without_a_connection(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        pass

    async with traced(agent) as server:
        client = await server.open(traceparent=PARENT)
        session_id = client.hello["payload"]["session_id"]
        client.peer.cut()
        await client.done.wait()
        await trio.sleep(3)
        other = PARENT.replace(TRACE_ID, "a" * 32)
        again = await server.open({"session_id": session_id}, traceparent=other)
        await ask(again)
        resume, run = server.one(RESUME), server.one(RUN)
        newest = server.spans(OPENING)[-1]
    assert resume.start_time is not None
    assert resume.end_time is not None
    assert (resume.end_time - resume.start_time) / 1e9 == pytest.approx(3)
    assert parent_of(resume) == parent_of(run) == ids(newest)[1]
    assert dict(resume.attributes or {}) == {"netra.verdict": "exact", "netra.replayed": 0}


async def test_failed_runs_and_tools_are_errors(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        try:
            async with run.tool("break"):
                raise ToolError("a text")  # noqa: TRY301 - a tool that fails
        except ToolError:
            raise ValueError("a text") from None

    with capture_logs():
        async with traced(agent) as server:
            await ask(await server.open())
            run, tool = server.one(RUN), server.one(TOOL)
    assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, "failed")
    assert (tool.status.status_code, tool.status.description) == (StatusCode.ERROR, "failed")
    assert "a text" not in run.to_json() + tool.to_json()


async def test_a_run_that_never_started_has_no_span(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.emit("going on")
        await trio.sleep_forever()

    async with traced(agent) as server:
        client = await server.open()
        await client.say("hello")
        await client.until("partial_result")
        await client.say("hello")
        waiting = (await client.until("message_confirmed"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": waiting})
        await client.until("agent_completed")
        assert server.spans(RUN) == []


async def test_without_tracing_an_agent_gets_the_header_of_the_request(
    autojump_clock: MockClock,
) -> None:
    seen: list[str | None] = []

    async def agent(run: Run) -> None:
        seen.append(run.traceparent)

    async with traced(agent, with_traces=False) as server:
        await ask(await server.open(traceparent=PARENT))
        await ask(await server.open(traceparent="nonsense"))
        await ask(await server.open())
    assert seen == [PARENT, None, None]


# The exporter, and what is imported for it.

WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
import os, netra_trio.cli.serve
from netra_trio.server.application import create_app
from netra_trio.telemetry.otlp import exporting
from netra_trio.config.settings import Settings
from netra_trio.stores.memory import MemoryStore
create_app(settings=Settings(jwt_secret_key="s" * 32), store=MemoryStore())
with exporting({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}):
    pass
loaded = [name for name in sys.modules if name.startswith("opentelemetry")]
assert loaded == ["opentelemetry"], loaded
"""
OFF = """
import sys
import netra_trio.cli.serve
from netra_trio.telemetry.otlp import exporting
with exporting({}):
    pass
loaded = [name for name in sys.modules if name.startswith("opentelemetry")]
assert loaded == [], loaded
"""
ONE_SPAN = """
import os
from netra_trio.telemetry.otlp import exporting
with exporting(os.environ):
    from opentelemetry import trace
    with trace.get_tracer("t").start_as_current_span("one"):
        pass
    assert trace.get_tracer_provider().force_flush()
"""


@pytest.mark.parametrize("program", [WITHOUT, OFF], ids=["not installed", "off"])
def test_nothing_is_imported(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=STARTING)  # noqa: S603


def test_a_missing_extra_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_trio.telemetry.otlp.is_installed", lambda _: False)
    with capture_logs() as logs, exporting({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}):
        pass
    assert [line["event"] for line in logs] == ["traces_unavailable"]


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Receive spans over HTTP as a collector does."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def collected_at(url: str) -> dict[str, str]:
    """Return the variables for a collector."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}


def services(received: list[ExportTraceServiceRequest]) -> set[str]:
    """Return the names of the programs that have sent spans."""
    return {
        attribute.value.string_value
        for request in received
        for resource in request.resource_spans
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }


def spans_of(received: list[ExportTraceServiceRequest]) -> list[Any]:
    """Return the spans that were received."""
    return [
        span
        for request in list(received)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


@pytest.mark.parametrize("name", [None, "mine"])
def test_the_spans_of_a_program_arrive_under_its_name(name: str | None) -> None:
    named = {} if name is None else {"OTEL_SERVICE_NAME": name}
    with collector() as (url, received):
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", ONE_SPAN],
            env={**os.environ, **collected_at(url), **named},
            check=True,
            timeout=STARTING,
        )
    assert [span.name for span in spans_of(received)] == ["one"]
    assert services(received) == {name or "netra_trio"}


def test_spans_arrive_at_a_collector(tmp_path: Path) -> None:
    write_agents(tmp_path, "async def quick(run): return run.traceparent\n")

    async def talk(url: str) -> str:
        headers = [bearer(), ("traceparent", PARENT)]
        async with open_client(url, headers=headers) as client:
            await client.expect("connection_established")
            await client.send("user_message", {"content": "hello"})
            end = (await client.until("agent_completed"))[-1]
            return str(end["payload"]["result"])

    with collector() as (url, received):
        environ = {**collected_at(url), "OTEL_BSP_SCHEDULE_DELAY": "10"}  # milliseconds
        with serving(tmp_path, "--agent", "outside_agents:quick", **environ) as server:
            result = trio.run(talk, server.url)
            while len(spans_of(received)) < 2:  # at the exit there is little time to send them
                time.sleep(0.01)
    assert services(received) == {"netra_trio"}
    spans = {span.name: span for span in spans_of(received)}
    assert set(spans) == {OPENING, RUN}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE_ID}
    assert spans[RUN].parent_span_id == spans[OPENING].span_id
    assert result == f"00-{TRACE_ID}-{spans[RUN].span_id.hex()}-01"


def test_a_collector_that_is_down_does_not_delay_the_exit(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with serving(tmp_path, **environ) as server:
        server.upgrade("?ticket=none")
        assert server.process.end(seconds=30) == 0  # less than retries of an export would take


def test_a_collector_that_never_answers_blocks_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and is never accepted
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # A batch of one span: the exporter waits for the collector all the time.
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",  # seconds: an exit that waited would fail
        }
        with serving(tmp_path, **environ) as server:
            for _ in range(100):
                server.upgrade("?ticket=none").refuses(401, "INVALID_TOKEN")


async def test_spans_start_when_a_provider_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(recorded))
    current: trace.TracerProvider = trace.ProxyTracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: current)
    traces = Traces()
    monkeypatch.setattr(traces, "_tracer", provider.get_tracer("netra_trio"))
    traces.note(ToolStarted("run_1", "call_1", "search"))
    assert recorded.get_finished_spans() == ()
    current = provider
    traces.note(ToolEnded("call_1", "completed", 0.1))  # it started without a provider
    traces.note(ToolStarted("run_1", "call_2", "search"))
    traces.note(ToolEnded("call_2", "completed", 0.1))
    assert [span.name for span in recorded.get_finished_spans()] == [TOOL]
