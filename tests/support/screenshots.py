"""Take the screenshots of the pages for the documentation: `nox -s screenshots`.

They show the chat page of a running server while an agent answers, the live page meanwhile, and
clients of doors.
"""

import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Page, expect

from support.browser import (
    answers,
    choose,
    chromium,
    file,
    message_box,
    png,
    said,
    say,
    sign_in,
    visiting,
)
from support.pages import pages
from support.server import Server, serving, sign, write_agents
from support.vercel_page import vercel_page

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE = {"width": 1200, "height": 880}
NARROW = {"width": 390, "height": 780}
LOOKS = {
    "light": {"color_scheme": "light", "viewport": WIDE},
    "dark": {"color_scheme": "dark", "viewport": WIDE},
    "narrow": {"color_scheme": "light", "viewport": NARROW},
}
USERS = {"light": "dev", "dark": "alice", "narrow": "bob"}
SAMPLED_MS = 30_000  # three samples of the live page's metrics
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

TIDYING = """
async def tidy(run):
    await run.think("The oldest notes come first.")
    async with run.tool("list_files", folder="notes") as tool:
        tool.result = ["2019-todo.txt", "ideas.txt"]
    await run.emit("One note is seven years old. I would delete it.")
    async with run.tool("delete_file", approve=True, name="2019-todo.txt"):
        pass
"""


FILES_LIMIT = 5_000_000  # bytes

FILES_AGENT = """
async def analyst(run):
    async with run.tool("read_table", file=run.attachments[0].name) as tool:
        tool.result = {"rows": 214}
    await run.emit("The sales grew in **nine of twelve** months. ")
    await run.emit("Here are the chart and the numbers.")
    await run.attach("chart.png", await run.attachments[1].read())
    await run.attach("sales by month.csv", b"month,sales\\n" * 90)
"""


def chart() -> bytes:
    """Return an image with bars."""
    heights = [70, 84, 78, 96, 110, 104, 128, 140, 134, 152, 170, 188]
    bar, ground = b"\x0f\x76\x6e", b"\xf6\xf7\xf7"
    rows = []
    for level in range(220, 0, -1):
        bars = (24 * (bar if level - 14 <= height and level > 14 else ground) for height in heights)
        rows.append(10 * ground + b"".join(one + 6 * ground for one in bars) + 4 * ground)
    return png(rows)


def take_files(server: Server, folder: Path) -> None:
    """Take two screenshots of the chat page with files: in a message, an answer and the box."""
    looks = {"files": LOOKS["light"], "files-narrow": LOOKS["narrow"] | {"color_scheme": "dark"}}
    table = file("sales 2026.xlsx", b"PK\x03\x04" + bytes(48_000))
    image = file("whiteboard.png", chart(), "image/png")
    with chromium() as browser:
        for name, options in looks.items():
            with visiting(browser, server.address, **options) as visitor:
                page = visitor.page()
                sign_in(page, name)
                choose(page, table, image)
                expect(page.locator(".upload.done")).to_have_count(2)
                say(page, "What do these numbers tell?")
                expect(page.locator(".message .thumbnail img")).to_have_count(2)
                expect(answers(page)).to_have_attribute("aria-busy", "false")
                network = page.context.new_cdp_session(page)
                network.send("Network.enable")
                network.send(
                    "Network.emulateNetworkConditions",
                    {"offline": False, "latency": 0, "downloadThroughput": -1}
                    | {"uploadThroughput": 500_000},
                )
                choose(page, image, file("recording.mp4", bytes(FILES_LIMIT)))
                choose(page, file("all pictures.zip", bytes(FILES_LIMIT + 1_400_000)))
                page.locator("progress:not([value='0'])").wait_for()
                message_box(page).fill("And these?")
                page.screenshot(path=folder / f"chat-{name}.png")


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
    """Take a screenshot of the chat page for each of `LOOKS`, and one of the live page."""
    with chromium() as browser, ExitStack() as stack:
        for name, options in LOOKS.items():
            # The pages stay open: the live page shows their sessions.
            visitor = stack.enter_context(visiting(browser, server.address, **options))
            page = visitor.page()
            sign_in(page, USERS[name])
            converse(page)
            page.screenshot(path=folder / f"chat-{name}.png")
        operator = stack.enter_context(visiting(browser, server.address, viewport=WIDE))
        live = operator.page("/admin")
        live.get_by_text("Sign in with a token instead").click()
        live.get_by_label("Token").fill(sign("root", permissions=["netra:admin"]))
        live.get_by_role("button", name="Sign in with token").click()
        expect(live.get_by_role("region", name="Connection metrics")).to_be_visible()
        live.wait_for_timeout(SAMPLED_MS)
        live.screenshot(path=folder / "live.png")


def take_vercel(server: Server, folder: Path) -> None:
    """Take a screenshot of a chat that is made with `useChat` of the Vercel AI SDK."""
    size = {"width": 900, "height": 560}
    with (
        pages(vercel_page()) as port,
        chromium() as browser,
        visiting(browser, f"localhost:{port}", viewport=size) as visitor,
    ):
        api = f"http://localhost:{server.port}/api/chat"
        page = visitor.page(f"/?api={api}&id=files#{sign('ada')}")
        page.get_by_label("Message").fill("Please tidy up my notes.")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("button", name="Allow")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text("ready")
        page.screenshot(path=folder / "door-vercel.png")


def main() -> None:
    """Take all screenshots for the documentation."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_agents(folder, AGENTS)
        with serving(folder, "--agent", "outside_agents:guide") as server:
            take(server, IMAGES)
        write_agents(folder, TIDYING)
        with serving(folder, "--agent", "outside_agents:tidy", "--door", "vercel") as server:
            take_vercel(server, IMAGES)
        write_agents(folder, FILES_AGENT)
        settings = {"FILES_MAX_BYTES": str(FILES_LIMIT)}
        with serving(folder, "--agent", "outside_agents:analyst", **settings) as server:
            take_files(server, IMAGES)
    sys.stdout.write("".join(f"{path}\n" for path in sorted(IMAGES.glob("*.png"))))


if __name__ == "__main__":
    main()
