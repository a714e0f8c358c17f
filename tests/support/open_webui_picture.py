"""Take the picture of Open WebUI for the documentation: `nox -s open_webui -- picture`."""

import tempfile
from pathlib import Path

from playwright.sync_api import ViewportSize, expect

from support.browser import chromium
from support.open_webui import messages, open_webui, say, stop_button, visiting_open_webui
from support.screenshots import AGENTS, IMAGES, QUESTION
from support.server import SOON, serving, write_agents

PICTURE = IMAGES / "door-openai.png"
SIZE: ViewportSize = {"width": 1200, "height": 720}
WITH_TITLES = """

async def trio_guide(run):
    if run.content.startswith("### Task:"):
        await run.emit('{"title": "A slow call"}')
    else:
        await guide(run)
"""


def take(folder: Path) -> None:
    """Have a conversation with an agent, and take the picture of its answer."""
    (folder / "data").mkdir()
    write_agents(folder, AGENTS + WITH_TITLES)
    arguments = ["--door=openai", "--agent=outside_agents:trio_guide"]
    with (
        serving(folder, *arguments) as server,
        open_webui(folder / "data", server, "alice") as address,
        chromium() as browser,
        visiting_open_webui(browser, address) as page,
    ):
        say(page, QUESTION)
        expect(messages(page).last).to_contain_text("TooSlowError")
        expect(stop_button(page)).to_have_count(0)
        expect(page.get_by_text("You're now logged in.")).to_have_count(0)
        page.set_viewport_size(SIZE)
        page.get_by_role("button", name="Thought for").click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURE)


if __name__ == "__main__":
    expect.set_options(timeout=SOON * 1000)
    with tempfile.TemporaryDirectory() as temporary:
        take(Path(temporary))
