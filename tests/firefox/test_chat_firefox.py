"""The chat page in Debian's Firefox: differences between browsers, and the most used functions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect
from support.browser import (
    DEVELOPER,
    answers,
    articles,
    axe_faults,
    connected,
    message_box,
    said,
    state,
    visiting,
)
from support.firefox import firefox
from support.ports import kept_port
from support.server import Server, serving, write_agents

AGENTS = '''
from pathlib import Path

import trio

MARKDOWN = """\\
# A heading

Some **strong** words and `code`.

```python
print("hello")
```

| Name | Quantity | Description | Manufacturer | Address |
| --- | --: | --- | --- | --- |
| Television | 12 | Something with words | International | https://example.com/a/long/address |

\\u0645\\u0631\\u062d\\u0628\\u0627 \\u0628\\u0627\\u0644\\u0639\\u0627\\u0644\\u0645 (Trio).
"""


async def talk(run):
    word, _, rest = run.content.partition(" ")
    if word == "hold":
        await run.emit("first ")
        while not Path(rest).exists():
            await trio.sleep(0.01)
        await run.emit("second")
    elif word == "markdown":
        await run.emit(MARKDOWN)
    elif word == "approve":
        async with run.tool("delete_file", approve=True, path="report.csv") as tool:
            tool.result = "deleted"
        await run.emit("It is deleted.")
    else:
        for part in ("You ", "said ", run.content):
            await run.emit(part)
'''
PHONE: ViewportSize = {"width": 390, "height": 780}
WIDE: ViewportSize = {"width": 1280, "height": 800}
LINES = """(table) => [...table.querySelectorAll("th, td")].flatMap((cell) => {
  const range = document.createRange();
  return [...cell.textContent.matchAll(/[A-Za-z]+/g)].filter(({ 0: word, index }) => {
    const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
    range.setStart(text, index);
    range.setEnd(text, index + word.length);
    return range.getClientRects().length > 1;
  }).map(([word]) => word);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with firefox() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("firefox")
    write_agents(folder, AGENTS)
    with talking(folder) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Return the page of a user of its own."""
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        sign_in(page, request.node.name)
        yield page


def talking(folder: Path, port: str = "0") -> AbstractContextManager[Server]:
    settings = {"WEBSOCKET_MAX_MESSAGE_RATE": "1000", "WEBSOCKET_DRAIN_TIMEOUT": "100"}
    return serving(folder, "--agent", "outside_agents:talk", port=port, **settings)


def sign_in(page: Page, user: str) -> None:
    name = page.get_by_label("User name")
    name.select_text()
    name.press_sequentially(user)
    page.get_by_role("button", name=DEVELOPER).click()
    connected(page)


def say(page: Page, text: str) -> None:
    # Key by key: React does not notice what this driver's `fill` does.
    message_box(page).press_sequentially(text)
    page.get_by_role("button", name="Send", exact=True).click()


def release(server: Server, name: str) -> None:
    (server.process.directory / name).touch()


def test_it_is_firefox(page: Page) -> None:
    assert "Firefox/" in page.evaluate("navigator.userAgent")


def test_a_message_and_its_answer(page: Page) -> None:
    expect(message_box(page)).to_be_focused()
    say(page, "hello")
    expect(said(page)).to_contain_text("hello")
    expect(answers(page)).to_contain_text("You said hello")
    expect(message_box(page)).to_have_value("")
    expect(message_box(page)).to_be_focused()


def test_an_answer_is_seen_while_it_is_written(page: Page, server: Server) -> None:
    say(page, "hold streamed")
    expect(answers(page)).to_contain_text("first")
    expect(answers(page)).to_have_attribute("aria-busy", "true")
    release(server, "streamed")
    expect(answers(page)).to_contain_text("first second")
    expect(answers(page)).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("way", ["button", "key"])
def test_stop(page: Page, way: str) -> None:
    say(page, "hold for-ever")
    expect(answers(page)).to_contain_text("first")
    if way == "button":
        page.get_by_role("button", name="Stop", exact=True).click()
    else:
        page.keyboard.press("Escape")
    expect(answers(page)).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)


def test_a_reload_while_an_answer_is_written(page: Page, server: Server) -> None:
    say(page, "hold reloaded")
    expect(answers(page)).to_contain_text("first")
    message_box(page).press_sequentially("half a thought")
    page.reload()
    connected(page)
    expect(answers(page)).to_contain_text("first")
    expect(message_box(page)).to_have_value("half a thought")
    release(server, "reloaded")
    expect(answers(page)).to_contain_text("first second")
    expect(articles(page)).to_have_count(2)


def test_enter_sends_and_the_end_of_a_composition_does_not(page: Page) -> None:
    box = message_box(page)
    box.press_sequentially("konnichiwa")
    composing = {"key": "Enter", "isComposing": True, "keyCode": 229, "bubbles": True}
    box.dispatch_event("keydown", composing)
    expect(box).to_have_value("konnichiwa")
    expect(said(page)).to_have_count(0)
    box.press("Shift+Enter")
    box.press("x")
    expect(box).to_have_value("konnichiwa\nx")
    box.press("Enter")
    expect(said(page)).to_have_count(1)
    expect(box).to_have_value("")


def test_markdown_tables_and_right_to_left_text(page: Page) -> None:
    say(page, "markdown")
    answer = answers(page)
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(answer.get_by_role("heading", name="A heading")).to_be_visible()
    direction = "(one) => getComputedStyle(one).direction"
    assert answer.locator(".markdown p").first.evaluate(direction) == "ltr"
    assert answer.locator(".markdown p").last.evaluate(direction) == "rtl"
    for viewport in (PHONE, WIDE):
        page.set_viewport_size(viewport)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"]
        assert answer.locator("table").evaluate(LINES) == [], "words that are broken"


def test_conversations(page: Page) -> None:
    say(page, "first subject")
    expect(answers(page)).to_have_count(1)
    page.get_by_role("button", name="New conversation").click()
    expect(articles(page)).to_have_count(0)
    expect(message_box(page)).to_be_focused()
    say(page, "second subject")
    expect(answers(page)).to_have_count(1)
    navigation = page.get_by_role("navigation")
    navigation.get_by_role("link", name="first subject").click()
    expect(said(page)).to_contain_text("first subject")
    page.go_back()
    expect(said(page)).to_contain_text("second subject")
    page.reload()
    connected(page)
    expect(said(page)).to_contain_text("second subject")


def test_an_approval(page: Page) -> None:
    say(page, "approve")
    asked = page.get_by_role("group", name="Approval needed")
    expect(asked).to_contain_text("report.csv")
    asked.get_by_role("button", name="Approve", exact=True).click()
    expect(answers(page)).to_contain_text("It is deleted.")


def test_two_windows_share_a_connection(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        one = visitor.page()
        sign_in(one, "two-windows")
        two = visitor.page()
        connected(two)
        opened = server.process.logs("connection_opened", user_id="two-windows")
        assert len(opened) == 1
        say(two, "from the second")
        expect(answers(two)).to_contain_text("You said from the second")
        one.get_by_role("navigation").get_by_role("link", name="from the second").click()
        expect(answers(one)).to_contain_text("You said from the second")
        # The window with the connection is closed: the other one connects.
        one.close()
        say(two, "still there")
        expect(answers(two).last).to_contain_text("still there")


def test_two_devices_show_the_same_thread(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as first, visiting(browser, server.address) as second:
        pages = []
        for visitor in (first, second):
            pages.append(visitor.page("/#/shared"))
            sign_in(pages[-1], "two-devices")
        one, two = pages
        say(one, "hold devices")
        for page in pages:
            expect(answers(page)).to_contain_text("first")
        two.get_by_role("button", name="Stop", exact=True).click()
        for page in pages:
            expect(answers(page)).to_contain_text("Stopped.")


def test_a_server_that_restarts(browser: Browser, tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    with kept_port() as port, visiting(browser, f"127.0.0.1:{port}") as visitor:
        page: Page
        with talking(tmp_path, str(port)):
            page = visitor.page()
            sign_in(page, "restarts")
            say(page, "before")
            expect(answers(page)).to_contain_text("You said before")
        expect(state(page)).to_contain_text("Reconnecting")
        say(page, "meanwhile")
        with talking(tmp_path, str(port)):
            expect(answers(page).last).to_contain_text("You said meanwhile")
            expect(answers(page)).to_have_count(2)


def test_axe_finds_nothing(page: Page) -> None:
    say(page, "markdown")
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    assert axe_faults(page) == []
    page.set_viewport_size(PHONE)
    assert axe_faults(page) == []
