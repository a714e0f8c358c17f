"""The contract of `Store` for questions of runs, tested for every implementation."""

import pytest
from attrs import evolve
from orjson import dumps, loads
from stores.samples import (
    ALICE,
    BOB,
    NOW,
    answer_to,
    asked_by,
    end_of,
    new,
    page_of,
    record,
)

from netra_trio.ids import (
    new_question_id,
)
from netra_trio.protocol.messages import (
    HistoryQuestion,
    QuestionOutcome,
)
from netra_trio.stores.base import Store
from netra_trio.stores.questions import NewQuestion, QuestionEnd, StoredQuestion


def shown(question: NewQuestion, end: QuestionEnd | None = None) -> HistoryQuestion:
    """Return the question as history lists it."""
    return HistoryQuestion(
        question.question_id,
        question.kind,
        question.prompt,
        question.expires_at,
        {"type": "string"},
        "delete",
        {"path": "x"},
        None if end is None else end.outcome,
        None if end is None or end.answer is None else loads(end.answer),
        None if end is None else end.user_id,
    )


async def questions_of(store: Store) -> tuple[HistoryQuestion, ...] | None:
    """Return the questions of the run of the first message in history."""
    (message, *_), _ = await page_of(store)
    assert message.run is not None
    return message.run.questions


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_question_is_open_until_it_is_answered(store: Store, keyed: bool) -> None:
    message = new(keyed=keyed)
    await store.record(message)
    store.start_run(message.run_id)
    question = asked_by(message)
    await store.record_question(question)
    assert await questions_of(store) == (shown(question),)
    found = await store.find_question(ALICE, question.question_id)
    assert found == StoredQuestion(None, store.owner)
    end = answer_to(question)
    await store.end_question(end)
    assert await questions_of(store) == (shown(question, end),)
    found = await store.find_question(ALICE, question.question_id)
    assert found == StoredQuestion(end.outcome, store.owner)


async def test_only_the_first_end_of_a_question_counts(store: Store) -> None:
    message = new()
    await record(store, message)
    question = asked_by(message)
    await store.record_question(question)
    first, second = answer_to(question), answer_to(question, b'"no"')
    await store.end_question(first)
    await store.end_question(second)
    assert await questions_of(store) == (shown(question, first),)


async def test_questions_are_listed_in_order(store: Store) -> None:
    message, other = new(), new()
    await record(store, message, other)
    asked = [asked_by(message, at=NOW + number) for number in range(12)]
    for question in asked:
        await store.record_question(question)
    await store.record_question(asked_by(other))
    assert await questions_of(store) == tuple(shown(question) for question in asked)


async def test_an_open_question_ends_with_its_run(store: Store) -> None:
    message = new()
    await record(store, message)
    question = asked_by(message)
    await store.record_question(question)
    await store.end_run(end_of(message))
    found = await store.find_question(ALICE, question.question_id)
    assert found is not None
    assert found.outcome is QuestionOutcome.CANCELLED
    cancelled = QuestionEnd(question.question_id, message.run_id, QuestionOutcome.CANCELLED)
    assert await questions_of(store) == (shown(question, cancelled),)


async def test_a_question_is_found_by_its_user_only(store: Store) -> None:
    message = new()
    await record(store, message)
    question = asked_by(message)
    await store.record_question(question)
    assert await store.find_question(BOB, question.question_id) is None
    assert await store.find_question(ALICE, new_question_id()) is None


async def test_the_thread_of_a_question_is_found_until_its_run_ends(store: Store) -> None:
    message = new()
    await record(store, message)
    question = asked_by(message)
    assert await store.find_question_thread(question.question_id) is None
    await store.record_question(question)
    thread = (message.user_id, message.thread_id)
    assert await store.find_question_thread(question.question_id) == thread
    await store.end_question(answer_to(question))
    assert await store.find_question_thread(question.question_id) == thread
    await store.end_run(end_of(message))
    assert await store.find_question_thread(question.question_id) is None
    assert await store.find_question_thread(new_question_id()) is None


async def test_a_question_of_an_unknown_run_is_ignored(store: Store) -> None:
    message, unknown = new(), new()
    await record(store, message)
    question = asked_by(unknown)
    await store.record_question(question)
    await store.end_question(answer_to(question))
    assert await store.find_question(ALICE, question.question_id) is None
    assert await questions_of(store) is None


async def test_the_end_of_an_unknown_question_changes_nothing(store: Store) -> None:
    message = new()
    await record(store, message)
    question = asked_by(message)
    await store.end_question(answer_to(question))
    await store.record_question(question)
    assert await questions_of(store) == (shown(question),)


async def test_a_page_counts_its_questions(store: Store) -> None:
    messages = [new(f"{number}") for number in range(4)]
    for message in messages:
        await store.record(message)
        for _ in range(2):
            large = evolve(asked_by(message), arguments=dumps("x" * 40_000))
            await store.record_question(large)
    page, has_more = await page_of(store)  # of 256 KiB, where each message takes 80 KiB
    assert [message.content for message in page] == ["1", "2", "3"]
    assert has_more


async def test_the_older_closed_questions_of_a_run_are_shortened(store: Store) -> None:
    message = new()
    await record(store, message)
    asked = [
        evolve(asked_by(message, at=NOW + number), arguments=dumps("x" * 50_000), prompt="y" * 300)
        for number in range(5)
    ]
    for question in asked:
        await store.record_question(question)
    for question in asked[1:]:
        await store.end_question(answer_to(question, b"1"))
    questions = await questions_of(store)
    assert questions is not None
    assert [question.question_id for question in questions] == [q.question_id for q in asked]
    assert [question.truncated for question in questions] == [None, True, True, True, None]
    assert questions[0].arguments == "x" * 50_000  # it is open
    assert questions[1] == HistoryQuestion(
        asked[1].question_id,
        asked[1].kind,
        "y" * 200,
        asked[1].expires_at,
        tool_name="delete",
        outcome=QuestionOutcome.ANSWERED,
        user_id=ALICE,
        truncated=True,
    )
