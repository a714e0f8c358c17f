"""Questions and approvals in the chat: typed answers, other sessions, expiry, no input."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.server import Process, Server, serving, write_agents
from support.terminal import CTRL_C, CTRL_D, terminal

NETRA = ("-m", "netra_trio")
AGENTS = """
from pathlib import Path

import trio

from netra_trio.errors import QuestionExpired, ToolDenied


async def paint(run):
    count = await run.ask("How many?", {"type": "integer", "minimum": 1})
    try:
        async with run.tool("paint", approve=True, colour="blue", count=count) as tool:
            tool.result = "painted"
    except ToolDenied as denied:
        await run.emit(f"not painted: {denied.outcome}")


async def hurry(run):
    try:
        await run.ask("Quick?", expires=0.5)
    except QuestionExpired:
        await run.emit("too late")


async def several(run):
    async def ask(name):
        answers.append(await run.ask(f"{name}?"))

    answers = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "one")
        await trio.sleep(0.05)
        nursery.start_soon(ask, "two")
    await run.emit(" and ".join(answers))


async def two_tools(run):
    for name in ("first", "second"):
        try:
            async with run.tool(name, approve=True):
                pass
        except ToolDenied as denied:
            await run.emit(f"{name}: {denied.outcome}")


async def asks_late(run):
    await run.emit("Working.")
    if run.content == "ask":  # and leave the line editor of the chat waiting
        with trio.move_on_after(0.1):
            await run.ask("Really?")
    while not Path(f"go-{run.thread_id}").exists():
        await trio.sleep(0.01)
    await two_tools(run)


async def changes_its_mind(run):
    with trio.move_on_after(0.5):
        await run.ask("Really?")
    await run.emit("never mind")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    names = ("paint", "hurry", "several", "changes_its_mind", "two_tools", "asks_late")
    agents = [f"--agent=outside_agents:{name}" for name in names]
    with serving(folder, *agents, JWT_SECRET_KEY="") as running:
        yield running


def command(server: Server, *more: str) -> list[str]:
    assert server.token is not None
    return [*NETRA, "chat", "--url", server.url, "--token", server.token, *more]


def answer_elsewhere(server: Server, thread: str, **given: object) -> None:
    """Answer the open question of a thread in another session of the user."""

    async def answer() -> None:
        async with server.connect(token=server.token) as other:
            await other.send("get_thread_history", {"thread_id": thread})
            history = await other.expect("thread_history")
            (question,) = [
                asked
                for message in history["payload"]["messages"]
                for asked in message.get("run", {}).get("questions", ())
                if "outcome" not in asked
            ]
            await other.send("answer", {"question_id": question["question_id"], **given})
            await other.until("agent_answered")

    trio.run(answer)


def test_a_conversation(server: Server, tmp_path: Path) -> None:
    with terminal(command(server), directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press("paint it\r")
        chat.wait_for("How many?")
        chat.wait_for('JSON of this schema: {"type":"integer","minimum":1}')
        chat.wait_for("> ")
        chat.press("some\r")
        chat.wait_for("Expected a JSON integer.")
        chat.press("\r")
        chat.press("0\r")
        chat.wait_for("minimum")
        chat.wait_for("> ")
        chat.press("3\r")
        chat.wait_for("Allow the call of paint?")
        chat.wait_for('[paint] {"colour":"blue","count":3}')
        chat.wait_for("y or n?")
        chat.wait_for("> ")
        chat.press("perhaps\r")
        chat.wait_for("Type y or n.")
        chat.press("y\r")
        chat.wait_for("[paint] → painted")
        chat.wait_for("> ")
        # The next one is stopped while it asks.
        chat.press("again\r")
        chat.wait_for("How many?")
        chat.wait_for("> ")
        chat.press(CTRL_C)
        chat.wait_for("(cancelled)")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0
        assert "Traceback" not in chat.shown
    # Answers are not lines to recall.
    history = tmp_path / ".local" / "state" / "netra-trio" / "chat_history"
    assert history.read_text() == "paint it\nagain\n"


def test_a_script_answers_by_a_pipe(server: Server, tmp_path: Path) -> None:
    with Process(command(server), directory=tmp_path, environ={}, typed=True) as chat:
        for line in ("paint it", "3", "n"):
            chat.type(line)
        chat.out.wait_for(lambda lines: "not painted: denied" in lines)
        chat.hang_up()
        assert chat.wait() == 0
        assert "(denied)" in chat.out.lines


def test_several_questions_are_asked_one_after_the_other(server: Server, tmp_path: Path) -> None:
    asked = command(server, "--agent", "several")
    with Process(asked, directory=tmp_path, environ={}, typed=True) as chat:
        for line in ("go", "first", "second"):
            chat.type(line)
        chat.out.wait_for(lambda lines: "first and second" in lines)
        chat.hang_up()
        assert chat.wait() == 0


def test_without_input_an_approval_is_denied(server: Server, tmp_path: Path) -> None:
    asked = command(server, "--thread", "no-input", "x")
    with Process(asked, directory=tmp_path, environ={}) as chat:
        chat.out.wait_for(lambda lines: any("There is no input: another" in x for x in lines))
        answer_elsewhere(server, "no-input", answer=2)
        assert chat.wait() == 0
        shown = "\n".join(chat.out.lines)
        assert "(answered in another session: 2)" in shown
        assert "There is no input: denied." in shown
        assert "not painted: denied" in shown


def test_another_session_answers_first(server: Server, tmp_path: Path) -> None:
    with terminal(command(server, "--thread", "elsewhere"), directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press("paint it\r")
        chat.wait_for("How many?")
        chat.wait_for("> ")
        chat.press("3\r")
        chat.wait_for("y or n?")
        chat.wait_for("> ")
        answer_elsewhere(server, "elsewhere", approve=True)
        chat.wait_for("(approved in another session)")
        chat.wait_for("[paint] → painted")
        chat.wait_for("> ")
        # The editor that waited for the answer takes the next message.
        chat.press("more\r")
        chat.wait_for("How many?")
        chat.press(CTRL_C)
        chat.wait_for("(cancelled)")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0


def test_an_answer_that_is_typed_ahead_answers_no_later_question(
    server: Server, tmp_path: Path
) -> None:
    with terminal(command(server, "--agent", "two_tools"), directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press("go\r")
        chat.wait_for("Allow the call of first?")
        chat.wait_for("> ")
        chat.press("y\ry\r")
        chat.wait_for("[first] → ")
        chat.wait_for("What was typed before the question is discarded.")
        chat.wait_for("Allow the call of second?")
        chat.wait_for("> ")
        chat.press("n\r")
        chat.wait_for("second: denied")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0


@pytest.mark.parametrize("content", ["work", "ask"], ids=["terminal", "line editor"])
def test_an_answer_that_is_typed_while_the_agent_works_answers_nothing(
    server: Server, tmp_path: Path, content: str
) -> None:
    """With the line editor, a read of an earlier question is active meanwhile."""
    asked = command(server, "--agent", "asks_late", "--thread", content)
    with terminal(asked, directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press(f"{content}\r")
        chat.wait_for("Working.")
        if content == "ask":
            chat.wait_for("(the question was cancelled)")
            chat.wait_for("> ")
        chat.press("y\r")
        chat.wait_for("y")
        chat.wait_for("\n")
        (server.process.directory / f"go-{content}").touch()
        chat.wait_for("What was typed before the question is discarded.")
        chat.wait_for("Allow the call of first?")
        chat.wait_for("> ")
        chat.press("n\r")
        chat.wait_for("first: denied")
        chat.wait_for("Allow the call of second?")
        chat.wait_for("> ")
        chat.press("n\r")
        chat.wait_for("second: denied")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0


@pytest.mark.parametrize(
    ("agent", "note", "answer"),
    [
        ("hurry", "(expired: there was no answer in time)", "too late"),
        ("changes_its_mind", "(the question was cancelled)", "never mind"),
    ],
)
def test_a_question_ends_without_an_answer(
    server: Server, tmp_path: Path, agent: str, note: str, answer: str
) -> None:
    with terminal(command(server, "--agent", agent), directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press("go\r")
        chat.wait_for("?")
        chat.wait_for(note)
        chat.wait_for(answer)
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0
