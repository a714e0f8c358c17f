"""Usage of models, as budgets count it: per user, agent and UTC day, in tokens and in money.

>>> limits = UsageLimits(tokens=1000, cost=None)
>>> limits.exceeded(Amounts(1000, 5)), limits.exceeded(Amounts(1001, 0))
(None, 'tokens')
>>> limits.warnings
{'tokens': 800}
>>> day_of(1795404905.5), round(seconds_left(1795404905.5), 1)
('2026-11-23', 73494.5)

Tokens are those read and those written together. Costs are whole billionths of the currency, so
that sums are exact: a cost at its limit is not beyond it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import ClassVar, Literal

from attrs import field, frozen

from netra_trio.ids import UserId

COST_PARTS = 10**9  # of one unit of the currency
AMOUNT_MAX = 2**53 - 1  # larger integers lose precision in JSON and in Lua; a sum stops here
WARNING_TENTHS = 8  # of a limit: then the user is warned
DAY_SECONDS = 86_400

Unit = Literal["tokens", "cost"]
UNITS: tuple[Unit, ...] = ("tokens", "cost")


@frozen
class Amounts:
    """Amounts of usage.

    Attributes:
        tokens: Tokens read and written.
        cost: In billionths of the currency.
    """

    tokens: int = 0
    cost: int = 0

    def plus(self, other: "Amounts") -> "Amounts":
        """Return the sum; each amount is at most `AMOUNT_MAX`."""
        return Amounts(
            min(AMOUNT_MAX, self.tokens + other.tokens), min(AMOUNT_MAX, self.cost + other.cost)
        )

    def minus(self, other: "Amounts") -> "Amounts":
        """Return the difference between this and the other."""
        return Amounts(max(0, self.tokens - other.tokens), max(0, self.cost - other.cost))

    def at_least(self, other: "Amounts") -> "Amounts":
        """Return the larger amount of each unit."""
        return Amounts(max(self.tokens, other.tokens), max(self.cost, other.cost))

    def of(self, unit: Unit) -> int:
        """Return the amount in one unit."""
        return self.tokens if unit == "tokens" else self.cost


NOTHING = Amounts()


def amounts(tokens: float, cost: float | None) -> Amounts:
    """Return amounts of whole tokens and of a cost in the currency."""
    parts = 0.0 if cost is None else cost * COST_PARTS
    return Amounts(int(min(tokens, AMOUNT_MAX)), round(min(parts, AMOUNT_MAX)))


@frozen
class UsageKey:
    """The key of a sum of usage: a user, an agent and a day.

    Attributes:
        day: The UTC day, as `2026-11-30`.
    """

    user_id: UserId
    agent_name: str
    day: str


@frozen
class UsageLimits:
    """The limits of a day; None means no limit.

    Attributes:
        tokens: Tokens read and written.
        cost: In billionths of the currency.
        warnings: For each limit, the smallest amount that is at least 80 % of it.
    """

    tokens: int | None
    cost: int | None
    warnings: Mapping[Unit, int] = field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        found: dict[Unit, int] = {}
        for unit in UNITS:
            limit = self.of(unit)
            if limit is not None:
                found[unit] = -(-limit * WARNING_TENTHS // 10)
        object.__setattr__(self, "warnings", found)

    @classmethod
    def of_settings(cls, tokens: int | None, cost: Decimal | None) -> "UsageLimits":
        """Return the limits of the settings; `cost` is in the currency."""
        return cls(tokens, None if cost is None else int(cost * COST_PARTS))

    def __bool__(self) -> bool:
        """Whether there is a limit."""
        return self.tokens is not None or self.cost is not None

    def of(self, unit: Unit) -> int | None:
        """Return the limit in one unit."""
        return self.tokens if unit == "tokens" else self.cost

    def exceeded(self, used: Amounts) -> Unit | None:
        """Return the unit whose limit these amounts are beyond; None at the limit and below."""
        for unit in UNITS:
            limit = self.of(unit)
            if limit is not None and used.of(unit) > limit:
                return unit
        return None

    def shown(self, unit: Unit) -> float:
        """Return the limit in one unit as clients get it; 0 if there is none."""
        return shown(unit, self.of(unit) or 0)


@frozen
class UsageWarning:
    """An agent has used 80 % or more of what it may use for the user today.

    Attributes:
        limit: Tokens, or a cost in the currency of the reports.
        used: The sum of today, likewise.
        unit: `tokens` or `cost`.
    """

    TYPE: ClassVar[str] = "usage_warning"
    agent_name: str
    unit: str
    limit: float
    used: float


def shown(unit: Unit, amount: int) -> float:
    """Return an amount as clients get it: tokens, or a cost in the currency."""
    return amount if unit == "tokens" else amount / COST_PARTS


def day_of(moment: float) -> str:
    """Return the UTC day of a moment in Unix seconds."""
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def seconds_left(moment: float) -> float:
    """Return the seconds until the next midnight in UTC."""
    return DAY_SECONDS - moment % DAY_SECONDS
