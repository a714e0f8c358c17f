"""Each state of the chat page for everybody: axe in all looks, and the page at all widths.

A new part of the page is one more function in `STATES`, which brings a page there.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, ViewportSize, expect
from support.browser import (
    DEVELOPER,
    Visitor,
    answers,
    axe_faults,
    choose,
    chromium,
    file,
    picture,
    said,
    say,
    sign_in,
    visiting,
)
from support.server import SOON, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = '''
import trio

MARKDOWN = """\\
# A heading

Text with **strong** words, `code`, a [link](https://example.com) and ~~more~~.

1. one
2. two
   - inside
- [x] done
- [ ] open

```python
async def hello(name: str) -> None:  # a comment
    print(f"hello {name}", 1.5)
```

| Name | Amount | Anything else that is in a wide table | And still more of it |
| --- | --: | --- | --- |
| first | 1 | something that has many words, as cells do | https://example.com/long/address |

> A quotation

---

\\u0645\\u0631\\u062d\\u0628\\u0627 \\u0628\\u0627\\u0644\\u0639\\u0627\\u0644\\u0645.
"""


async def talk(run):
    word = run.content.partition(" ")[0]
    if word == "markdown":
        await run.emit(MARKDOWN)
    elif word == "files":
        for file in run.attachments:
            await run.attach(f"copy of {file.name}", await file.read())
    elif word == "work":
        await run.think("Looking around", step=1, total=2)
        async with run.tool("search", query="trio", limit=3) as tool:
            tool.result = {"found": ["one", "two"]}
        try:
            async with run.tool("broken") as tool:
                raise ValueError("broken")
        except Exception:
            pass
        await run.emit("It is **done**.")
    elif word == "fail":
        await run.emit("I begin")
        raise RuntimeError("failed")
    elif word == "hold":
        await run.think("Thinking")
        await run.emit("first ")
        await trio.sleep_forever()
    elif word == "approve":
        async with run.tool("delete_file", approve=True, path="/srv/report.csv") as tool:
            tool.result = "deleted"
    elif word == "form":
        await run.ask("What shall I order?", schema=SCHEMA)
    else:
        await run.emit(run.content)


SCHEMA = {
    "type": "object",
    "required": ["count", "urgent", "size"],
    "properties": {
        "count": {"type": "integer", "title": "How many?", "minimum": 1, "maximum": 9},
        "urgent": {"type": "boolean", "title": "Urgent?"},
        "size": {"enum": ["S", "M", "L"], "title": "Size"},
        "tags": {"type": "array", "title": "Tags", "items": {"type": "string"}},
    },
}
'''
ARABIC = "\u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f (Trio 0.32)"
WIDE: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 780}
WIDTHS = (320, 390, 768, 1280)
FILE_BYTES = 10_000

# In forced colours only a border shows these.
BORDERLESS = """[...document.querySelectorAll(".mark, .bubble")]
    .filter(one => getComputedStyle(one).borderTopWidth === "0px")
    .map(one => one.className)
"""
OUTSIDE = """() => {
  const scrolls = (one) => /auto|scroll/.test(getComputedStyle(one).overflowX);
  const isScrolled = (one) => one !== null && (scrolls(one) || isScrolled(one.parentElement));
  return [...document.querySelectorAll("main button, main input, main textarea, main a, main p")]
    .filter((one) => one.getClientRects().length > 0 && one.closest("[inert]") === null)
    .filter((one) => {
      const { left, right, width } = one.getBoundingClientRect();
      return width > 1 && (left < 0 || right > innerWidth);
    })
    .filter((one) => !isScrolled(one.parentElement))
    .map((one) => one.outerHTML.slice(0, 120));
}"""


# States. Each begins at the page of a user of its own, who is signed in.


def empty(page: Page) -> None:
    expect(answers(page)).to_have_count(0)


def talk(page: Page) -> None:
    """Show all that stands in a conversation, with each part opened."""
    for text in ("work", "markdown", "fail", ARABIC):
        say(page, text)
        expect(answers(page).last).to_have_attribute("aria-busy", "false")
    expect(answers(page)).to_have_count(4)
    for summary in answers(page).locator("summary").all():
        summary.click()


def run(page: Page) -> None:
    """Show an answer that is written, and a message that waits for its turn."""
    say(page, "hold")
    expect(answers(page).last).to_contain_text("first")
    say(page, "waits")
    expect(said(page).last).to_contain_text("Waiting its turn")


def approval(page: Page) -> None:
    say(page, "approve")
    page.get_by_role("group", name="Approval needed").wait_for()


def form(page: Page) -> None:
    """Show the fields of a question, and what is wrong in them."""
    say(page, "form")
    page.get_by_role("group", name="Question").wait_for()
    page.get_by_role("button", name="Answer", exact=True).click()


def drawer(page: Page) -> None:
    """Show the list of conversations on a phone."""
    say(page, "a conversation")
    expect(answers(page)).to_have_count(1)
    page.set_viewport_size(PHONE)
    page.get_by_role("button", name=re.compile("^Open conversations")).click()
    page.get_by_role("button", name=re.compile("^Close conversations")).wait_for()


def forms(page: Page) -> None:
    """Show the comment on an answer, and a message that is edited."""
    for text in ("one", "two"):
        say(page, text)
        expect(answers(page).last).to_have_attribute("aria-busy", "false")
    page.get_by_role("button", name="Bad answer").last.click()
    page.get_by_role("button", name="Comment", exact=True).click()
    page.get_by_role("form", name="Comment on this answer").wait_for()
    page.get_by_role("button", name="Edit message").first.click()
    page.get_by_role("form", name="Edit message").wait_for()


def list_of_conversations(page: Page) -> None:
    """Show a conversation that is renamed, a search, and one that is deleted and can be undone."""
    for text in ("first subject", "second subject", "third subject"):
        say(page, text)
        expect(answers(page)).to_have_count(1)
        page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="Delete: first subject").click()
    page.get_by_role("button", name="Undo deleting: first subject").wait_for()
    page.get_by_label("Search conversations").fill("subject")
    page.get_by_role("link", name="second subject").hover()  # shows its buttons
    page.get_by_role("button", name="Rename: second subject").click()
    page.get_by_role("textbox", name="Title").wait_for()


def files(page: Page) -> None:
    """Show files in the box, one of them refused, and those of a message and its answer."""
    choose(page, picture("photo.png"), file("a plan with a very long name.pdf", b"%PDF-1.7"))
    expect(page.get_by_role("button", name=re.compile("^Remove "))).to_have_count(2)
    say(page, "files")
    expect(answers(page).locator(".file-card")).to_have_count(1)
    expect(page.locator(".message .thumbnail img")).to_have_count(2)
    choose(page, picture("next.png"), file("large.bin", bytes(FILE_BYTES + 1)))
    expect(page.locator(".upload .fault")).to_contain_text("This file is too large")
    page.get_by_role("button", name="Edit message").click()
    page.get_by_role("form", name="Edit message").wait_for()


def image_dialog(page: Page) -> None:
    choose(page, picture("photo.png"))
    say(page, "look")
    page.get_by_role("button", name="Show photo.png larger").click()
    expect(page.get_by_role("dialog", name="photo.png").get_by_role("img")).to_be_visible()


def shortcuts(page: Page) -> None:
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_role("dialog").wait_for()


STATES: list[Callable[[Page], None]] = [
    *(empty, talk, run, approval, form, forms, drawer, list_of_conversations, shortcuts),
    *(files, image_dialog),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("accessible")
    write_agents(folder, AGENTS)
    settings = {"WEBSOCKET_MAX_MESSAGE_RATE": "1000", "WEBSOCKET_DRAIN_TIMEOUT": "100"}
    settings["FILES_MAX_BYTES"] = str(FILE_BYTES)
    with serving(folder, "--agent", "outside_agents:talk", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def visitor(server: Server) -> Iterator[Visitor]:
    expect.set_options(timeout=SOON * 1000)
    with chromium() as browser, visiting(browser, server.address, reduced_motion="reduce") as one:
        yield one


@pytest.fixture
def page(visitor: Visitor) -> Iterator[Page]:
    visitor.context.clear_cookies()
    opened = visitor.page()
    opened.set_viewport_size(WIDE)
    yield opened
    opened.evaluate("localStorage.clear()")
    opened.close()


def test_the_sign_in(page: Page) -> None:
    page.get_by_role("button", name=DEVELOPER).wait_for()
    is_for_everybody(page)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_state(page: Page, state: Callable[[Page], None]) -> None:
    sign_in(page, state.__name__)
    state(page)
    is_for_everybody(page)


def is_for_everybody(page: Page) -> None:
    """Check what axe finds, and that nothing is cut off, in each look and at each width."""
    faults = {"light": axe_faults(page)}
    page.emulate_media(color_scheme="dark")
    faults["dark"] = axe_faults(page, "color-contrast")
    page.emulate_media(color_scheme="light", forced_colors="active")
    faults["forced colours"] = axe_faults(page, "color-contrast")
    borderless = page.evaluate(BORDERLESS)
    if borderless:
        faults["forced colours hide"] = borderless
    page.emulate_media(color_scheme="light", forced_colors="none")
    height = WIDE["height"]
    for direction in ("ltr", "rtl"):
        page.evaluate("direction => document.documentElement.dir = direction", direction)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                faults[f"{direction} at {width}"] = [("scrolls sideways", wide)]
            outside = page.evaluate(OUTSIDE)
            if outside:
                faults[f"{direction} at {width}, outside"] = outside
    page.evaluate("document.documentElement.dir = 'ltr'")
    page.set_viewport_size(PHONE)
    faults["a phone"] = axe_faults(page)
    assert {look: found for look, found in faults.items() if found} == {}
