"""The rate of uploads of each user, over all nodes.

wait = await rate.take(user_id)   # seconds; 0 if the upload may begin
"""

from collections import deque
from typing import Protocol

import trio

from netra_trio.broker.limits import Limits
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import UserId

UPLOADS = 20  # of one user in any `UPLOAD_SECONDS`
UPLOAD_SECONDS = 60.0


class UploadRate(Protocol):
    """Counts uploads."""

    async def take(self, user_id: UserId) -> float:
        """Count an upload; return 0, or the seconds until there may be one. Cancelling is safe."""
        ...


class LocalUploadRate:
    """The `UploadRate` of one process; its method has no checkpoint."""

    def __init__(self) -> None:
        self._begun: dict[UserId, deque[float]] = {}  # ordered by the last upload

    async def take(self, user_id: UserId) -> float:
        """Count an upload; return 0, or the seconds until there may be one."""
        now = trio.current_time()
        self._forget(now - UPLOAD_SECONDS)
        mine = self._begun.get(user_id) or deque(maxlen=UPLOADS)
        if len(mine) == UPLOADS and (wait := mine[0] + UPLOAD_SECONDS - now) > 0:
            return wait
        mine.append(now)
        self._begun.pop(user_id, None)
        self._begun[user_id] = mine  # at the end of the order
        return 0.0

    def _forget(self, before: float) -> None:
        """Forget the users whose uploads do not count any more."""
        while self._begun:
            user_id, begun = next(iter(self._begun.items()))
            if begun[-1] > before:
                return
            del self._begun[user_id]


class SharedUploadRate:
    """The `UploadRate` of all nodes; while the broker does not answer, that of this node.

    Args:
        limits: Counts the uploads.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._local = LocalUploadRate()

    async def take(self, user_id: UserId) -> float:
        """Count an upload; return 0, or the seconds until there may be one."""
        try:
            return await self._limits.take_upload(user_id, limit=UPLOADS, seconds=UPLOAD_SECONDS)
        except BrokerUnavailable:
            return await self._local.take(user_id)
