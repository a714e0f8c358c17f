"""The chat of docs/doors-vercel.md in a real browser: the unmodified SDK, over real sockets."""

import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from attrs import frozen
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import chromium, visiting
from support.event_cutting import EventRelay, cutting_events
from support.pages import pages
from support.ports import kept_port
from support.server import Process, Server, serving, sign, write_agents
from support.server import ready as ready_server
from support.vercel_page import vercel_page

pytestmark = pytest.mark.unmeasured

AGENTS = """
from pathlib import Path

import trio

from netra_trio.errors import ToolDenied


async def talk(run):
    kind, _, rest = run.content.partition(" ")
    with open("runs.txt", "a") as runs:
        runs.write(run.content + "\\n")
    if kind == "wait":  # for the file of this name
        await run.emit("I wait.")
        while not Path(rest).exists():
            await trio.sleep(0.02)
        await run.emit(" It is there.")
    elif kind == "count":
        await run.think("Counting")
        for number in range(1, 9):
            await run.emit(f"{number} ")
            async with run.tool("note", number=number) as tool:
                tool.result = number
    elif kind == "delete":
        await run.think("Looking for notes")
        async with run.tool("list_files", folder="notes") as tool:
            tool.result = ["todo.txt"]
        await run.emit("There is one note. ")
        try:
            async with run.tool("delete_file", approve=True, name="todo.txt") as tool:
                tool.result = "deleted"
        except ToolDenied:
            await run.emit("Then it stays.")
        else:
            await run.emit("It is gone.")
    elif kind == "ask":
        name = await run.ask("What is your name?")
        await run.emit(f"Hello, {name}.")
    elif kind == "fail":
        raise ValueError("a secret")
    else:
        await run.emit(f"You said {run.content}.")
"""
HURRIED = "const later = setTimeout; setTimeout = (call, ms) => later(call, ms / 50);"
AGENT = ("--agent", "outside_agents:talk", "--door", "vercel")


@frozen
class Place:
    """A server, a browser, and the port of the page."""

    folder: Path
    server: Server
    browser: Browser
    page: int

    def runs(self, content: str) -> int:
        """Return the number of runs with this content."""
        return (self.folder / "runs.txt").read_text().splitlines().count(content)

    def release(self, name: str) -> None:
        """Let an agent that waits for this name go on."""
        (self.folder / name).touch()

    @contextmanager
    def chat(self, name: str, **options: Any) -> Iterator[Page]:
        """Open the chat of this name."""
        with chat(self.browser, self.page, self.server.port, name, **options) as page:
            yield page


@contextmanager
def chat(
    browser: Browser, page: int, port: int, name: str, *, token: str | None = None
) -> Iterator[Page]:
    query = urlencode({"api": f"http://localhost:{port}/api/chat", "id": name})
    with visiting(browser, f"localhost:{page}") as visitor:
        visitor.context.add_init_script(HURRIED)
        yield visitor.page(f"/?{query}#{token or sign(name)}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("vercel")
    write_agents(folder, AGENTS)
    with (
        serving(folder, *AGENT) as server,
        pages(vercel_page()) as page,
        chromium() as browser,
    ):
        yield Place(folder, server, browser, page)


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def answer(page: Page) -> Locator:
    """Return the newest message of the agent."""
    return page.locator("article.assistant").last


def ready(page: Page) -> None:
    expect(page.get_by_role("status")).to_have_text("ready")


@contextmanager
def relayed(port: int, is_cut: Callable[[int], bool]) -> Iterator[tuple[int, EventRelay]]:
    """Run a relay that cuts connections in a thread of its own."""
    started: queue.Queue[tuple[int, EventRelay, Callable[[], None]]] = queue.Queue()

    async def run() -> None:
        stop, token = trio.Event(), trio.lowlevel.current_trio_token()
        async with cutting_events(port, is_cut) as (own, relay):
            started.put((own, relay, lambda: token.run_sync_soon(stop.set)))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    own, relay, stop = started.get()
    try:
        yield own, relay
    finally:
        stop()
        thread.join()


def test_a_conversation_with_a_thought_a_tool_and_an_approval(place: Place) -> None:
    with place.chat("approves") as page:
        say(page, "delete it")
        expect(answer(page)).to_contain_text("Looking for notes")
        expect(answer(page)).to_contain_text('list_files: output-available ["todo.txt"]')
        page.get_by_role("button", name="Allow").click()
        expect(answer(page)).to_contain_text("It is gone.")
        expect(answer(page)).to_contain_text('delete_file: output-available "deleted"')
        ready(page)
        say(page, "hello")
        expect(answer(page)).to_have_text("You said hello.")
        expect(page.locator("article")).to_have_count(4)
    assert place.runs("delete it") == 1


def test_a_denied_call(place: Place) -> None:
    with place.chat("denies") as page:
        say(page, "delete that")
        page.get_by_role("button", name="Deny").click()
        expect(answer(page)).to_contain_text("Then it stays.")
        expect(answer(page)).to_contain_text("delete_file: output-denied")
        ready(page)


def test_a_question(place: Place) -> None:
    with place.chat("is-asked") as page:
        say(page, "ask me")
        page.get_by_label("What is your name?").fill("Ada")
        page.get_by_label("What is your name?").press("Enter")
        expect(answer(page)).to_contain_text("What is your name? Ada")
        expect(answer(page)).to_contain_text("Hello, Ada.")
        ready(page)
        expect(page.locator("article")).to_have_count(2)


def test_a_reload_in_the_middle_of_an_answer(place: Place) -> None:
    with place.chat("reloads") as page:
        say(page, "wait reload")
        expect(answer(page)).to_have_text("I wait.")
        page.reload()
        expect(answer(page)).to_have_text("I wait.")
        expect(page.get_by_role("status")).to_have_text("streaming")
        place.release("reload")
        expect(answer(page)).to_have_text("I wait. It is there.")
        ready(page)
        page.reload()  # the run has ended: its message is read again, and stays the same
        expect(answer(page)).to_have_text("I wait. It is there.")
        ready(page)
        expect(page.locator("article")).to_have_count(2)
    assert place.runs("wait reload") == 1


@pytest.mark.parametrize("step", [3, 8])
def test_cuts_after_every_few_events(place: Place, step: int) -> None:
    cut_at = [0, step]  # a stream is read again from its start: each cut comes later in it

    def is_cut(events: int) -> bool:
        if events < cut_at[0] + cut_at[1]:
            return False
        cut_at[:] = [events, cut_at[1] + step]
        return True

    name = f"cuts-{step}"
    with relayed(place.server.port, is_cut) as (port, relay):
        with chat(place.browser, place.page, port, name) as page:
            say(page, f"count {step}")
            ready(page)
            parts = ["Counting"]
            for number in range(1, 9):
                parts += [f"{number}", f"note: output-available {number}"]
            expect(answer(page).locator("p")).to_have_text(parts)
        assert relay.cuts >= 2
    assert place.runs(f"count {step}") == 1


def test_a_stop(place: Place) -> None:
    with place.chat("stops") as page:
        say(page, "wait forever")
        expect(answer(page)).to_have_text("I wait.")
        page.get_by_role("button", name="Stop").click()
        ready(page)
        say(page, "hello")  # the chat is free
        expect(answer(page)).to_have_text("You said hello.")


def test_another_answer(place: Place) -> None:
    with place.chat("fails") as page:
        say(page, "fail please")
        expect(page.get_by_role("alert")).to_contain_text("The agent failed.")
        expect(page.get_by_role("alert")).not_to_contain_text("secret")
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("alert")).to_contain_text("The agent failed.")
    assert place.runs("fail please") == 2


def test_a_refused_token(place: Place) -> None:
    with place.chat("refused", token=sign("refused", seconds=-60)) as page:
        expect(page.get_by_role("alert")).to_contain_text("The token has expired")
        say(page, "hello")
        expect(page.get_by_role("alert")).to_contain_text("The token has expired")
        expect(page.locator("article.assistant")).to_have_count(0)


def test_a_busy_chat(place: Place) -> None:
    token = sign("busy")
    with place.chat("busy", token=token) as first, place.chat("busy", token=token) as second:
        say(first, "wait busy")
        expect(answer(first)).to_have_text("I wait.")
        say(second, "hello")
        expect(second.get_by_role("status")).to_have_text(re.compile("submitted|streaming"))
        place.release("busy")
        expect(answer(first)).to_have_text("I wait. It is there.")
        expect(answer(second)).to_have_text("You said hello.")


def test_a_full_rate_and_a_restart(place: Place, tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    limits = {"WEBSOCKET_MAX_MESSAGE_RATE": "1", "WEBSOCKET_BURST_QUEUE": "0"}
    with (
        kept_port() as port,
        chat(place.browser, place.page, port, "restarts") as page,
    ):
        alert = page.get_by_role("alert")
        command = ["-m", "netra_trio", "serve", "--port", str(port), *AGENT]
        with Process(command, directory=tmp_path, environ={}, measured=False) as process:
            ready_server(process)
            say(page, "wait restart")
            expect(answer(page)).to_have_text("I wait.")
        with serving(tmp_path, *AGENT, port=str(port), **limits):
            expect(alert).to_contain_text("The server ended before the run.")
            say(page, "hello")
            expect(answer(page)).to_have_text("You said hello.")
            ready(page)
            say(page, "and more")
            expect(alert).to_contain_text("Too many messages")
