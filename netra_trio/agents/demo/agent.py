"""The demo agent: shows thoughts, tool calls, streaming and slow runs, without a model.

    from netra_trio import create_app
    from netra_trio.agents.demo.agent import demo

    app = create_app(agents={"demo": demo})

Ask it "what is 12*(3+4)?", "what time is it in New York?", "what did I say?", to make a file of the
conversation, or to count slowly; or send it files.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from time import time
from typing import Any

import trio
from attrs import frozen

from netra_trio.agents.demo.calculator import calculate
from netra_trio.agents.demo.clock import time_in
from netra_trio.agents.demo.files import conversation_file, description
from netra_trio.agents.demo.questions import Question, find_questions
from netra_trio.agents.demo.quoting import quoted
from netra_trio.agents.run import Run
from netra_trio.errors import FilesFull, StorageUnavailable, StoreUnavailable, ToolError

PACE = 0.03  # seconds between words: streaming is visible, and 100 words take 3 s
THINKING = 0.3  # seconds for each thought and each tool call, so that they are visible
THOUGHTS = 3  # steps of every run: read, decide, write
SLOW_SECONDS = 60  # of slow mode, one line each: time to stop it, or to disconnect and resume
RULES_CHARACTERS = 2000  # of a message that the rules search: bounds the time of the search
HISTORY_MESSAGES = 50  # of the thread that are searched for messages of the user
QUOTED_MESSAGES = 5  # the newest of them, which are quoted
ERROR_CHARACTERS = 300  # of the quoted error of a tool; those of the demo tools are shorter
DIGITS = 40  # of an integer in the answer; a longer one is shortened

EXAMPLES = (
    ("what is 12*(3+4)?", "I ask my calculator"),
    ("what time is it in New York and Tokyo?", "I ask my clock, twice at the same time"),
    ("what did I say?", "I look into the history of this thread"),
    ("make a file of this conversation", "I attach what was said to my answer"),
    ("count slowly", f"I count for {SLOW_SECONDS} seconds, until you stop me"),
)


async def demo(run: Run) -> None:
    """Answer by simple rules, word by word, as Markdown; the result is the emitted text."""
    text = run.content[:RULES_CHARACTERS]
    await _think(run, "Reading your message", 1)
    rule = FILES if run.attachments else next(rule for rule in RULES if rule.applies(text))
    await _think(run, rule.thought, 2)
    await rule.answer(run, text)


# The answers. Each sends the third thought before it writes.


async def _count(run: Run, _: str) -> None:
    await _write(
        run,
        f"I count to {SLOW_SECONDS}, one line a second. **You can stop me at any time**, "
        "or lose the connection and see me go on where you were.\n\n",
    )
    for second in range(1, SLOW_SECONDS + 1):
        await trio.sleep(1)
        await run.emit(f"- {second} of {SLOW_SECONDS}\n")
    await _say(run, "\nThat was all; you were patient.")


async def _use_tools(run: Run, text: str) -> None:
    questions = find_questions(text)
    answers = [""] * len(questions)

    async def ask(place: int, question: Question) -> None:
        answers[place] = await _ask(run, question)

    # A new nursery, because the answers are needed here. `run.nursery` is for tasks that the agent
    # does not wait for.
    async with trio.open_nursery() as nursery:
        for place, question in enumerate(questions):
            nursery.start_soon(ask, place, question)
    mark = "- " if len(answers) > 1 else ""
    await _write(run, "\n".join(mark + answer for answer in answers))


async def _tell_history(run: Run, _: str) -> None:
    try:
        earlier = await run.history(HISTORY_MESSAGES)
    except StoreUnavailable:
        await _write(run, "I cannot look into the history right now. Please ask again in a moment.")
        return
    said = [message.content for message in earlier if message.role == "user"]
    if not said:
        await _write(run, "Nothing yet: this is your first message in this thread.")
        return
    quotes = (f"{n}. {quoted(content)}\n" for n, content in enumerate(said[-QUOTED_MESSAGES:], 1))
    await _write(run, "Before this you said, oldest first:\n\n" + "".join(quotes))


async def _make_file(run: Run, _: str) -> None:
    try:
        earlier = await run.history(HISTORY_MESSAGES)
        said = [("You" if m.role == "user" else "Demo", m.content) for m in earlier]
        content = conversation_file([*said, ("You", run.content)])
        await run.attach("conversation.md", content, "text/markdown")
    except (StoreUnavailable, StorageUnavailable, FilesFull):
        await _write(run, "I cannot make a file right now. Please ask again in a moment.")
        return
    await _write(run, f"Here is what was said: {_counted(len(earlier) + 1, 'message')}.")


async def _describe_files(run: Run, _: str) -> None:
    begin = f"You sent {_counted(len(run.attachments), 'file')}:\n\n"
    lines = [f"- {await description(attachment)}\n" for attachment in run.attachments]
    await _write(run, begin + "".join(lines))


async def _help(run: Run, _: str) -> None:
    await _write(
        run,
        "Hello! I am the demo agent of **netra-trio**. There is no language model behind me, only "
        f"a few rules, but all you see is real: thoughts, tools, streaming.\n\n{_suggestions()}",
    )


async def _reflect(run: Run, _: str) -> None:
    words, characters = len(run.content.split()), len(run.content)
    await _write(
        run,
        f"You wrote {quoted(run.content)}: {_counted(words, 'word')}, "
        f"{_counted(characters, 'character')}.\n\n"
        "I am a demo without a language model, so that is all I can say about it. "
        f"{_suggestions()}",
    )


# The rules. The first that applies is used, so a question for a tool comes before a greeting:
# "Hello, what is 2+2?".


@frozen
class Rule:
    """The messages that get one kind of answer, its thought, and the function that writes it."""

    applies: Callable[[str], object]
    thought: str
    answer: Callable[[Run, str], Awaitable[None]]


RULES = (
    Rule(re.compile(r"(?i)\bslow(?:ly)?\b").search, "This is to be slow, so I count", _count),
    Rule(
        re.compile(r"(?i)\b(?:make|write|create|attach|send|give)\b.*\bfiles?\b").search,
        "You want a file",
        _make_file,
    ),
    Rule(find_questions, "My tools can answer this", _use_tools),
    Rule(
        re.compile(r"(?i)\bhistory\b|\bwhat (?:did|have) I (?:just )?sa(?:y|id)\b").search,
        "This is about what was said before",
        _tell_history,
    ),
    Rule(
        re.compile(
            r"(?i)\bhelp\b|\bwhat can you do\b"
            r"|^\W*(?:hi|hello|hey|hallo|greetings|good (?:morning|afternoon|evening))\b"
        ).search,
        "I should introduce myself",
        _help,
    ),
    Rule(lambda _: True, "No rule of mine fits, so I show what I got", _reflect),
)

FILES = Rule(bool, "I read your files", _describe_files)
"""For messages with files, with any text."""

# The tools.

TOOLS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "calculator": ("expression", lambda text: str(calculate(text))),  # as text: JSON has 64 bits
    "clock": ("zone", lambda text: time_in(text, time())),
}


async def _ask(run: Run, question: Question) -> str:
    """Call a tool, and return the answer as a sentence, also if the tool fails."""
    argument, function = TOOLS[question.tool]
    arguments: dict[str, Any] = {argument: question.text}
    try:
        async with run.tool(question.tool, **arguments) as tool:
            await trio.sleep(THINKING)
            tool.result = function(question.text)
    except ToolError as error:
        reason = quoted(str(error), ERROR_CHARACTERS)
        return f"I am sorry, {quoted(question.text)} is beyond me: {reason}."
    if question.tool == "clock":
        return f"The time in {quoted(question.text)} is **{tool.result}**."
    return f"{quoted(question.text)} is {_rounded(tool.result)}."


def _rounded(number: str) -> str:
    """Return a number for people: 0.1+0.2 as 0.3, and a long integer shortened."""
    digits = number.lstrip("-")
    if not digits.isdigit():
        return f"**{float(number):.12g}**"
    if len(digits) <= DIGITS:
        return f"**{number}**"
    half = DIGITS // 2
    return f"**{number[:half]}…{number[-half:]}** ({len(digits)} digits)"


# Writing.


async def _think(run: Run, thought: str, step: int) -> None:
    await run.think(thought, step=step, total=THOUGHTS)
    await trio.sleep(THINKING)


async def _write(run: Run, text: str) -> None:
    await _think(run, "Writing the answer", 3)
    await _say(run, text)


async def _say(run: Run, text: str) -> None:
    """Emit a text word by word, each with the space after it."""
    for word in re.findall(r"\s*\S+\s*", text):
        await run.emit(word)
        await trio.sleep(PACE)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _suggestions() -> str:
    lines = (f"- `{example}`: {effect}\n" for example, effect in EXAMPLES)
    return "Try one of these:\n\n" + "".join(lines)
