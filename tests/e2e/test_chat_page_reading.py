"""The visible part of a conversation stays in its place, and the order of events stays too."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser import answers, chromium, connected, message_box, say, sign_in, visiting
from support.server import PATIENCE, serving, write_agents

pytestmark = pytest.mark.unmeasured

SHOWN = 50  # messages of the newest page of a history
PIXELS = 2.0  # of rounding

AGENTS = '''
import trio


async def talk(run):
    """Write a paragraph; or steps in the middle of a text; or lines until it is stopped."""
    word = run.content.partition(" ")[0]
    if word == "steps":
        await run.think("first")
        await run.emit(f"Before {run.content}.\\n\\n")
        async with run.tool("look", what=run.content) as tool:
            await trio.sleep(0.1)
            tool.result = "found"
        await run.emit("In the middle.\\n\\n")
        await run.think("then")
        async with run.tool("count") as tool:
            tool.result = 2
        await run.emit("At the end.")
    elif word == "lines":
        async with run.tool("look") as tool:
            tool.result = {"lines": list(range(30))}
        for number in range(100_000):
            await run.emit(f"Line {number} of the answer.\\n\\n")
            await trio.sleep(0.01 if number < 50 else 0.03)
    else:
        await run.emit(f"An answer to {run.content}, " + "with many words " * 20)
'''

# The text and the steps of each message, without times.
OUTLINE = """
(messages) => messages.map((message) => [
  message.getAttribute("aria-label"),
  ...[...message.querySelectorAll(".bubble, .parts p, .tool code, .thoughts .summary")].map(
    (part) => part.textContent,
  ),
])
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Yield the page of a user; each test begins a conversation."""
    expect.set_options(timeout=PATIENCE * 1000)
    folder = tmp_path_factory.mktemp("reading")
    write_agents(folder, AGENTS)
    limits = {"WEBSOCKET_RATE_LIMIT_MESSAGES": "1000"}
    with (
        serving(folder, "--agent", "outside_agents:talk", **limits) as server,
        chromium() as browser,
        visiting(browser, server.address) as visitor,
    ):
        opened = visitor.page()
        sign_in(opened)
        yield opened


@pytest.fixture(autouse=True)
def conversation(page: Page) -> None:
    page.get_by_role("button", name="New conversation").click()
    expect(answers(page)).to_have_count(0)


def top_of(element: Locator) -> float:
    return float(element.evaluate("element => element.getBoundingClientRect().top"))


def scroller(page: Page) -> Locator:
    return page.locator(".scroller")


def from_end(page: Page) -> float:
    """Return the distance of what is shown to the end, in pixels."""
    return float(
        scroller(page).evaluate("area => area.scrollHeight - area.scrollTop - area.clientHeight")
    )


def lines(page: Page) -> int:
    """Return the number of streamed lines."""
    return page.locator(".parts p").count()


def grow(page: Page, by: int = 12) -> None:
    """Wait for more streamed lines, and a frame that shows them."""
    expect(page.locator(".parts p").nth(lines(page) + by)).to_be_attached()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def test_earlier_messages_leave_the_reader_in_place(page: Page) -> None:
    exchanges = SHOWN // 2 + 2
    for number in range(exchanges):
        message_box(page).fill(f"Message {number}.")
        message_box(page).press("Enter")
    expect(answers(page)).to_have_count(exchanges)
    expect(answers(page).last).to_have_attribute("aria-busy", "false")
    page.reload()
    connected(page)
    expect(answers(page)).to_have_count(SHOWN // 2)
    expect(page.locator("[role=log] > article")).to_have_count(SHOWN)
    button = page.get_by_role("button", name="Show earlier messages")
    scroller(page).evaluate("area => area.scrollTo(0, 0)")
    first = page.locator("[role=log] > article").first.element_handle()
    second = page.locator("[role=log] > article").nth(1).element_handle()
    box = "element => element.getBoundingClientRect().top"
    before = [each.evaluate(box) for each in (first, second)]
    button.focus()
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(exchanges)
    expect(button).to_have_count(0)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    after = [each.evaluate(box) for each in (first, second)]
    assert after == pytest.approx(before, abs=PIXELS)
    # The button has gone: the focus is at the first of the loaded messages.
    focused: Any = page.evaluate("document.activeElement.textContent")
    assert "Message 0." in focused
    expect(page.get_by_text("4 earlier messages are shown above.")).to_be_attached()


def test_a_streamed_answer_is_followed_until_the_reader_scrolls_or_opens(page: Page) -> None:
    say(page, "lines")
    grow(page, 40)
    assert from_end(page) <= PIXELS
    # The reader scrolls up.
    scroller(page).hover()
    page.mouse.wheel(0, -300)
    latest = page.get_by_role("button", name="Latest")
    latest.wait_for()
    shown = page.locator(".parts p").nth(lines(page) - 12)
    text = shown.text_content()
    read = page.locator(".parts p", has_text=text)
    before = top_of(read)
    grow(page)
    assert top_of(read) == pytest.approx(before, abs=PIXELS)
    latest.click()
    grow(page)
    assert from_end(page) <= PIXELS
    # A card that opens stays in its place, although the answer grows and the card is above it.
    card = page.locator("details.tool summary")
    scroller(page).evaluate("area => area.scrollTo(0, 0)")
    grow(page, 1)
    before = top_of(card)
    card.click()
    expect(page.locator("details.tool")).to_have_attribute("open", "")
    grow(page)
    assert top_of(card) == pytest.approx(before, abs=PIXELS)
    # Another device that comes in the middle of the run shows the card too, before the text.
    browser = page.context.browser
    assert browser is not None
    address, _, conversation = page.url.removeprefix("http://").partition("/")
    with visiting(browser, address) as device:
        other = device.page(f"/{conversation}")
        sign_in(other)
        line = "Line 0 of the answer."
        expect(other.get_by_text(line)).to_be_attached()
        articles = other.locator("[role=log] > article")
        expect(articles).to_have_count(2)  # the history, with the question, may come after the run
        _, answer = articles.evaluate_all(OUTLINE)
        assert answer[1:3] == ["look", line]
        assert answer.count("look") == 1
    page.get_by_role("button", name="Stop").click()
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    assert top_of(card) == pytest.approx(before, abs=PIXELS)


def test_the_order_of_several_answers_is_the_same_after_a_reload(page: Page) -> None:
    for number in range(3):
        message_box(page).fill(f"steps {number}")
        message_box(page).press("Enter")
    expect(page.get_by_text("At the end.")).to_have_count(3)
    expect(page.locator("article[aria-busy=true]")).to_have_count(0)
    articles = page.locator("[role=log] > article")
    live = articles.evaluate_all(OUTLINE)
    texts = [part for message in live for part in message[1:]]
    assert texts == [
        part
        for number in range(3)
        for part in (
            f"steps {number}",
            *("1 thought", f"Before steps {number}.", "look", "In the middle."),
            *("1 thought", "count", "At the end."),
        )
    ]
    page.reload()
    connected(page)
    expect(page.get_by_text("At the end.")).to_have_count(3)
    assert articles.evaluate_all(OUTLINE) == live
