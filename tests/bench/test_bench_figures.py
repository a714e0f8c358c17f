"""Statistics, ratios, notes and measurements of processes."""

import os
import socket
import subprocess
import sys
import time

import pytest
from attrs import evolve

from bench import proc
from bench.figures import latencies, median_ratio, percentile
from bench.measure import Measurement
from bench.report import notes, ratios_of, values_of
from bench.resuming import BEHIND, busiest
from bench.scenarios import Window

PATIENCE = 100.0  # seconds: an upper bound


def test_percentiles_are_interpolated() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([5.0, 1.0, 3.0], 50) == 3.0
    assert percentile([float(n) for n in range(101)], 99) == 99.0
    assert latencies("", [0.001, 0.003]) == {"p50_ms": 2.0, "p99_ms": pytest.approx(2.98)}
    assert latencies("", []) == {}
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    assert median_ratio([1.0, 10.0, 3.0], [2.0, 10.0, 1.0]) == 1.0
    assert median_ratio([1.0, 2.0], [0.0, 4.0]) == 0.5
    assert median_ratio([], []) is None


def test_ratios_compare_measurements_of_the_same_repetition() -> None:
    measurements = [
        Measurement("echo", "netra", 0, error="it broke"),
        Measurement("echo", "fastapi", 0, {"cpu_us": 1.0}),
        Measurement("echo", "netra", 1, {"cpu_us": 3.0}),
        Measurement("echo", "fastapi", 1, {"cpu_us": 6.0}),
        Measurement("echo", "floor", 1, {"cpu_us": 1.5}),
        Measurement("stream", "netra", 1, {"cpu_us": 9.0}),
    ]
    assert ratios_of(measurements, "netra", "echo", "fastapi") == {"cpu_us": 0.5}
    assert ratios_of(measurements, "netra", "echo", "floor") == {"cpu_us": 2.0}
    assert ratios_of(measurements, "fastapi", "echo", "fastapi") == {"cpu_us": 1.0}
    assert ratios_of(measurements, "netra", "stream", "fastapi") == {}
    assert values_of(measurements)["echo", "netra"] == {"cpu_us": [3.0]}


def test_the_cpu_of_a_valkey_is_compared_with_servers_that_have_none() -> None:
    measurements = [
        Measurement("paced", "netra", 0, {"cpu_us": 4.0}),
        Measurement("paced", "netra-broker", 0, {"cpu_us": 5.0, "all_cpu_us": 6.0}),
        Measurement("paced", "netra-workers", 0, {"cpu_us": 5.0, "all_cpu_us": 9.0}),
    ]
    found = ratios_of(measurements, "netra-workers", "paced", "netra")
    assert found == {"cpu_us": 1.25, "all_cpu_us": 2.25}
    found = ratios_of(measurements, "netra-workers", "paced", "netra-broker")
    assert found == {"cpu_us": 1.0, "all_cpu_us": 1.5}
    assert ratios_of(measurements, "netra", "paced", "netra-broker") == {"cpu_us": 0.8}


def test_the_costs_of_a_window() -> None:
    window = Window(seconds=2.0, cpu=0.5, own_cpu=0.0, events=100, numbers=100, wire_bytes=20_000)
    assert window.costs(100) == {"cpu_us": 5000.0, "wire_bytes": 200.0, "per_second": 50.0}
    more = evolve(window, valkey_cpu=0.25, spread=1.5)
    assert more.costs(100) == {**window.costs(100), "all_cpu_us": 7500.0, "spread": 1.5}


def test_the_connections_of_each_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            assert sum(proc.connections_of(os.getpid(), port)) == 0
            with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
                counts = dict(
                    zip(
                        proc.tree(os.getpid()),
                        proc.connections_of(os.getpid(), port),
                        strict=True,
                    )
                )
                assert (counts[os.getpid()], counts[child.pid]) == (1, 0)
            child.communicate(b"\n", PATIENCE)


def test_notes_report_invalid_figures() -> None:
    found = notes(
        [
            Measurement("echo", "netra", 0, error="it broke\nhere"),
            Measurement("echo", "floor", 0, {}, {"load_core": 0.97}),
            Measurement("stream", "netra", 1, {}, {"load_core": 0.5, "merged": 7.0}),
            Measurement("paced", "netra", 0, {}, {"ended": 3.0}),
            Measurement("capacity", "netra", 0, {}, {"is_lower_bound": 1.0, "pinned": 0.0}),
            Measurement("capacity", "floor", 0, {}, {"is_lower_bound": 0.0, "pinned": 1.0}),
        ]
    )
    assert found == [
        "echo on netra, repetition 1: failed: it broke",
        "echo on floor, repetition 1: the load was 97 % busy; its rates are the load's own",
        "stream on netra, repetition 2: 7 events were merged into others",
        "paced on netra, repetition 1: 3 runs ended within the window",
        "capacity on netra, repetition 1: the greatest number of runs that was tried passed",
        "capacity on netra, repetition 1: only one CPU; server and load shared it",
    ]


def test_a_process_is_measured_with_its_children() -> None:
    before = proc.cpu_seconds(os.getpid())
    deadline = time.monotonic() + PATIENCE
    while proc.cpu_seconds(os.getpid()) == before:
        assert time.monotonic() < deadline
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert proc.tree(os.getpid())[0] == os.getpid()
        assert child.pid in proc.tree(os.getpid())
        assert proc.memory(child.pid).rss > 0
        assert proc.is_alive(child.pid)
        child.communicate(b"\n", PATIENCE)
    assert proc.cpu_seconds(child.pid) == 0.0
    assert not proc.is_alive(child.pid)


def test_the_busiest_second() -> None:
    assert busiest([]) == 0
    assert busiest([3.0]) == 1
    assert busiest([2.0, 0.0, 1.0, 0.999]) == 2
    assert busiest([0.0, 0.5, 0.9, 5.0, 5.1, 5.2, 5.99]) == 4


def test_a_resuming_client_is_1000_events_behind() -> None:
    assert BEHIND == 1000
