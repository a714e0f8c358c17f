"""The health and the metrics that the endpoints show: of this process, or of all workers.

    overview = Overview(node, group)
    body = await overview.health()
    snapshot = await overview.metrics()

With several workers any of them may be asked, and each answers for all of them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from netra_trio.ids import NodeId
from netra_trio.node.health import check_dependencies
from netra_trio.node.node import Node
from netra_trio.telemetry.snapshot import Snapshot

Topic: TypeAlias = Literal["health", "metrics"]
"""The topics of the reports of a worker."""

_OK, _HEALTHY, _DEGRADED, _DRAINING = "ok", "healthy", "degraded", "draining"


class WorkerGroup(Protocol):
    """The workers that this process is one of; one process ends all of them together.

    Attributes:
        nodes: Their nodes, as far as they are ready.
        owns_broker: Whether the broker is theirs alone and ends with them.
    """

    nodes: Collection[NodeId]
    owns_broker: bool

    async def merged(self, topic: Topic) -> Any:
        """Return the merged reports of all workers as JSON; None if they cannot be had."""
        ...


class Overview:
    """Reports on this process, and on all workers if it is one of several.

    Args:
        node: The node of this process.
        group: The workers; None if there is only this process.
    """

    def __init__(self, node: Node, group: WorkerGroup | None = None) -> None:
        self._node = node
        self._group = group

    async def health(self) -> Mapping[str, Any]:
        """Return the status, and the outcome of the check of each dependency."""
        merged = None if self._group is None else await self._group.merged("health")
        return await self._own_health() if merged is None else merged

    async def metrics(self) -> Snapshot:
        """Return the metrics."""
        merged = None if self._group is None else await self._group.merged("metrics")
        return self._own_metrics() if merged is None else Snapshot.of_json(merged)

    async def report(self, topic: Topic) -> Any:
        """Return the report of this process alone, as JSON."""
        return await self._own_health() if topic == "health" else self._own_metrics().to_json()

    def _own_metrics(self) -> Snapshot:
        metrics = self._node.services.instruments.metrics
        return Snapshot.take(metrics, self._node.largest_users())

    async def _own_health(self) -> dict[str, Any]:
        node = self._node
        checks = await check_dependencies(node.services, node.cluster)
        is_healthy = all(outcome == _OK for outcome in checks.values())
        status = _HEALTHY if is_healthy else _DEGRADED
        return {
            "status": _DRAINING if node.capacity.is_draining else status,
            "checks": checks,
        }


def merged_health(reports: Sequence[Mapping[str, Any]], expected: int) -> dict[str, Any]:
    """Return one health of all workers: the worst of each check.

    The status is `draining` only if all of them drain: until then a new connection is served.

    Args:
        reports: Those of the workers that have answered.
        expected: The number of workers that there should be.
    """
    checks: dict[str, str] = {}
    for report in reports:
        for name, outcome in report["checks"].items():
            if checks.get(name, _OK) == _OK:
                checks[name] = outcome
    found = {report["status"] for report in reports}
    is_complete = len(reports) == expected
    status = _HEALTHY if found == {_HEALTHY} and is_complete else _DEGRADED
    return {
        "status": _DRAINING if found == {_DRAINING} else status,
        "checks": checks,
        "workers": {"ready": len(reports), "expected": expected},
    }
