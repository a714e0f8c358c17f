"""The command `usage`: sums of what agents have used of models."""

import json
from pathlib import Path

import pytest
import trio
from support.commands import Typed
from support.postgres import PostgresServer

from netra_trio.cli import usage
from netra_trio.cli.check_services import ANSWER_SECONDS
from netra_trio.cli.user import open_users
from netra_trio.config.settings import Settings
from netra_trio.ids import RunId, UserId, new_usage_id
from netra_trio.stores.usage import Usage

DAY = 1_798_675_200.0  # 2026-12-31 00:00 UTC


# A view that takes longer to read than a statement of a server, or a call of `user`, may take.
SLOW = """
ALTER TABLE usage RENAME TO reports;
CREATE VIEW usage AS SELECT reports.* FROM reports, pg_sleep({seconds});
"""


def report(url: str) -> None:
    """Store three reports in a database."""

    async def write() -> None:
        async with open_users(Settings(database_url=url)) as store, store.open():
            for number, (user, model, cost) in enumerate(
                [("alice", "qwen3", 0.5), ("alice", "llama", None), ("bob", "qwen3", None)]
            ):
                await store.record_usage(
                    Usage(
                        new_usage_id(),
                        RunId(f"run_{number}"),
                        UserId(user),
                        "chat",
                        model,
                        1200,
                        7,
                        cost,
                        DAY + number * 86_400,
                    )
                )

    trio.run(write)


@pytest.fixture
def reported(typed: Typed, tmp_path: Path) -> None:
    """Store three reports in the database of the directory."""
    assert typed("user", "add", "alice")[0] == 0
    report(f"sqlite:///{tmp_path}/.netra/netra.db")


@pytest.fixture
def slow_url(typed: Typed, postgres: PostgresServer, database_url: str) -> str:
    """Return the url of a database of PostgreSQL with three reports, which are read slowly."""
    assert typed("user", "add", "alice", DATABASE_URL=database_url)[0] == 0
    report(database_url)
    slow = SLOW.format(seconds=ANSWER_SECONDS + 0.5)
    postgres.execute(slow, database_url.rpartition("/")[2])
    return database_url


def test_no_usage(typed: Typed) -> None:
    typed("user", "add", "alice")
    assert typed("usage") == (0, "No agent has reported any usage.\n", "")
    assert typed("usage", "--json") == (0, "", "")


@pytest.mark.usefixtures("reported")
def test_the_limits_stand_below_the_table(typed: Typed) -> None:
    _, table, _ = typed("usage")
    text = "Limits for one user and one agent in a day of UTC:"
    for limits, shown in (
        ({"USAGE_LIMIT_TOKENS": "200000"}, "200,000 tokens."),
        ({"USAGE_LIMIT_COST": "2.50"}, "a cost of 2.50."),
        ({"USAGE_LIMIT_TOKENS": "1", "USAGE_LIMIT_COST": "3"}, "1 tokens, a cost of 3."),
    ):
        code, out, _ = typed("usage", **limits)
        assert (code, out) == (0, f"{table}{text} {shown}\n")


@pytest.mark.usefixtures("reported")
def test_usage_is_a_table(typed: Typed) -> None:
    code, out, err = typed("usage")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["Day", "Runs", "Input", "tokens", "Output", "tokens", "Cost"]
    assert rows[1:] == [
        ["2026-12-31", "1", "1,200", "7", "0.5000"],
        ["2027-01-01", "1", "1,200", "7"],
        ["2027-01-02", "1", "1,200", "7"],
    ]


@pytest.mark.usefixtures("reported")
def test_usage_is_json_for_programs(typed: Typed) -> None:
    code, out, _ = typed(
        "usage", "--by", "user", "--by", "model", "--since", "2027-01-01", "--json"
    )
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"user": "alice", "model": "llama", "runs": 1, "input_tokens": 1200, "output_tokens": 7},
        {"user": "bob", "model": "qwen3", "runs": 1, "input_tokens": 1200, "output_tokens": 7},
    ]


def test_a_large_table_is_summed_without_the_limits_of_a_server(
    typed: Typed, slow_url: str
) -> None:
    code, out, err = typed("usage", "--by", "agent", "--json", DATABASE_URL=slow_url)
    assert (code, err) == (0, "")
    assert json.loads(out)["runs"] == 3


def test_a_sum_that_takes_too_long_is_one_line(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, slow_url: str
) -> None:
    monkeypatch.setattr(usage, "SUM_SECONDS", 1)
    code, out, err = typed("usage", DATABASE_URL=slow_url)
    assert (code, out) == (1, "")
    assert err == (
        "the usage cannot be summed: QueryCanceled: canceling statement due to statement timeout; "
        "if it takes too long, use --since\n"
    )


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", ""])
def test_a_bad_day_is_one_line(typed: Typed, day: str) -> None:
    code, out, err = typed("usage", "--since", day)
    assert (code, out) == (1, "")
    assert err == f"--since: expected a day like 2026-11-30, got {day!r}\n"


def test_an_unknown_column_is_refused(typed: Typed) -> None:
    code, _, err = typed("usage", "--by", "colour")
    assert code == 2
    assert "colour" in err
