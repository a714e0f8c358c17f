"""The gauges of a node, for the metrics.

metrics.read_gauges = partial(read_gauges, sessions, users, …)
"""

import trio

from netra_trio.cluster.cluster import Cluster
from netra_trio.node.registry import Sessions
from netra_trio.rooms.rooms import Rooms
from netra_trio.sessions.users import Users
from netra_trio.telemetry.metrics import Gauges


def read_gauges(
    sessions: Sessions, users: Users, connections: int, rooms: Rooms, cluster: Cluster | None
) -> Gauges:
    """Return the current gauges.

    Args:
        sessions: The sessions of the node.
        users: Its users.
        connections: The number of its open connections.
        rooms: Its rooms.
        cluster: Its part in a cluster; None without other nodes.
    """
    statistics = [session.statistics() for session in sessions]
    depths = [each["log_events"] for each in statistics]
    detached = sessions.statistics()["detached"]
    return Gauges(
        connections=connections,
        users=users.by_connections(),
        sessions={"attached": len(statistics) - detached, "detached": detached},
        runs=sessions.run_statistics(),
        log_events=sum(depths),
        log_events_max=max(depths, default=0),
        **rooms.gauges(),
        tasks=trio.lowlevel.current_statistics().tasks_living,
        **({} if cluster is None else cluster.gauges()),
    )
