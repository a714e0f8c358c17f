"""The doors by name, and their endpoints."""

from collections.abc import Callable, Collection, Mapping

from netra_trio.endpoints.call import Endpoint
from netra_trio.endpoints.doors import ag_ui, events, openai, vercel
from netra_trio.endpoints.entrance import Entrance
from netra_trio.protocol.doors import AG_UI, DOOR_PATHS, EVENTS, OPENAI, VERCEL

Methods = Mapping[str, Endpoint]
"""The endpoints of a path, by method."""

_DOORS: Mapping[str, Callable[[Entrance], Mapping[str, Methods]]] = {
    AG_UI: ag_ui.open_door,
    EVENTS: events.open_door,
    OPENAI: openai.open_door,
    VERCEL: vercel.open_door,
}


def open_doors(names: Collection[str], entrance: Entrance) -> dict[str, Methods]:
    """Return the endpoints of doors, by path; a path with braces is a pattern.

    Args:
        names: The doors.
        entrance: Admits their connections to the node.
    """
    return {path: methods for name in names for path, methods in _DOORS[name](entrance).items()}


def door_paths(names: Collection[str]) -> tuple[str, ...]:
    """Return the paths of doors."""
    return tuple(path for name in names for path in DOOR_PATHS[name].values())
