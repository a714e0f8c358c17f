"""Conversations in Open WebUI, a chat page of others, with the agents of this server as its models.

A new conversation begins with requests of Open WebUI's own, its tasks: they ask the model for a
title, for labels, and for what the user could say next.
"""

import re
from collections.abc import Iterator
from functools import partial

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import chromium
from support.open_webui import (
    choose,
    messages,
    open_webui,
    say,
    stop_button,
    visiting_open_webui,
)
from support.server import SOON, Server, serving, write_agents

USER = "webui"
TASKS = ("title", "tags", "follow-ups")
AGENTS = r"""
from pathlib import Path

import trio

TASKS = {"a concise title": "title", "broad tags": "tags", "useful messages": "follow-ups"}


async def do_task(run):
    task = next(task for phrase, task in TASKS.items() if phrase in run.content)
    asked = run.content.partition("USER: ")[2].partition("\n")[0]
    print(f"{task} of {asked}", flush=True)
    if (task, asked) == ("title", "name this"):
        await run.emit('{"title": "A name by the agent"}')
    else:
        await run.emit("This is no JSON.")


async def talk(run):
    word, _, rest = run.content.partition(" ")
    if word == "###":
        await do_task(run)
    elif word == "hold":
        await run.think("Considering it")
        await run.emit("first ")
        while not Path(rest).exists():
            await trio.sleep(0.01)
        await run.emit("second")
    elif word == "recall":
        earlier = [f"{one.role}: {one.content}" for one in await run.history()]
        await run.emit(" | ".join(earlier) or "nothing")
    elif word == "long":
        for number in range(int(rest)):
            await run.emit(f"Line {number} of the long answer.\n\n")
    elif word == "fail":
        await run.emit("half of it ")
        raise ValueError("by the test")
    else:
        await run.emit(f"You said: {run.content}")


async def whisper(run):
    await run.emit(f"psst: {run.content}")
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SOON * 1000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    agents = [f"--agent=outside_agents:{name}" for name in ("talk", "whisper")]
    settings = {
        "WEBSOCKET_MAX_MESSAGE_RATE": "1000",
        "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "50",
    }
    with serving(folder, "--door=openai", *agents, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def address(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("open-webui")
    # It names its user in headers then, and the user of the server is that of the token.
    with open_webui(folder, server, USER, ENABLE_FORWARD_USER_INFO_HEADERS="true") as running:
        yield running


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with visiting_open_webui(browser, address) as page:
        choose(page, "talk")
        yield page


def release(server: Server, name: str) -> None:
    (server.process.directory / name).touch()


def answer(page: Page) -> Locator:
    return messages(page).last


def contains(line: str, lines: list[str]) -> bool:
    return line in lines


def finished(page: Page) -> None:
    expect(stop_button(page)).to_have_count(0)


def test_the_agents_are_the_models(page: Page) -> None:
    page.get_by_role("button", name="Selected model").click()
    models = page.get_by_role("listbox", name="Available models").get_by_role("option")
    expect(models).to_have_text([re.compile("talk"), re.compile("whisper")])
    page.get_by_role("option", name="Select whisper model").click()
    say(page, "hello")
    expect(answer(page)).to_contain_text("psst: hello")


def test_an_answer_is_seen_while_it_is_written(page: Page, server: Server) -> None:
    say(page, "hold written")
    expect(answer(page)).to_contain_text("first")
    expect(stop_button(page)).to_be_visible()
    release(server, "written")
    expect(answer(page)).to_contain_text("first second")
    finished(page)


def test_a_thought_is_shown_apart_from_the_answer(page: Page, server: Server) -> None:
    release(server, "thought")
    say(page, "hold thought")
    expect(answer(page)).to_contain_text("first second")
    expect(answer(page)).not_to_contain_text("Considering it")
    page.get_by_role("button", name="Thought for").click()
    expect(answer(page)).to_contain_text("Considering it")


def test_stop_cancels_the_run(page: Page, server: Server) -> None:
    how = {"status": "cancelled", "user_id": USER}
    ended = len(server.process.logs("run_ended", **how))
    say(page, "hold for-ever")
    expect(answer(page)).to_contain_text("first")
    stop_button(page).click()
    server.process.wait_log("run_ended", ended + 1, **how)
    finished(page)
    expect(answer(page)).to_contain_text("first")
    say(page, "hello")
    expect(answer(page)).to_contain_text("You said: hello")


def test_the_agent_reads_what_was_said_before(page: Page) -> None:
    say(page, "remember the heron")
    expect(answer(page)).to_contain_text("You said: remember the heron")
    finished(page)
    page.reload()
    expect(messages(page)).to_have_count(2)
    say(page, "recall")
    said = "user: remember the heron | agent: You said: remember the heron"
    expect(answer(page)).to_contain_text(said)


def test_a_page_that_is_reloaded_shows_the_rest_of_the_answer(page: Page, server: Server) -> None:
    say(page, "hold reloaded")
    expect(answer(page)).to_contain_text("first")
    page.wait_for_url("**/c/*")
    page.reload()
    expect(answer(page)).to_contain_text("first")
    release(server, "reloaded")
    expect(answer(page)).to_contain_text("first second")


def test_an_answer_is_written_again(page: Page) -> None:
    say(page, "recall")
    expect(answer(page)).to_contain_text("nothing")
    finished(page)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("Try Again", exact=True).click()
    expect(answer(page)).to_contain_text("2/2")
    expect(answer(page)).to_contain_text("nothing")


def test_a_long_answer_arrives_whole(page: Page) -> None:
    say(page, "long 1000")
    expect(answer(page)).to_contain_text("Line 999 of the long answer.")
    finished(page)
    expect(answer(page).get_by_role("paragraph")).to_have_count(1000)


def test_an_error_is_shown_behind_what_was_written(page: Page) -> None:
    say(page, "fail")
    expect(answer(page)).to_contain_text("half of it")
    expect(answer(page)).to_contain_text("The agent failed.")
    finished(page)


def test_an_answer_cannot_be_continued(page: Page, server: Server) -> None:
    say(page, "hold continued")
    expect(answer(page)).to_contain_text("first")
    stop_button(page).click()
    page.get_by_role("button", name="Continue Response").click()
    expect(answer(page)).to_contain_text("the agent answers the user's message")


@pytest.mark.parametrize(
    ("text", "title"), [("name that", "name that"), ("name this", "A name by the agent")]
)
def test_tasks_do_no_harm(text: str, title: str, page: Page, server: Server) -> None:
    say(page, text)
    for task in TASKS:
        server.process.out.wait_for(partial(contains, f"{task} of {text}"))
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(messages(page)).to_have_count(2)
    expect(answer(page)).to_contain_text(f"You said: {text}")
