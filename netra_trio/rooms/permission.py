"""The permissions in rooms: one async function of the application decides.

async def may(user: str, room: str, action: str) -> bool:
    return room.startswith("team:") and user in await members_of(room)

app = create_app(agents=…, rooms=may)
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeAlias


class Action(StrEnum):
    """An action of a user in a room."""

    JOIN = "join"
    PUBLISH = "publish"
    SEE = "see"
    ANSWER = "answer"


PermissionCheck: TypeAlias = Callable[[str, str, str], Awaitable[bool]]
"""Whether a user (its id) has the permission for an `Action` in a room (its name)."""
