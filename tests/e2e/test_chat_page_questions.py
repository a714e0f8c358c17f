"""Questions and approvals of agents on the chat page, in a real browser with a real server."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import (
    Visitor,
    answers,
    chromium,
    connected,
    message_box,
    say,
    sign_in,
    visiting,
)
from support.server import PATIENCE, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = """
import json

import trio

from netra_trio.errors import QuestionExpired, ToolDenied

SCHEMA = {
    "type": "object",
    "required": ["count", "urgent", "size"],
    "properties": {
        "count": {"type": "integer", "title": "How many?", "minimum": 1, "maximum": 9},
        "urgent": {"type": "boolean", "title": "Urgent?"},
        "size": {"enum": ["S", "M", "L"], "title": "Size"},
        "note": {"type": "string", "title": "Note"},
        "tags": {"type": "array", "title": "Tags", "items": {"type": "string"}},
    },
}


async def ask(run):
    await run.usage(model="small", input_tokens=1200, output_tokens=34)
    try:
        match run.content.split()[0]:
            case "delete":
                path = "/srv/data/report.csv"
                async with run.tool("delete_file", approve=True, path=path, force=True) as tool:
                    tool.result = "deleted"
                return "It is deleted."
            case "form":
                order = await run.ask("What shall I order?", schema=SCHEMA)
                return json.dumps(order, sort_keys=True)
            case "short":
                return await run.ask("Quick: which one?", expires=3)
            case "number":
                return repr(await run.ask("How many?", schema={"type": "number", "multipleOf": 5}))
            case _:
                await run.emit(await run.ask("Which one?"))
    except ToolDenied:
        return "It is still there."
    except QuestionExpired:
        return "Too late."
"""

OUTCOME = re.compile("(approved|denied|answered|expired .*|cancelled .*)$")  # of a closed question


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("asking")
    write_agents(folder, AGENTS)
    with serving(folder, "--agent", "outside_agents:ask") as running:
        yield running


@pytest.fixture
def visitor(browser: Browser, server: Server) -> Iterator[Visitor]:
    with visiting(browser, server.address) as visiting_now:
        yield visiting_now


@pytest.fixture
def page(visitor: Visitor) -> Page:
    opened = visitor.page()
    sign_in(opened)
    return opened


def approval(page: Page) -> Locator:
    return page.get_by_role("group", name="Approval needed")


def question(page: Page) -> Locator:
    return page.get_by_role("group", name="Question")


def line(page: Page) -> Locator:
    """Return the last closed question."""
    return answers(page).locator("summary").filter(has_text=OUTCOME).last


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


@pytest.mark.parametrize(
    ("choice", "outcome", "answer"),
    [("Approve", "approved", "It is deleted."), ("Deny", "denied", "It is still there.")],
)
def test_an_approval(page: Page, choice: str, outcome: str, answer: str) -> None:
    say(page, "delete it")
    expect(approval(page)).to_contain_text("delete_file")
    expect(approval(page)).to_contain_text('"path": "/srv/data/report.csv"')
    expect(approval(page)).to_contain_text("Expires in 4 min")
    expect(message_box(page)).to_be_focused()
    # By keyboard alone: from the arguments to the buttons behind them.
    approval(page).get_by_label("Arguments").focus()
    page.keyboard.press("Tab")
    if choice == "Deny":
        page.keyboard.press("Tab")
    expect(button(page, choice)).to_be_focused()
    page.keyboard.press("Enter")
    expect(answers(page).last).to_contain_text(answer)
    expect(line(page)).to_have_text(f"delete_file{outcome}")
    expect(line(page)).to_be_focused()
    expect(approval(page)).to_have_count(0)
    expect(answers(page).last).to_contain_text("1,234 tokens")


def test_two_tabs_race(visitor: Visitor, page: Page) -> None:
    say(page, "delete it")
    approval(page).wait_for()
    other = visitor.page(f"/#{page.url.partition('#')[2]}")
    connected(other)
    approval(other).wait_for()
    assert visitor.open_sockets == 1
    page.evaluate("""() => {
      const all = [...document.querySelectorAll(".question button")];
      all.find((one) => one.textContent === "Approve").click();
    }""")
    # The other tab presses before it has heard of the outcome, unless it is too late for that.
    has_pressed = other.evaluate("""() => {
      const all = [...document.querySelectorAll(".question button")];
      const deny = all.find((one) => one.textContent === "Deny");
      deny?.click();
      return deny !== undefined;
    }""")
    for tab in (page, other):
        expect(line(tab)).to_have_text("delete_fileapproved")
        expect(answers(tab).last).to_contain_text("It is deleted.")
    told = answers(other).last.get_by_role("alert")
    expect(told).to_have_count(1 if has_pressed else 0)


def test_every_device_may_answer_and_shows_the_outcome(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as one, visiting(browser, server.address) as two:
        first, second = one.page("/#t-lost"), two.page("/#t-lost")
        sign_in(first)
        say(first, "delete it")
        approval(first).wait_for()
        sign_in(second)
        approval(second).wait_for()
        button(second, "Deny").click()
        expect(line(second)).to_have_text("delete_filedenied")
        expect(line(first)).to_have_text("delete_filedenied")
        say(first, "delete it again")
        approval(second).wait_for()
        button(first, "Approve").click()
        for page in (first, second):
            expect(line(page).last).to_have_text("delete_fileapproved")
            expect(approval(page)).to_have_count(0)


def test_an_expired_question(page: Page) -> None:
    say(page, "short")
    expect(question(page)).to_contain_text("Expires in")
    expect(answers(page).last).to_contain_text("Too late.")
    expect(line(page)).to_have_text("Quick: which one?expired without an answer")


def test_a_form(page: Page) -> None:
    say(page, "form")
    form = question(page)
    form.get_by_label("How many?").fill("12")
    button(page, "Answer").click()
    expect(form.get_by_label("How many?")).to_be_focused()
    expect(form.get_by_role("alert")).to_have_text(["At most 9.", "Choose one.", "Choose one."])
    form.get_by_label("How many?").fill("3")
    form.get_by_label("Yes").check()
    form.get_by_label("M", exact=True).check()
    form.get_by_label("Tags (optional)").fill('["a", "b"')
    button(page, "Answer").click()
    expect(form.get_by_label("Tags (optional)")).to_be_focused()
    form.get_by_label("Tags (optional)").fill('["a", "b"]')
    button(page, "Answer").click()
    expect(answers(page).last).to_contain_text(
        '{"count": 3, "size": "M", "tags": ["a", "b"], "urgent": true}'
    )


def test_an_answer_that_only_the_server_refuses(page: Page) -> None:
    say(page, "number")
    question(page).get_by_label("Answer").fill("12")
    button(page, "Answer").click()
    expect(question(page).get_by_role("alert")).to_contain_text("12 is not a multiple of 5")
    question(page).get_by_label("Answer").fill("15")
    page.keyboard.press("Enter")
    expect(answers(page).last).to_contain_text("15")


def test_a_reload_in_the_middle(page: Page) -> None:
    say(page, "text")
    question(page).get_by_label("Answer").fill("not sent")
    page.reload()
    connected(page)
    expect(question(page)).to_contain_text("Which one?")
    expect(question(page)).to_have_count(1)
    question(page).get_by_label("Answer").fill("The first")
    button(page, "Answer").click()
    expect(answers(page).last).to_contain_text("The first")
    expect(line(page)).to_have_text("Which one?answered")
    page.reload()
    connected(page)
    expect(answers(page).last).to_contain_text("The first")
    expect(question(page)).to_have_count(0)


def test_stop_ends_a_question(page: Page) -> None:
    say(page, "text")
    question(page).get_by_label("Answer").press("Escape")  # in the form: what is typed stays
    expect(question(page)).to_have_count(1)
    button(page, "Stop").click()
    expect(line(page)).to_have_text("Which one?cancelled with its run")
