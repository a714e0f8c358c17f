"""The chat page on several devices of one user: each is a browser context with its own storage."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import (
    Visitor,
    answers,
    articles,
    axe_faults,
    bubbles,
    chromium,
    connected,
    said,
    say,
    sign_in,
    state,
    visiting,
)
from support.server import SOON, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = '''
from pathlib import Path

import trio

from netra_trio import agent


async def talk(run):
    """Emit the words behind the first one, each when the test has made its file."""
    name, *words = run.content.split()
    await run.think(f"About {name}")
    async with run.tool("look", name=name) as tool:
        tool.result = name.upper()
    for number, word in enumerate(words):
        while not Path(f"{name}-{number}").exists():
            await trio.sleep(0.01)
        await run.emit(word + " ")


talk = agent(talk, unattended="continue")
'''
WINDOW_MS = 500

# A browser without a window shows no notifications, and says that they are denied after it has
# permitted them.
RECORD = """
window.shown = [];
window.notifications = [];
window.Notification = class extends Notification {
    static permission = "default";
    static async requestPermission() {
        return (this.permission = await super.requestPermission());
    }
    constructor(title, options) {
        super(title, options);
        shown.push(`${title}: ${options.body}`);
        notifications.push(this);
    }
};
"""
# No page of a browser without a window is ever hidden.
HIDE = """() => {
    Object.defineProperty(document, "visibilityState", {value: "hidden", configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
SHOW = """() => {
    delete document.visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
}"""
BUTTONS = """() => [...document.querySelectorAll("button:enabled")]
    .filter(each => each.checkVisibility({visibilityProperty: true}))
    .map(each => each.getAttribute("aria-label") ?? each.textContent)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SOON * 1000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    write_agents(folder, AGENTS)
    settings = {"WEBSOCKET_RESUME_WINDOW": str(WINDOW_MS), "WEBSOCKET_MAX_MESSAGE_RATE": "1000"}
    with serving(folder, "--agent", "outside_agents:talk", **settings) as running:
        yield running


@pytest.fixture
def devices(browser: Browser, server: Server) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def device(devices: ExitStack, browser: Browser, server: Server, thread: str) -> Page:
    """Open the page on one more device, at a thread; each thread has a user of its own."""
    visitor: Visitor = devices.enter_context(visiting(browser, server.address))
    page = visitor.page(f"/#/{thread}")
    sign_in(page, f"user-of-{thread}")
    return page


def release(folder: Path, name: str, *numbers: int) -> None:
    for number in numbers:
        (folder / f"{name}-{number}").touch()


def texts(page: Page) -> list[str]:
    """Return the messages in order, as they are shown: questions, and the text of answers."""
    return [
        text.strip()
        for text in page.locator("[role=log] :is(.bubble, .markdown)").all_text_contents()
    ]


def test_another_device_shows_every_word(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    one, two = (device(devices, browser, server, "words") for _ in range(2))
    say(one, "one red green blue")
    expect(bubbles(two)).to_have_text(["one red green blue"])
    shown = ""
    for number, word in enumerate(("red", "green", "blue")):
        release(folder, "one", number)
        shown = f"{shown} {word}".strip()
        for page in (two, one):
            expect(answers(page).locator(".markdown")).to_have_text([shown])
    for page in (one, two):
        expect(answers(page)).to_have_attribute("aria-busy", "false")
        expect(answers(page).get_by_text("1 thought")).to_be_visible()
    # The other way round, and a third device that begins in the middle of the answer.
    say(two, "two yellow brown")
    release(folder, "two", 0)
    three = device(devices, browser, server, "words")
    for page in (one, two, three):
        expect(answers(page).nth(1).locator(".markdown")).to_have_text("yellow")
    release(folder, "two", 1)
    expected = ["one red green blue", "red green blue", "two yellow brown", "yellow brown"]
    for page in (one, two, three):
        expect(answers(page).nth(1).locator(".markdown")).to_have_text("yellow brown")
        assert texts(page) == expected
    three.reload()
    connected(three)
    expect(articles(three)).to_have_count(4)
    assert texts(three) == expected
    for answer, name in zip(answers(three).all(), ("one", "two"), strict=True):
        answer.get_by_text("1 thought").click()
        expect(answer.get_by_text(f"About {name}")).to_be_visible()
        answer.get_by_text("look").click()
        expect(answer.get_by_label("Result")).to_have_text(name.upper())
        expect(answer.get_by_text("took")).to_be_visible()


def test_three_quick_questions_keep_their_answers(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    one, two = (device(devices, browser, server, "quick") for _ in range(2))
    names = ("first", "second", "third")
    for name in names:
        say(one, f"{name} answer-to-{name}")
    expect(said(two)).to_have_count(3)
    for name in names:
        release(folder, name, 0)
    expected = [
        text for name in names for text in (f"{name} answer-to-{name}", f"answer-to-{name}")
    ]
    for page in (one, two):
        expect(answers(page).locator(".markdown")).to_have_count(3)
        assert texts(page) == expected
    two.reload()
    connected(two)
    expect(answers(two).locator(".markdown")).to_have_count(3)
    assert texts(two) == expected


def test_a_run_is_stopped_on_another_device(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    one, two = (device(devices, browser, server, "stopped") for _ in range(2))
    say(one, "stopped word never")
    release(folder, "stopped", 0)
    expect(answers(two)).to_contain_text("word")
    two.get_by_role("button", name="Stop", exact=True).click()
    for page in (one, two):
        expect(answers(page)).to_contain_text("Stopped.")


def test_an_answer_while_no_device_is_connected(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    with ExitStack() as both:
        one, two = (device(both, browser, server, "alone") for _ in range(2))
        say(one, "alone begun finished")
        release(folder, "alone", 0)
        for page in (one, two):
            expect(answers(page)).to_contain_text("begun")
    # Both are closed for longer than the window: the run leaves its session, and continues.
    server.process.wait_log("session_ended", user_id="user-of-alone", unattended=1)
    release(folder, "alone", 1)
    three = device(devices, browser, server, "alone")
    expect(answers(three).locator(".markdown")).to_have_text(["begun finished"])
    expect(answers(three)).to_have_attribute("aria-busy", "false")
    assert texts(three) == ["alone begun finished", "begun finished"]


def test_the_list_is_the_same_on_every_device(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    one, two = (device(devices, browser, server, "list") for _ in range(2))
    for page in (two, one):
        page.get_by_role("button", name="New conversation").click()
    say(one, "listed word")
    items = [
        page.get_by_role("listitem").filter(has=page.get_by_role("link", name="listed word"))
        for page in (one, two)
    ]
    for item in items:
        expect(item.get_by_role("img", name="Running")).to_be_visible()
    assert axe_faults(two) == []
    # While no device shows the conversation, its answer is unread; one that shows it marks it.
    one.get_by_role("button", name="New conversation").click()
    release(folder, "listed", 0)
    for item in items:
        expect(item.get_by_role("img", name="1 unread answer")).to_be_visible()
    two.get_by_role("link", name="listed word").click()
    expect(answers(two).locator(".markdown")).to_have_text(["word"])
    for item in items:
        expect(item.get_by_role("img")).to_have_count(0)
    two.get_by_role("button", name="Rename: listed word").click()
    two.get_by_role("textbox", name="Title").fill("Not this one")
    two.keyboard.press("Escape")
    two.get_by_role("button", name="Rename: listed word").click()
    two.get_by_role("textbox", name="Title").fill("A new title")
    two.keyboard.press("Enter")
    expect(two.get_by_role("heading", level=1)).to_have_text("A new title")
    expect(one.get_by_role("link", name="A new title")).to_be_visible()
    for text, found in (("nothing like this", 0), ("new title", 1)):
        one.get_by_role("textbox", name="Search conversations").fill(text)
        expect(one.get_by_role("navigation").get_by_role("link")).to_have_count(found)
    # Deleting can be undone; closing the page completes it.
    deleting = two.get_by_role("button", name="Delete: A new title")
    deleting.click()
    expect(two.get_by_role("link", name="A new title")).to_have_count(0)
    expect(articles(two)).to_have_count(0)
    two.get_by_role("button", name="Undo deleting: A new title").click()
    expect(answers(two).locator(".markdown")).to_have_text(["word"])
    expect(one.get_by_role("link", name="A new title")).to_be_visible()
    deleting.click()
    two.reload()
    connected(two)
    for page in (one, two):
        expect(page.get_by_role("link", name="A new title")).to_have_count(0)
        expect(articles(page)).to_have_count(0)


def test_a_tab_in_the_background_asks_for_attention(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    visitor: Visitor = devices.enter_context(
        visiting(browser, server.address, permissions=["notifications"])
    )
    visitor.context.add_init_script(RECORD)
    one = visitor.page("/#/first")
    sign_in(one, "user-of-attention")
    one.get_by_role("button", name="Notifications").click()
    two = visitor.page("/#/second")
    two.evaluate("Notification.permission = 'granted'")
    connected(two)
    say(one, "noticed word")
    expect(two.get_by_role("link", name="noticed word")).to_be_visible()
    for page in (one, two):
        expect(page.get_by_role("button", name="Notifications", pressed=True)).to_be_visible()
        page.evaluate(HIDE)
    release(folder, "noticed", 0)
    for page in (one, two):
        expect(page).to_have_title(re.compile(r"^\(1\) "))
        expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("waiting"))
    # One notification for both tabs, with no word of the answer; a click opens the conversation.
    shown = {page: page.evaluate("window.shown") for page in (one, two)}
    (notifying,) = [page for page, texts in shown.items() if texts]
    assert shown[notifying] == ["noticed word: The answer is complete."]
    notifying.evaluate("notifications[0].onclick()")
    expect(notifying).to_have_url(re.compile("#/first$"))
    for page in (one, two):
        page.evaluate(SHOW)
        expect(page).not_to_have_title(re.compile(r"^\("))


def test_the_focus_stays_on_the_page(
    browser: Browser, server: Server, folder: Path, devices: ExitStack
) -> None:
    visitor: Visitor = devices.enter_context(visiting(browser, server.address))

    def opened() -> Page:
        page = visitor.page("/#/focus")
        form = page.get_by_role("button", name="Sign in as developer")
        form.or_(state(page)).first.wait_for()
        if form.is_visible():
            sign_in(page, "user-of-focus")
        else:
            connected(page)
        hidden = page.get_by_role("button", name="Open conversations")
        if hidden.is_visible():
            hidden.click()
        return page

    page = opened()
    say(page, "focus answer")
    release(folder, "focus", 0)
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    say(page, "never shown")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="focus answer")).to_be_visible()
    names = dict.fromkeys(page.evaluate(BUTTONS))
    last = ("Stop", "Delete: focus answer", "Sign out")  # the others are gone after these
    assert {"New conversation", "Rename: focus answer", "Copy answer", *last} <= names.keys()
    lost = []
    for name in (*(name for name in names if name not in last), *last):
        if not page.get_by_role("button", name=name, exact=True).first.is_visible():
            page.close()
            page = opened()
        button = page.get_by_role("button", name=name, exact=True).first
        button.press("Enter")
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        if page.evaluate("document.activeElement === document.body"):
            lost.append(name)
        if page.get_by_role("dialog").is_visible():
            page.keyboard.press("Escape")
    assert lost == []
