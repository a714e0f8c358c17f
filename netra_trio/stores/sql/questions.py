"""Questions of runs in the database, and what runs have used of models.

write_questions(connection, new, ends)      # in the transaction of a batch
found = read_questions(connection, run_ids)
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Row,
    bindparam,
    cast,
    func,
    select,
    update,
)

from netra_trio.ids import QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryQuestion, QuestionKind, QuestionOutcome, RunStatus
from netra_trio.protocol.usage import Amounts, UsageKey, amounts, day_of
from netra_trio.stores.questions import (
    NewQuestion,
    QuestionEnd,
    StoredQuestion,
    listed_question,
    outcome_of,
    questions_size,
    questions_within,
)
from netra_trio.stores.sql.rows import insert_missing
from netra_trio.stores.sql.schema import messages, questions, runs, threads, usage
from netra_trio.stores.threads import UNFINISHED
from netra_trio.stores.usage import Usage

_END = (
    update(questions)
    .where(questions.c.question_id == bindparam("id"), questions.c.outcome.is_(None))
    .values(outcome=bindparam("how"), answer=bindparam("text"), answered_by=bindparam("user"))
)


def write_questions(
    connection: Connection, new: Sequence[NewQuestion], ends: Sequence[QuestionEnd]
) -> None:
    """Insert questions of runs that exist, and store the first end of each question."""
    if new:
        connection.execute(insert_missing(connection, questions), [_row(each) for each in new])
    if ends:
        connection.execute(
            _END,
            [
                {
                    "id": end.question_id,
                    "how": str(end.outcome),
                    "text": end.answer,
                    "user": end.user_id,
                }
                for end in ends
            ],
        )


def write_usage(connection: Connection, reports: Sequence[Usage]) -> None:
    """Insert reports of usage, each once."""
    rows = [
        {
            "usage_id": each.id,
            "run_id": each.run_id,
            "user_id": each.user_id,
            "agent_name": each.agent_name,
            "model": each.model,
            "day": day_of(each.created_at),
            "input_tokens": each.input_tokens,
            "output_tokens": each.output_tokens,
            "cost": each.cost,
            "created_at": each.created_at,
        }
        for each in reports
    ]
    connection.execute(insert_missing(connection, usage), rows)


def find_question(
    connection: Connection, user_id: UserId, question_id: QuestionId
) -> StoredQuestion | None:
    """Return a question that this user may answer, None if there is none."""
    this = (questions.c.question_id == question_id, questions.c.user_id == user_id)
    row = connection.execute(
        select(questions.c.outcome, runs.c.status, runs.c.owner)
        .join(runs, runs.c.run_id == questions.c.run_id)
        .where(*this)
    ).one_or_none()
    if row is None:
        return None
    status = RunStatus(row.status)
    return StoredQuestion(
        outcome_of(row.outcome, status), row.owner if status in UNFINISHED else None
    )


def find_question_thread(
    connection: Connection, question_id: QuestionId
) -> tuple[UserId, ThreadId] | None:
    """Return the user and the thread of a question of an unfinished run, or None."""
    row = connection.execute(
        select(threads.c.user_id, threads.c.thread_id)
        .select_from(questions)
        .join(runs, runs.c.run_id == questions.c.run_id)
        .join(messages, messages.c.number == runs.c.message)
        .join(threads, threads.c.number == messages.c.thread)
        .where(questions.c.question_id == question_id, runs.c.status.in_(UNFINISHED))
    ).one_or_none()
    return None if row is None else (UserId(row.user_id), ThreadId(row.thread_id))


def read_questions(
    connection: Connection, statuses: Mapping[RunId, RunStatus]
) -> dict[RunId, tuple[HistoryQuestion, ...]]:
    """Return the questions of runs, in order, without the runs that have none.

    Args:
        connection: A connection.
        statuses: The status of each run.
    """
    found: defaultdict[RunId, list[tuple[HistoryQuestion, int]]] = defaultdict(list)
    for row in connection.execute(
        select(questions)
        .where(questions.c.run_id.in_(statuses))
        .order_by(questions.c.created_at, questions.c.question_id)
    ):
        asked, end = _asked_in(row), _end_in(row)
        size = asked.size + (0 if end is None else end.size)
        found[row.run_id].append((listed_question(asked, end, statuses[row.run_id]), size))
    return {run_id: questions_within(asked) or () for run_id, asked in found.items()}


def read_sizes(connection: Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Return the bytes that the questions of runs take in history, by the numbers of messages."""
    length, texts = func.length, (questions.c.schema, questions.c.arguments, questions.c.answer)
    total = func.sum(
        # Characters, which have one byte in nearly all prompts; the page is cut by bytes later.
        length(questions.c.prompt) + sum(func.coalesce(length(text), 0) for text in texts)
    )
    rows = connection.execute(
        select(runs.c.message, total.label("total"), func.count().label("asked"))
        .join(questions, questions.c.run_id == runs.c.run_id)
        .where(runs.c.message.in_(numbers))
        .group_by(runs.c.message)
    )
    return {row.message: questions_size(int(row.total), row.asked) for row in rows}


@frozen
class UsageSum:
    """The usage of all runs with the same values of some columns.

    Attributes:
        by: These values, by the names in `USAGE_COLUMNS`.
        runs: The number of runs.
        cost: The sum of what is known; None if nothing is.
    """

    by: Mapping[str, str]
    runs: int
    input_tokens: int
    output_tokens: int
    cost: float | None


def used_in_day(connection: Connection, key: UsageKey) -> Amounts:
    """Return the usage of a user and an agent in a day."""
    # As doubles: a sum of many huge reports would not fit into an integer of the database.
    tokens = cast(usage.c.input_tokens, Double) + cast(usage.c.output_tokens, Double)
    row = connection.execute(
        select(func.sum(tokens).label("tokens"), func.sum(usage.c.cost).label("cost")).where(
            usage.c.day == key.day,
            usage.c.user_id == key.user_id,
            usage.c.agent_name == key.agent_name,
        )
    ).one()
    return amounts(row.tokens or 0, row.cost)


USAGE_COLUMNS: Mapping[str, ColumnElement[str]] = {
    "day": usage.c.day,
    "user": usage.c.user_id,
    "agent": usage.c.agent_name,
    "model": usage.c.model,
}
"""The columns by which usage can be grouped."""


def sum_usage(
    connection: Connection, by: Sequence[str], since: str | None = None
) -> list[UsageSum]:
    """Return the usage, summed by some of `USAGE_COLUMNS`, in the order of their values.

    Args:
        connection: A connection.
        by: The names of the columns.
        since: The first day that counts, as `2026-11-30`, in UTC; None for all.
    """
    columns = [USAGE_COLUMNS[name].label(f"by_{name}") for name in by]
    sums = (
        func.count(usage.c.run_id.distinct()).label("runs"),
        func.sum(usage.c.input_tokens).label("read"),
        func.sum(usage.c.output_tokens).label("written"),
        func.sum(usage.c.cost).label("cost"),
    )
    query = select(*columns, *sums).group_by(*columns).order_by(*columns)
    if since is not None:
        query = query.where(usage.c.day >= since)
    return [
        UsageSum(
            {name: getattr(row, f"by_{name}") for name in by},
            row.runs,
            int(row.read),
            int(row.written),
            row.cost,
        )
        for row in connection.execute(query)
        if row.runs
    ]


def _asked_in(row: Row[Any]) -> NewQuestion:
    return NewQuestion(
        QuestionId(row.question_id),
        RunId(row.run_id),
        UserId(row.user_id),
        QuestionKind(row.kind),
        row.prompt,
        row.created_at,
        row.expires_at,
        row.schema,
        row.tool_name,
        row.arguments,
        row.digest,
    )


def _end_in(row: Row[Any]) -> QuestionEnd | None:
    if row.outcome is None:
        return None
    user_id = None if row.answered_by is None else UserId(row.answered_by)
    outcome = QuestionOutcome(row.outcome)
    return QuestionEnd(QuestionId(row.question_id), RunId(row.run_id), outcome, row.answer, user_id)


def _row(question: NewQuestion) -> dict[str, Any]:
    return {
        "question_id": question.question_id,
        "run_id": question.run_id,
        "user_id": question.user_id,
        "kind": str(question.kind),
        "prompt": question.prompt,
        "schema": question.schema,
        "tool_name": question.tool_name,
        "arguments": question.arguments,
        "digest": question.digest,
        "created_at": question.created_at,
        "expires_at": question.expires_at,
    }
