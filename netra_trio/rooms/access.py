"""The access to rooms: the rules of the server's own rooms, and the application's function.

access = Access(may, store.find_room)
is_lasting = await access.check(user_id, "team:red", Action.JOIN)
"""

from collections.abc import Awaitable, Callable, Collection

import structlog
import trio

from netra_trio.errors import NetraError, StoreUnavailable
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.admin import ADMIN_ROOM, ADMINISTRATOR
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.rooms import THREAD_PREFIX, USER_PREFIX, user_room
from netra_trio.rooms.permission import Action, PermissionCheck

PERMISSION_SECONDS = 5.0  # for one call of the application's function
RETRY_MS = 1000

FindRoom = Callable[[str], Awaitable[tuple[UserId, ThreadId] | None]]

_log = structlog.get_logger(__name__)


class PermissionCheckFailed(NetraError):
    """The application's function has raised, or has not returned in time."""


class Access:
    """Checks the permissions of users in rooms.

    Args:
        may: The application's function; None if there are only the server's own rooms.
        find_room: Finds the user and the thread of a room, as `Store.find_room` does.
    """

    def __init__(self, may: PermissionCheck | None, find_room: FindRoom) -> None:
        self._may = may
        self._find_room = find_room

    async def check(
        self, user_id: UserId, room: str, action: Action, permissions: Collection[str] = ()
    ) -> bool:
        """Check that a user has a permission in a room. Cancelling is safe.

        Args:
            user_id: The user.
            room: The room.
            action: The action.
            permissions: The permissions of the token of the user's connection.

        Returns:
            Whether the permission is lasting, so that it needs no repeated check.

        Raises:
            Refused: FORBIDDEN; SERVICE_UNAVAILABLE if the application's function fails.
            StoreUnavailable: If the store cannot answer now.
        """
        try:
            granted = await self._decide(user_id, room, action, permissions)
        except PermissionCheckFailed:
            text = "The permission could not be checked."
            fault = problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=RETRY_MS)
            raise Refused(fault) from None
        if granted is None:
            return True
        if not granted:
            raise forbidden()
        return False

    async def is_still_permitted(
        self, user_id: UserId, room: str, action: Action, permissions: Collection[str] = ()
    ) -> bool:
        """Return whether a user still has a permission; True if the check fails for now."""
        try:
            granted = await self._decide(user_id, room, action, permissions)
        except Refused:
            return False
        except (PermissionCheckFailed, StoreUnavailable):
            return True
        return granted is not False

    async def _decide(
        self, user_id: UserId, room: str, action: Action, permissions: Collection[str]
    ) -> bool | None:
        """Return whether the application permits it, or None if the server's own rules do.

        Raises:
            Refused: FORBIDDEN by the server's own rules.
            PermissionCheckFailed: If the application's function fails.
        """
        if room == ADMIN_ROOM:
            if action is not Action.JOIN or ADMINISTRATOR not in permissions:
                raise forbidden()
            return True  # a new token may not have the permission
        if room.startswith(USER_PREFIX):
            if room != user_room(user_id):
                raise forbidden()
            return None
        if room.startswith(THREAD_PREFIX):
            if action is Action.PUBLISH:
                raise forbidden()
            found = await self._find_room(room)
            if found is None:
                raise forbidden()
            if found[0] == user_id:
                return None
        return await self._call(user_id, room, action)

    async def _call(self, user_id: UserId, room: str, action: Action) -> bool:
        if self._may is None:
            return False
        try:
            with trio.fail_after(PERMISSION_SECONDS):
                return bool(await self._may(user_id, room, action.value))
        except Exception as error:  # of the application, or TooSlowError
            _log.exception("room_permission_failed", room=room, action=action.value)
            raise PermissionCheckFailed(str(error)) from error


def forbidden() -> Refused:
    """Return the error for an action without permission."""
    text = "You may not do this in this room."
    return Refused(problem(ErrorCode.FORBIDDEN, text))
