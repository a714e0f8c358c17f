"""An agent's Markdown in a real browser: tables, directions, code, copying, printing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import answers, axe_faults, chromium, say, sign_in, visiting
from support.server import Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = '''
import trio

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ANSWER = f"""\\
# Title

| Function | Buffer | Blocks the sender | Blocks the receiver | Use | Notes about the function |
|:---|---:|:---:|---|---|---|
| `open_memory_channel(0)` | 0 | always | internationalization | tasks | The sender waits until \\
the receiver takes it<br>so both meet at one place and at one time |
| `SimpleQueue` | unbounded | never | documentation | threads | {SHA} |

| A | B |
|---|---|
| 1 | 2 |

- the first item
- the second

> A quote.

```python
x = 1  # {"a very long line " * 20}
```

- العنصر الأول: مهم.
- English item.

> اقتباس: «الحكمة».

| الاسم | القيمة |
|:---|---:|
| أحمد | 12 |

مرحبا بالعالم! `code.call()`
"""
LINES = "".join(f"value = call({n})  # so long that it has to scroll sideways {n:060}\\n"
                for n in range(60))


async def writer(run):
    if "long" in run.content:
        # Finished blocks, then a block of code that grows until the message that stops it.
        await run.emit("A finished paragraph with **bold** text.\\n\\n```python\\n")
        await run.emit(LINES)
        for n in range(100_000):
            await run.emit(f"more = {n}\\n")
            await trio.sleep(0.02)
    await run.emit(ANSWER)
'''

WORDS = """
(table) => {
  // The words of a cell that are on more than one line, except those that may break.
  const broken = [];
  const walk = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    for (const word of node.textContent.matchAll(/[^\\s-]+/g)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
      if (tops.size > 1 && word[0].length < 32) broken.push(word[0]);
    }
  }
  return broken;
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("markdown")
    write_agents(folder, AGENTS)
    with serving(folder, "--agent", "outside_agents:writer") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """Yield a page with a complete answer."""
    permissions = ["clipboard-read", "clipboard-write"]
    with visiting(browser, server.address, permissions=permissions) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, "all of it")
        expect(answers(page)).to_have_attribute("aria-busy", "false")
        yield page
        assert visitor.faults == []


def box(locator: Locator) -> dict[str, float]:
    found = locator.bounding_box()
    assert found is not None
    return {"x": found["x"], "height": found["height"]}


def style(locator: Locator, name: str) -> str:
    return str(locator.evaluate("(found, name) => getComputedStyle(found)[name]", name))


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_a_wide_table_breaks_only_between_words_and_scrolls(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    answer = answers(page)
    region = answer.locator(".scrolls").first
    assert region.locator("table").evaluate(WORDS) == []
    hidden = region.evaluate("found => found.scrollWidth - found.clientWidth")
    assert hidden > 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    table = answer.locator(".table").first
    expect(table).to_have_class(re.compile("more-after"))
    region.focus()
    page.keyboard.press("ArrowRight")
    expect(table).to_have_class(re.compile("more-before"))
    region.evaluate("found => found.scrollTo(found.scrollWidth, 0)")
    expect(table).not_to_have_class(re.compile("more-after"))
    narrow = answer.locator(".table").nth(1)
    assert narrow.locator(".scrolls").evaluate("found => found.scrollWidth == found.clientWidth")
    region.evaluate("found => found.scrollTo(0, 0)")


def test_a_text_from_right_to_left_has_its_marks_on_the_right(page: Page) -> None:
    page.set_viewport_size({"width": 768, "height": 800})
    answer = answers(page)
    items, quote = answer.locator("ul[dir=rtl]"), answer.locator("blockquote[dir=rtl]")
    assert (style(items, "paddingRight"), style(items, "paddingLeft")) == ("28px", "0px")
    assert style(quote, "borderRightWidth") == "3px"
    assert style(answer.locator("ul[dir=ltr]"), "paddingLeft") == "28px"
    paragraphs = items.locator("p")
    assert [style(one, "direction") for one in paragraphs.all()] == ["rtl", "ltr"]
    assert [style(one, "textAlign") for one in paragraphs.all()] == ["right", "right"]
    cells = answer.locator(".table[dir=rtl] td")
    assert box(cells.nth(0))["x"] > box(cells.nth(1))["x"]
    assert [style(cell, "textAlign") for cell in cells.all()] == ["right", "left"]
    last = answer.locator("p").last
    assert style(last, "direction") == "rtl"
    assert style(last.locator("code"), "direction") == "ltr"
    assert style(answer.locator("pre"), "direction") == "ltr"


def test_code_is_downloaded(page: Page) -> None:
    with page.expect_download() as found:
        page.get_by_role("button", name="Download code.py").click()
    assert found.value.suggested_filename == "code.py"
    assert Path(found.value.path()).read_text().startswith("x = 1  # a very long line")


def test_an_answer_is_copied_as_markdown_and_as_html(page: Page) -> None:
    page.get_by_role("button", name="Copy answer").click()
    expect(page.get_by_role("button", name="Copied answer")).to_be_visible()
    read = """async () => {
      const [item] = await navigator.clipboard.read();
      const text = async (type) => (await item.getType(type)).text();
      return [await text("text/plain"), await text("text/html")];
    }"""
    markdown, html = page.evaluate(read)
    assert markdown.startswith("# Title\n\n| Function | Buffer |")
    for part in ("<h2>Title</h2>", "<table>", "<li><p>the first item</p></li>", "<blockquote"):
        assert part in re.sub(r' dir="\w+"| style="[^"]*"', "", html)
    assert "Download" not in html
    assert "class=" not in html


def test_a_conversation_is_printed_whole(page: Page) -> None:
    page.set_viewport_size({"width": 900, "height": 500})
    page.emulate_media(media="print")
    try:
        for hidden in (
            page.get_by_role("textbox", name="Message"),
            answers(page).get_by_role("button").first,
        ):
            expect(hidden).to_be_hidden()
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height > 500
        scroller = page.locator(".scroller")
        assert scroller.evaluate("found => found.scrollHeight == found.clientHeight")
        assert box(answers(page))["height"] < height
        code = answers(page).locator("pre")
        assert code.evaluate("found => found.scrollWidth <= found.clientWidth")
        assert (
            answers(page)
            .locator(".scrolls")
            .first.evaluate("found => found.scrollWidth <= found.clientWidth")
        )
    finally:
        page.emulate_media(media="screen")


def test_finished_text_stays_selected_and_code_stays_scrolled(page: Page) -> None:
    page.set_viewport_size({"width": 768, "height": 800})
    say(page, "long")
    answer = answers(page).last
    code = answer.locator("pre")
    expect(code).to_contain_text("more = 1")
    answer.locator("strong").evaluate("found => getSelection().selectAllChildren(found)")
    code.evaluate("found => { found.scrollLeft = 90; found.scrollTop = 50; }")
    count = re.findall(r"more = (\d+)", code.text_content() or "")
    expect(code).to_contain_text(f"more = {len(count) + 5}")
    assert page.evaluate("getSelection().toString()") == "bold"
    state: Any = code.evaluate("found => [found.scrollLeft, found.scrollTop]")
    assert state == [90, 50]
    page.keyboard.press("Escape")
    expect(answer).to_have_attribute("aria-busy", "false")
    assert page.evaluate("getSelection().toString()") == "bold"
    assert axe_faults(page) == []
