"""The health of several workers as one: the worst of each check, and how many answer."""

from typing import Any

import pytest

from netra_trio.endpoints.overview import merged_health


def report(status: str, **checks: str) -> dict[str, Any]:
    return {"status": status, "checks": checks}


GOOD, DRAINS = report("healthy", store="ok"), report("draining", store="ok")
BAD = report("degraded", store="unavailable")


@pytest.mark.parametrize(
    ("reports", "status", "checks"),
    [
        ([GOOD, GOOD], "healthy", {"store": "ok"}),
        ([GOOD], "degraded", {"store": "ok"}),
        ([GOOD, BAD], "degraded", {"store": "unavailable"}),
        ([BAD, report("degraded", store="no answer")], "degraded", {"store": "unavailable"}),
        ([DRAINS, GOOD], "degraded", {"store": "ok"}),
        ([DRAINS, DRAINS], "draining", {"store": "ok"}),
        ([DRAINS], "draining", {"store": "ok"}),
        (
            [GOOD, report("healthy", store="ok", keys="ok")],
            "healthy",
            {"store": "ok", "keys": "ok"},
        ),
    ],
)
def test_the_health_of_two_workers(
    reports: list[dict[str, Any]], status: str, checks: dict[str, str]
) -> None:
    ready = {"ready": len(reports), "expected": 2}
    assert merged_health(reports, 2) == {"status": status, "checks": checks, "workers": ready}
