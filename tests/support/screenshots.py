"""Take the screenshots of the chat page for the documentation: `nox -s screenshots`.

They show the page of a running server, while an agent answers.
"""

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from support.browser import answers, chromium, said, say, sign_in, visiting
from support.server import Server, serving, write_agents

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE = {"width": 1200, "height": 880}
NARROW = {"width": 390, "height": 780}
LOOKS = {
    "light": {"color_scheme": "light", "viewport": WIDE},
    "dark": {"color_scheme": "dark", "viewport": WIDE},
    "narrow": {"color_scheme": "light", "viewport": NARROW},
}
QUESTION = "How do I give up on a slow call with Trio?"

AGENTS = '''
import trio

ANSWER = """\\
Put the call into a **cancel scope** with a deadline. Whatever happens inside ends with it:

```python
with trio.move_on_after(5) as scope:
    answer = await ask_the_model()
if scope.cancelled_caught:
    answer = "That took too long."
```

| Function | When the time is over |
| --- | --- |
| `move_on_after` | goes on behind the block |
| `fail_after` | raises `TooSlowError` |
"""


async def guide(run):
    await run.think("Reading the question", step=1, total=2)
    async with run.tool("search_docs", query="trio cancel scope", limit=3) as tool:
        await trio.sleep(0.4)
        tool.result = ["trio.move_on_after", "trio.fail_after", "trio.CancelScope"]
    await run.think("Writing the answer", step=2, total=2)
    if "deadline" in run.content:
        await run.emit("Yes: a scope inside another one ends")
        await trio.sleep_forever()
    await run.emit(ANSWER)
'''


def converse(page: Page) -> None:
    """Have the conversation that the screenshots show."""
    say(page, "What is a nursery?")
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    page.keyboard.press("Escape")
    navigation = page.get_by_role("button", name=re.compile("Open conversations"))
    if navigation.is_visible():
        navigation.click()
    page.get_by_role("button", name="New conversation").click()
    say(page, QUESTION)
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    say(page, "Can a deadline be shorter than the one around it?")
    expect(answers(page).last).to_contain_text("a scope inside")
    say(page, "And what if both end at once?")
    expect(said(page).last).to_contain_text("Waiting its turn")
    page.wait_for_timeout(400)


def take(server: Server, folder: Path) -> None:
    """Take a screenshot for each of `LOOKS`."""
    with chromium() as browser:
        for name, options in LOOKS.items():
            with visiting(browser, server.address, **options) as visitor:
                page = visitor.page()
                sign_in(page)
                converse(page)
                page.screenshot(path=folder / f"chat-{name}.png")


def main() -> None:
    """Take all screenshots for the documentation."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_agents(folder, AGENTS)
        with serving(folder, "--agent", "outside_agents:guide") as server:
            take(server, IMAGES)
    sys.stdout.write("".join(f"{path}\n" for path in sorted(IMAGES.glob("chat-*.png"))))


if __name__ == "__main__":
    main()
