"""The notifier: sends the notifications of the outbox, which is a table of the store.

    notifier = Notifier(store, endpoint, is_attached=attached.is_attached, note=instruments.note)
    nursery.start_soon(notifier.run)
    notifier.add([notification])            # for a run that has left its session
    notifier.wake()                         # a notification was stored with an end or a question

When a run leaves its session, the notification of its end is stored without a status, so that it is
sent even if the node of the run is killed. While the run continues, a node that takes this
notification postpones it. The end of the run replaces it in the same transaction, with its status.

A node takes a notification for `TAKEN_SECONDS`; if the node is killed meanwhile, another one sends
it. The notifier checks once, before the first attempt, whether the user has a connection.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from heapq import heappop, heappush
from math import inf
from random import uniform

import structlog
import trio
from attrs import evolve

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.stores.notifications import DueNotification, Notification, NotificationStore
from netra_trio.stores.threads import UNFINISHED
from netra_trio.telemetry.events import (
    NotificationDropped,
    NotificationFailed,
    NotificationSent,
    TelemetryEvent,
)
from netra_trio.webhook.endpoint import Endpoint, NotDelivered

SENDS_AT_ONCE = 8  # concurrent requests: the receiver is one program
TAKEN_SECONDS = 30.0  # for one attempt: 10 s for the webhook, and 3 s for each call of the store
POLL_SECONDS = 5.0  # between two polls of the outbox, for notifications of other nodes
STORED_DELAYS = (0.0, 0.1, 1.0)  # seconds until the polls for a notification that is being stored
UNFINISHED_SECONDS = 30.0  # between two polls of the status of an unfinished run
BACK_OFF = 1.0  # seconds, the longest pause after the first failure; doubles with each one
BACK_OFF_MAX = 600.0  # seconds

_log = structlog.get_logger(__name__)


class Notifier:
    """Sends notifications, at least once.

    Args:
        store: The store, which has the outbox.
        endpoint: The webhook.
        is_attached: Returns whether a user has a connection, at any node.
        note: Receives the telemetry events.
        jitter: Returns the share of a pause that is waited, from 0.5 to 1.
    """

    def __init__(
        self,
        store: NotificationStore,
        endpoint: Endpoint,
        *,
        is_attached: Callable[[UserId], Awaitable[bool]],
        note: Callable[[TelemetryEvent], None],
        jitter: Callable[[], float] = lambda: uniform(0.5, 1),  # noqa: S311 - no secret
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._is_attached = is_attached
        self._note = note
        self._jitter = jitter
        self._new: deque[Notification] = deque()  # not stored yet
        self._poll_times: list[float] = []  # of the outbox, a heap of times on Trio's clock
        self._woken = trio.Event()
        self._sending = 0

    def add(self, notifications: Sequence[Notification]) -> None:
        """Store notifications as soon as the store takes them, and send them."""
        self._new.extend(notifications)
        self._poll_in(0.0)

    def wake(self) -> None:
        """Poll the outbox soon: a notification is being stored."""
        for seconds in STORED_DELAYS:
            self._poll_in(seconds)

    def _poll_in(self, seconds: float) -> None:
        heappush(self._poll_times, trio.current_time() + seconds)
        self._woken.set()

    async def run(self) -> None:
        """Send due notifications, until cancelled."""
        async with self._endpoint.open(), trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                free = SENDS_AT_ONCE - self._sending
                taken = await self._take(free) if free else ()
                self._sending += len(taken)
                for due in taken:
                    nursery.start_soon(self._process, due)
                with trio.move_on_at(inf if len(taken) == free else self._next_poll()):
                    await self._woken.wait()

    def _next_poll(self) -> float:
        """Return when to poll the outbox next, on Trio's clock."""
        now = trio.current_time()
        while self._poll_times and self._poll_times[0] <= now:
            heappop(self._poll_times)
        return min([now + POLL_SECONDS, *self._poll_times[:1]])

    async def _take(self, limit: int) -> Sequence[DueNotification]:
        """Store new notifications, and take due ones; none while the store cannot answer."""
        try:
            while self._new:
                await self._store.add_notification(self._new[0])
                self._new.popleft()
            return await self._store.take_notifications(limit=limit, seconds=TAKEN_SECONDS)
        except StoreUnavailable:
            return ()

    async def _process(self, due: DueNotification) -> None:
        try:
            await self._try(due)
        except StoreUnavailable:
            # It is sent again after `TAKEN_SECONDS`; the receiver ignores a known id.
            _log.warning("notification_not_settled", notification_id=due.notification.id)
        except Exception:  # of one notification: all others are still sent
            _log.exception("notifier_failed", notification_id=due.notification.id)
        finally:
            self._sending -= 1
            self._woken.set()

    async def _try(self, due: DueNotification) -> None:
        new = due.notification
        if new.status is None and new.question_id is None:
            await self._settle(new)
        elif not due.attempts and await self._is_attached(new.user_id):
            await self._store.drop_notification(new.id)
            self._note(NotificationDropped(new.id, new.run_id, new.type))
        else:
            await self._send(new, due.attempts)

    async def _settle(self, new: Notification) -> None:
        """Set the status in the notification of a run's end, once the run has ended."""
        status = await self._store.run_status(new.run_id)
        if status is None:  # its thread was deleted
            await self._store.drop_notification(new.id)
        elif status in UNFINISHED:
            await self._postpone(new, UNFINISHED_SECONDS)
        else:
            await self._store.add_notification(evolve(new, status=status))

    async def _send(self, new: Notification, attempts: int) -> None:
        begun = trio.current_time()
        try:
            await self._endpoint.send(new)
        except NotDelivered as reason:
            seconds = min(BACK_OFF * 2.0 ** min(attempts, 32), BACK_OFF_MAX) * self._jitter()
            self._note(
                NotificationFailed(
                    new.id, new.run_id, new.type, attempts + 1, str(reason), round(seconds, 3)
                )
            )
            await self._postpone(new, seconds)
        else:
            seconds = round(trio.current_time() - begun, 3)
            self._note(NotificationSent(new.id, new.run_id, new.type, attempts + 1, seconds))
            await self._store.drop_notification(new.id)

    async def _postpone(self, new: Notification, seconds: float) -> None:
        await self._store.postpone_notification(new.id, seconds=seconds)
        if seconds < POLL_SECONDS:
            self._poll_in(seconds)
