"""Actions at messages on the chat page, on two devices: edits, ratings, agents, approvals."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import answers, axe_faults, bubbles, chromium, say, sign_in, visiting
from support.commands import Typed
from support.server import SOON, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = """
from itertools import count

from netra_trio import agent

numbers = count(1)


async def counting(run):
    await run.emit(f"Answer {next(numbers)} to {run.content}.")


async def careful(run):
    async with run.tool("delete", approve=True, path="/tmp/x") as tool:
        tool.result = "gone"
    await run.emit("It is deleted.")


counting = agent(counting, title="The Counter", examples=["How many?"])
careful = agent(careful, title="The Careful", examples=["Delete it"])
"""
ARGUMENTS = ["--agent", "outside_agents:counting", "--agent", "outside_agents:careful"]
USER = "dev"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("actions")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    write_agents(folder, AGENTS)
    url = f"sqlite:///{folder / 'netra.db'}"
    with serving(folder, *ARGUMENTS, DATABASE_URL=url) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SOON * 1000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def devices(browser: Browser, server: Server) -> Iterator[tuple[Page, Page]]:
    """Return the pages of two devices of one user."""
    options = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
    with (
        visiting(browser, server.address) as wide,
        visiting(browser, server.address, **options) as phone,
    ):
        pages = (wide.page(), phone.page())
        for page in pages:
            sign_in(page, USER)
        yield pages


def at(devices: tuple[Page, Page], thread: str) -> tuple[Page, Page]:
    """Open a thread on both devices."""
    for page in devices:
        page.evaluate("thread => { location.hash = `#/${thread}` }", thread)
        expect(bubbles(page)).to_have_count(0)
    return devices


def test_an_edit_and_another_answer_are_seen_on_both_devices(devices: tuple[Page, Page]) -> None:
    one, two = at(devices, "edits")
    say(one, "first")
    expect(answers(two)).to_contain_text("to first.")
    say(one, "draft")
    expect(answers(two).last).to_contain_text("to draft.")
    one.get_by_role("button", name="Edit message").last.click()
    editor = one.get_by_role("textbox", name="Your message")
    expect(editor).to_be_focused()
    editor.fill("second")
    editor.press("Enter")
    for page in devices:
        expect(answers(page).last).to_contain_text("to second.")
        expect(bubbles(page)).to_have_text(["first", "second"])
    before = answers(two).last.locator(".markdown").inner_text()
    two.get_by_role("button", name="Regenerate").tap()
    for page in devices:
        expect(answers(page).last.locator(".markdown")).not_to_have_text(before)
        expect(answers(page).last).to_contain_text("to second.")
        expect(bubbles(page)).to_have_text(["first", "second"])
        assert axe_faults(page) == []


def test_a_rating_is_stored_and_exported(
    devices: tuple[Page, Page], folder: Path, typed: Typed
) -> None:
    one, two = at(devices, "ratings")
    say(one, "rate me")
    expect(answers(one)).to_contain_text("to rate me.")
    one.get_by_role("button", name="Good answer").click()
    one.get_by_role("button", name="Comment").click()
    one.get_by_role("textbox", name="Comment").fill("so good")
    one.get_by_role("button", name="Send comment").click()
    expect(one.get_by_role("button", name="Edit comment")).to_be_focused()
    two.reload()
    expect(two.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    url = f"sqlite:///{folder / 'netra.db'}"
    code, out, _ = typed("user", "export", USER, "--json", DATABASE_URL=url)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    [rated] = [row for row in rows if "feedback" in row]
    assert (rated["thread_id"], rated["content"]) == (
        "ratings",
        one.evaluate("document.querySelector('.markdown').innerText"),
    )
    assert rated["feedback"] == {"rating": "up", "comment": "so good"}


def test_an_agent_is_chosen_and_its_approval_is_given_on_the_phone(
    devices: tuple[Page, Page],
) -> None:
    one, two = at(devices, "agents")
    expect(one.get_by_role("list", name="Examples")).to_have_text("How many?")
    one.get_by_role("combobox", name="Agent").select_option("The Careful")
    one.get_by_role("button", name="Delete it").click()
    for page in devices:
        expect(page.get_by_role("button", name="Approve")).to_be_visible()
    assert axe_faults(two) == []
    two.get_by_role("button", name="Approve").tap()
    for page in devices:
        expect(answers(page)).to_contain_text("It is deleted.")
        expect(answers(page)).to_contain_text("approved")
        expect(answers(page).get_by_text("The Careful")).to_be_visible()
        expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    # The thread keeps its agent, also on the device that has not chosen it.
    expect(two.get_by_role("combobox", name="Agent")).to_have_value("careful")


def test_a_phone_begins_a_line_with_enter(devices: tuple[Page, Page]) -> None:
    _, phone = at(devices, "phone")
    box = phone.get_by_role("textbox", name="Message", exact=True)
    box.tap()
    phone.keyboard.type("one")
    phone.keyboard.press("Enter")
    phone.keyboard.type("two")
    expect(box).to_have_value("one\ntwo")
    phone.get_by_role("button", name="Send", exact=True).tap()
    expect(bubbles(phone)).to_have_text(["one\ntwo"])
