"""Budgets: what an agent may use for a user in a UTC day, in tokens and in money.

    services = serve_budgets(services, users, cluster, node.start_soon)
    await services.budgets.check(user_id, "chat")       # before a message is recorded
    await services.budgets.record_usage(usage)          # for each report of a run

A report is recorded and counted by a task of the node, so that nothing is lost if its run is
cancelled meanwhile. Reports of one user, agent and day are counted one after the other.

With other nodes, the broker has the counter of the day; a node counts there what it has used since
it first saw this counter. A new counter begins with the sum of the store. While the broker does not
answer, a node adds its own usage to the store's sum, which it reads again every `STORED_SECONDS`.
When the broker answers again, the node reports that usage, unless the counter is a new one: that
begins with the store's sum, which has the usage already.
"""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from math import inf
from typing import Any, TypeVar

import structlog
import trio
from attrs import define, evolve, field

from netra_trio.broker.usage import DayUsage, UsageCounters
from netra_trio.cluster.cluster import Cluster
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import NodeId, UserId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Problem, Refused
from netra_trio.protocol.usage import (
    NOTHING,
    Amounts,
    Unit,
    UsageKey,
    UsageLimits,
    UsageWarning,
    amounts,
    day_of,
    seconds_left,
    shown,
)
from netra_trio.services import Services
from netra_trio.sessions import refusals
from netra_trio.sessions.users import Users
from netra_trio.stores.usage import Usage, UsageStore
from netra_trio.telemetry.metrics import Metrics

EXCEEDED, WARNING = "budget_exceeded", "usage_warning"  # kinds of messages to other nodes
KEPT_SECONDS = 3600.0  # that a counter is kept after its day: clocks of nodes differ
RETRY_SECONDS = 1.0  # before the broker is asked again
STORED_SECONDS = 5.0  # between two sums of the store, while the broker does not answer

_Answer = TypeVar("_Answer")

_log = structlog.get_logger(__name__)


Tell = Callable[[str, JsonObject], None]
"""Sends a message to all other nodes in the background; it may be lost with the broker."""


@define(eq=False)
class _Day:
    """The usage of one user, agent and day, as this node knows it.

    Attributes:
        lock: Held while a report is counted, or the sum is read.
        total: Of all nodes, at least.
        is_known: Whether the total has begun with the store's sum.
        summed_at: When that was read last, on Trio's clock.
        counter: The id of the broker's counter that `own` counts for; None without one.
        own: The usage at this node since it first saw that counter.
        counted: The part of `own` that the counter has.
        warned: The units whose warning was sent.
        exceeded: The unit whose limit is exceeded.
    """

    key: UsageKey
    lock: trio.Lock = field(factory=trio.Lock)
    total: Amounts = NOTHING
    is_known: bool = False
    summed_at: float = -inf
    counter: str | None = None
    own: Amounts = NOTHING
    counted: Amounts = NOTHING
    warned: set[Unit] = field(factory=set)
    exceeded: Unit | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the broker's counter has everything."""
        return self.own == self.counted

    def join(self, seen: DayUsage) -> None:
        """Count for a counter from now on."""
        self.counter, self.own, self.counted = seen.counter, seen.own, seen.own
        self.is_known = True
        self.note(seen)

    def note(self, seen: DayUsage) -> None:
        """Note the total of the counter, and what this node has to add to it."""
        self.total = self.total.at_least(seen.total.plus(self.own.minus(seen.own)))


@define(eq=False)
class _Report:
    """A report that is being recorded.

    Attributes:
        failure: The exception of the store, if it failed.
    """

    usage: Usage
    has_ended: trio.Event = field(factory=trio.Event)
    failure: Exception | None = None


class DayBudgets:
    """The budgets of users at one node; it is the `Budgets` of the services.

    Args:
        limits: The limits; at least one.
        users: The users of this node, with their runs and connections.
        store: Has the reports.
        metrics: Count the decisions that this node made alone.
        wall_clock: Returns Unix seconds.
        start_soon: Starts a task that ends with the node.
    """

    def __init__(
        self,
        limits: UsageLimits,
        *,
        users: Users,
        store: UsageStore,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        start_soon: Callable[..., Any],
    ) -> None:
        self._limits = limits
        self._users = users
        self._store = store
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._start_soon = start_soon
        self._days: dict[tuple[UserId, str], _Day] = {}
        self._counters: UsageCounters | None = None
        self._tell: Tell = _tell_none
        self._is_shared = False

    def share(self, counters: UsageCounters, tell: Tell) -> None:
        """Count over all nodes from now on; called before any client connects.

        Args:
            counters: The counters of the broker.
            tell: Tells the other nodes.
        """
        self._counters = counters
        self._tell = tell
        self._is_shared = True

    @property
    def kept(self) -> int:
        """How many pairs of a user and an agent are kept."""
        return len(self._days)

    # For the sessions.

    async def check(self, user_id: UserId, agent_name: str) -> None:
        """Return if an agent may be used for a user now. Cancelling is safe.

        Raises:
            Refused: BUDGET_EXCEEDED, or SERVICE_UNAVAILABLE if the sum is not known now.
        """
        now = self._wall_clock()
        day = self._day(UsageKey(user_id, agent_name, day_of(now)))
        if day.exceeded is None:
            try:
                await self._refresh(day)
            except StoreUnavailable:
                raise refusals.not_stored() from None
            self._apply(day)
        if day.exceeded is not None:
            raise Refused(self._problem(day, day.exceeded, now))

    async def record_usage(self, usage: Usage) -> None:
        """Store what a run has used, and stop it with the others if its budget is used up."""
        report = _Report(usage)
        self._start_soon(self._run_report, report)
        await report.has_ended.wait()
        if report.failure is not None:
            raise report.failure

    # Messages of other nodes.

    def on_exceeded(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Stop the runs of a user and an agent whose budget is used up."""
        key = UsageKey(UserId(header["user"]), header["agent"], header["day"])
        if self._users.find(key.user_id) is None or key.day != day_of(self._wall_clock()):
            return
        day = self._day(key)
        day.total = day.total.at_least(Amounts(header["tokens"], header["cost"]))
        self._apply(day)

    def on_warning(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Warn the sessions of a user."""
        self._send_warning(UserId(header["user"]), UsageWarning(**header["warning"]))

    # Counting.

    async def _run_report(self, report: _Report) -> None:
        try:
            await self._record(report.usage)
        except Exception as failure:  # raised again in the task of the run
            report.failure = failure
        finally:
            report.has_ended.set()

    async def _record(self, usage: Usage) -> None:
        day = self._day(UsageKey(usage.user_id, usage.agent_name, day_of(usage.created_at)))
        used = amounts(usage.input_tokens + usage.output_tokens, usage.cost)
        async with day.lock:
            # The sum is read first: whether a later one has this report would not be known.
            with suppress(StoreUnavailable):
                await self._begin(day)
            before = day.total
            try:
                await self._store.record_usage(usage)
            finally:
                day.own, day.total = day.own.plus(used), day.total.plus(used)
            reached = await self._count(day, before)
        self._announce(day, reached)

    async def _count(self, day: _Day, before: Amounts) -> Collection[Unit]:
        """Count what is not counted at the broker yet, if it answers.

        Returns:
            The units whose warning is reached.
        """
        if self._counters is None:
            return self._reached(before, day.total)
        if self._is_shared:
            with suppress(BrokerUnavailable, StoreUnavailable):
                if (seen := await self._count_shared(self._counters, day)) is not None:
                    return seen.reached
                await self._seed(self._counters, day)
        return self._reached(before, day.total)

    async def _count_shared(self, counters: UsageCounters, day: _Day) -> DayUsage | None:
        """Count for the counter that this node knows; None if there is none of this id."""
        if day.counter is None:
            return None
        own = day.own
        seen = await self._ask(
            counters.count(day.key, day.counter, own, warnings=self._limits.warnings)
        )
        if seen is not None:
            day.counted = own
            day.note(seen)
        return seen

    def _reached(self, before: Amounts, after: Amounts) -> Collection[Unit]:
        """Return the units whose warning lies between two sums."""
        return [
            unit
            for unit, warning in self._limits.warnings.items()
            if before.of(unit) < warning <= after.of(unit)
        ]

    def _announce(self, day: _Day, reached: Collection[Unit]) -> None:
        """Warn the user, and stop the runs beyond a limit, on all nodes."""
        for unit in reached:
            if unit not in day.warned:
                day.warned.add(unit)
                self._warn(day, unit)
        was_exceeded = day.exceeded is not None
        self._apply(day, again=True)
        if day.exceeded is not None and not was_exceeded:
            key, total = day.key, day.total
            header = {"user": key.user_id, "agent": key.agent_name, "day": key.day}
            self._tell(EXCEEDED, {**header, "tokens": total.tokens, "cost": total.cost})

    def _warn(self, day: _Day, unit: Unit) -> None:
        key, used = day.key, shown(unit, day.total.of(unit))
        fields: JsonObject = {
            "agent_name": key.agent_name,
            "unit": unit,
            "limit": self._limits.shown(unit),
            "used": used,
        }
        self._send_warning(key.user_id, UsageWarning(**fields))
        self._tell(WARNING, {"user": key.user_id, "warning": fields})

    def _send_warning(self, user_id: UserId, warning: UsageWarning) -> None:
        user = self._users.find(user_id)
        for connection in [] if user is None else user.connections:
            connection.try_send(warning)

    def _apply(self, day: _Day, *, again: bool = False) -> None:
        """Stop the runs of a day whose limit is exceeded.

        Args:
            day: The day.
            again: Whether to look for runs also if that was done before.
        """
        unit = self._limits.exceeded(day.total)
        if unit is None or (day.exceeded is not None and not again):
            return
        day.exceeded = unit
        user = self._users.find(day.key.user_id)
        if user is None:
            return
        error = self._problem(day, unit, self._wall_clock())
        for live in list(user.runs.values()):
            if live.message.agent_name == day.key.agent_name:
                live.stop(error)

    def _problem(self, day: _Day, unit: Unit, now: float) -> Problem:
        used, limit = shown(unit, day.total.of(unit)), self._limits.shown(unit)
        return refusals.budget_exceeded(day.key.agent_name, unit, used, limit, now)

    # The sum of a day.

    async def _refresh(self, day: _Day) -> None:
        """Bring the total of a day up to date.

        Raises:
            StoreUnavailable: If it is not known.
        """
        counters = self._counters
        if counters is None and day.is_known:  # the usual case of a single process
            return
        if counters is not None and self._is_shared:
            with suppress(BrokerUnavailable):
                seen = await self._ask(counters.read(day.key))
                if seen is not None and seen.counter == day.counter:  # the usual case of several
                    day.note(seen)
                    return
        async with day.lock:
            try:
                if counters is not None and day.counter is not None and self._is_shared:
                    with suppress(BrokerUnavailable):
                        await self._seed(counters, day)  # the counter is lost
                        return
                await self._begin(day)
            except StoreUnavailable:
                if not day.is_known:
                    raise

    async def _begin(self, day: _Day) -> None:
        """Read the total of a day, and the counter if the broker answers.

        Raises:
            StoreUnavailable: If it is not known.
        """
        counters = self._counters
        if counters is not None and self._is_shared:
            if day.counter is not None:
                return
            with suppress(BrokerUnavailable):
                seen = await self._ask(counters.read(day.key))
                if seen is None or day.own != NOTHING:
                    await self._seed(counters, day)
                else:
                    day.join(seen)
                return
        now = trio.current_time()
        if counters is not None:
            self._metrics.broker_fallbacks["usage"] += 1
        if not day.is_known or (counters is not None and day.summed_at + STORED_SECONDS <= now):
            day.total = day.total.at_least(await self._store.used_in_day(day.key))
            day.is_known, day.summed_at = True, now

    async def _seed(self, counters: UsageCounters, day: _Day) -> None:
        """Count for the counter that there is now, which gets the store's sum.

        Raises:
            BrokerUnavailable: If the broker does not answer.
            StoreUnavailable: If the store does not.
        """
        stored = await self._store.used_in_day(day.key)
        seconds = seconds_left(self._wall_clock()) + KEPT_SECONDS
        warnings = self._limits.warnings
        day.join(
            await self._ask(counters.seed(day.key, stored, warnings=warnings, seconds=seconds))
        )

    # The broker.

    async def _ask(self, call: Awaitable[_Answer]) -> _Answer:
        """Return an answer of the broker; after a failure, count alone for a while."""
        try:
            return await call
        except BrokerUnavailable as unavailable:
            if self._is_shared:
                self._is_shared = False
                _log.warning("budgets_local", reason=str(unavailable))
                self._start_soon(self._retry)
            raise

    async def _retry(self) -> None:
        """Ask the broker until it answers, and report what was counted meanwhile."""
        counters = self._counters
        assert counters is not None  # noqa: S101 - for mypy: it did not answer
        probe = UsageKey(UserId(""), "", "")
        while not self._is_shared:
            await trio.sleep(RETRY_SECONDS)
            with suppress(BrokerUnavailable):
                await counters.read(probe)
                self._is_shared = True
        _log.info("budgets_shared")
        for day in list(self._days.values()):
            if not day.is_counted:
                async with day.lock:
                    reached = await self._count(day, day.total)
                self._announce(day, reached)

    # The days that are kept.

    def _day(self, key: UsageKey) -> _Day:
        """Return the day of a user and an agent, or a new one."""
        pair = (key.user_id, key.agent_name)
        day = self._days.get(pair)
        if day is None or day.key.day != key.day:
            self._days.pop(pair, None)
            self._remove_idle(key.day)
            day = self._days[pair] = _Day(key)
        return day

    def _remove_idle(self, today: str) -> None:
        """Drop old days among the two that were begun first: each new day leads to two checks."""
        for pair in [pair for pair, _ in zip(self._days, range(2), strict=False)]:
            day = self._days.pop(pair)
            is_used = self._users.find(pair[0]) is not None or day.lock.locked()
            is_open = self._counters is not None and not day.is_counted
            if day.key.day == today and (is_used or is_open):
                self._days[pair] = day


def serve_budgets(
    services: Services, users: Users, cluster: Cluster | None, start_soon: Callable[..., Any]
) -> Services:
    """Return the services with the budgets of the settings, if there are limits.

    Args:
        services: The services of the node.
        users: The users of the node.
        cluster: The other nodes; None if there are none.
        start_soon: Starts a task of the node.
    """
    settings = services.settings
    limits = UsageLimits.of_settings(settings.usage_limit_tokens, settings.usage_limit_cost)
    if not limits:
        return services
    budgets = DayBudgets(
        limits,
        users=users,
        store=services.store,
        metrics=services.instruments.metrics,
        wall_clock=services.wall_clock,
        start_soon=start_soon,
    )
    if cluster is not None:
        mailbox, membership = cluster.mailbox, cluster.membership

        async def post(node: NodeId, kind: str, header: JsonObject) -> None:
            with suppress(BrokerUnavailable):  # the other node learns of it from the counter
                await mailbox.post(node, kind, header)

        async def post_all(kind: str, header: JsonObject) -> None:
            for node in await membership.find_peers():
                start_soon(post, node, kind, header)

        def tell(kind: str, header: JsonObject) -> None:
            start_soon(post_all, kind, header)

        budgets.share(cluster.backend.usage, tell)
        mailbox.handle_now(EXCEEDED, budgets.on_exceeded)
        mailbox.handle_now(WARNING, budgets.on_warning)
    return evolve(services, budgets=budgets)


def _tell_none(_kind: str, _header: JsonObject) -> None:
    """Send nothing: there are no other nodes."""
