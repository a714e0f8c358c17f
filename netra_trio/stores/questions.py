"""The questions of runs as a store keeps them, and as history lists them.

size = questions_size(sum(each.size for each in asked), len(asked))
"""

from collections.abc import Sequence
from typing import Any

from orjson import loads

from netra_trio.ids import NodeId, QuestionId, RunId, UserId
from netra_trio.protocol.messages import HistoryQuestion, QuestionKind, QuestionOutcome, RunStatus
from netra_trio.protocol.text import json_size
from netra_trio.stores.bounds import (
    HISTORY_LISTED_BYTES,
    HISTORY_PROMPT_CHARACTERS,
    HISTORY_QUESTIONS_BYTES,
)
from netra_trio.stores.notifications import Notification
from netra_trio.stores.threads import UNFINISHED
from netra_trio.values import frozen


@frozen
class NewQuestion:
    """A question that a run asks.

    Attributes:
        user_id: The user who may answer.
        schema: The JSON Schema of the answer, as JSON.
        tool_name: The tool of an approval.
        arguments: The arguments of that tool, as JSON.
        digest: The SHA-256 of the tool and its arguments, which the approval is bound to.
        created_at: Unix seconds.
        expires_at: Unix seconds.
        notification: Stored with the question.
    """

    question_id: QuestionId
    run_id: RunId
    user_id: UserId
    kind: QuestionKind
    prompt: str
    created_at: float
    expires_at: float
    schema: bytes | None = None
    tool_name: str | None = None
    arguments: bytes | None = None
    digest: bytes | None = None
    notification: Notification | None = None

    @property
    def size(self) -> int:
        """The bytes of its texts."""
        return json_size(self.prompt) + _length(self.schema) + _length(self.arguments)


@frozen
class QuestionEnd:
    """How a question was closed.

    Attributes:
        answer: The answer as JSON, if there is one.
        user_id: The user who answered; None if no user did.
    """

    question_id: QuestionId
    run_id: RunId
    outcome: QuestionOutcome
    answer: bytes | None = None
    user_id: UserId | None = None

    @property
    def size(self) -> int:
        """The bytes of its answer."""
        return _length(self.answer)


def _length(data: bytes | None) -> int:
    return 0 if data is None else len(data)


@frozen
class StoredQuestion:
    """A question in the store.

    Attributes:
        outcome: How it was closed; None while it is open. A question whose run has ended is closed.
        owner: The node of its run while the run is unfinished; else None.
    """

    outcome: QuestionOutcome | None
    owner: NodeId | None = None


def listed_question(
    asked: NewQuestion, end: QuestionEnd | None, status: RunStatus
) -> HistoryQuestion:
    """Return a question as history lists it.

    Args:
        asked: The question.
        end: How it was closed; None if that is not stored.
        status: The status of its run.
    """
    return HistoryQuestion(
        asked.question_id,
        asked.kind,
        asked.prompt,
        asked.expires_at,
        _loaded(asked.schema),
        asked.tool_name,
        _loaded(asked.arguments),
        outcome_of(None if end is None else end.outcome, status),
        None if end is None else _loaded(end.answer),
        None if end is None else end.user_id,
    )


def _loaded(data: bytes | None) -> Any:
    return None if data is None else loads(data)


def questions_within(
    asked: Sequence[tuple[HistoryQuestion, int]],
) -> tuple[HistoryQuestion, ...] | None:
    """Return the questions of a run for history; None if there are none.

    Beyond `HISTORY_QUESTIONS_BYTES` the older ones that are closed are shortened. An open one is
    complete: a user cannot approve what is not shown.

    Args:
        asked: The questions in order, each with the bytes of its texts.
    """
    left = HISTORY_QUESTIONS_BYTES - sum(size for each, size in asked if each.outcome is None)
    shown: list[HistoryQuestion] = []
    for question, size in reversed(asked):
        is_open = question.outcome is None
        left -= 0 if is_open else size
        shown.append(question if is_open or left >= 0 else _shortened(question))
    return tuple(reversed(shown)) or None


def questions_size(total: int, count: int) -> int:
    """Return the bytes that the questions of a run take in history, at most.

    Args:
        total: The bytes of their texts.
        count: How many there are.
    """
    return min(total, HISTORY_QUESTIONS_BYTES) + count * HISTORY_LISTED_BYTES


def _shortened(question: HistoryQuestion) -> HistoryQuestion:
    return HistoryQuestion(
        question.question_id,
        question.kind,
        question.prompt[:HISTORY_PROMPT_CHARACTERS],
        question.expires_at,
        tool_name=question.tool_name,
        outcome=question.outcome,
        user_id=question.user_id,
        truncated=True,
    )


def outcome_of(stored: str | None, status: RunStatus) -> QuestionOutcome | None:
    """Return the outcome of a question of a run, None while it is open.

    A question ends with its run. After a crash, only the end of the run is stored.
    """
    if stored is not None:
        return QuestionOutcome(stored)
    return None if status in UNFINISHED else QuestionOutcome.CANCELLED
