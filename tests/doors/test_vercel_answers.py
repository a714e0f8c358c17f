"""Answers to questions and approvals at the door of the Vercel AI SDK, in virtual time."""

import trio
from support.vercel import Body, ask, body, posted, read, resumed, run_of, running, said, text_of
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.server.application import Application


def approval(question_id: str, approved: bool, run_id: str = "run") -> Body:
    part = {
        "type": "dynamic-tool",
        "toolName": "rm",
        "toolCallId": question_id,
        "state": "approval-responded",
        "input": {"path": "x"},
        "approval": {"id": question_id, "approved": approved},
    }
    message = {"id": run_id, "role": "assistant", "parts": [part]}
    return {"id": "c1", "messages": [said("approve"), message], "messageId": run_id}


async def _asked(app: Application, text: str = "approve it") -> tuple[str, str]:
    """Return the ids of a question and of its run."""
    told = await ask(app, body(text))
    asked = next(
        each for each in told if each["type"] in {"tool-approval-request", "data-question"}
    )
    return asked.get("approvalId") or asked["id"], run_of(told)


async def test_an_approved_call_continues_its_part(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        question_id, run_id = await _asked(app)
        async with resumed(app) as answer:  # it stands as it is
            again = await read(answer)
        assert again[-1]["finishReason"] == "tool-calls"
        yes = approval(question_id, True, run_id)
        async with posted(app, yes) as first:
            await wait_all_tasks_blocked()
        recorder.steps.release()
        async with posted(app, yes) as second:  # the stream was cut: the answer is sent again
            told = await read(second)
        assert first.status == 200
        assert run_of(told) == run_id
        output = {"type": "tool-output-available", "toolCallId": question_id, "output": "gone"}
        assert output in told
        assert text_of(told) == "Done."


async def test_a_call_that_ends_while_another_one_is_approved(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        told = await ask(app, body("both it"))
        call_id, question_id = [
            each["toolCallId"] for each in told if each["type"] == "tool-input-available"
        ]
        recorder.steps.release()
        await wait_all_tasks_blocked()
        yes = approval(question_id, True, run_of(told))
        open_part = {"type": "dynamic-tool", "state": "input-available", "toolCallId": call_id}
        yes["messages"][-1]["parts"].append(open_part)
        recorder.steps.release()
        rest = await ask(app, yes)
        again = await ask(app, yes)  # after the end of the run
        for each in (rest, again):
            outputs = {
                chunk["toolCallId"]: chunk["output"]
                for chunk in each
                if chunk["type"] == "tool-output-available"
            }
            assert outputs == {call_id: "seen", question_id: "gone"}


async def test_a_denied_call(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        question_id, run_id = await _asked(app)
        told = await ask(app, approval(question_id, False, run_id))
        assert {"type": "tool-output-denied", "toolCallId": question_id} in told
        # The agent has emitted text before, so what it returns is not its answer.
        assert told[-1]["finishReason"] == "stop"
        late = await ask(app, approval(question_id, True, run_id))
        response = {"type": "tool-approval-response", "approvalId": question_id}
        assert {**response, "approved": False, "reason": "denied"} in late


async def test_an_answer_after_the_expiry(autojump_clock: MockClock) -> None:
    async with running(resume_window_ms=600_000) as (app, _):
        question_id, run_id = await _asked(app)
        await trio.sleep(301)
        told = await ask(app, approval(question_id, True, run_id))
        response = {"type": "tool-approval-response", "approvalId": question_id}
        assert {**response, "approved": False, "reason": "expired"} in told
        assert {"type": "tool-output-denied", "toolCallId": question_id} in told


async def test_the_answer_to_a_question(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        question_id, run_id = await _asked(app, "ask me")
        last = {"id": run_id, "role": "assistant", "parts": []}
        answer = {"questionId": question_id, "answer": 5}
        json = {"id": "c1", "messages": [said("ask me"), last], "answer": answer}
        async with posted(app, json) as refused:
            assert refused.status == 409
            assert "$.payload.answer" in await refused.text()
        told = await ask(app, {**json, "answer": {**answer, "answer": "red"}})
        shown = next(each for each in told if each["type"] == "data-question")
        assert (shown["id"], shown["data"]["answer"]) == (question_id, "red")
        assert text_of(told) == "You said red."


async def test_an_answer_to_no_question(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        async with posted(app, approval("q_none", True)) as answer:
            assert answer.status == 409
        question_id, _ = await _asked(app)
        async with posted(app, approval("q_none", True)) as answer:
            assert answer.status == 409
            assert await answer.text() == "There is no such question in this chat."
        async with posted(app, approval(question_id, True), user="bob") as answer:
            assert answer.status == 409
