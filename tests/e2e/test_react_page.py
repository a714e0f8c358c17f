"""The app of `docs/react-vite.md`, as printed: installed, built, tested, and used in a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import chromium, visiting
from support.ports import kept_port
from support.react_page import npm, project, running
from support.server import Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = """
import trio


async def talk(run):
    if run.content == "wait":
        await run.emit("I wait")
        await trio.sleep_forever()
    elif run.content == "ask":
        name = await run.ask("What is your name?")
        await run.emit(f"Hello, {name}.")
    elif run.content == "look":
        await run.emit("One: ")
        await run.emit_bytes(b"x" * 256 * 1024, media_type="audio/pcm")
        await run.emit("Two: ")
        await run.emit_bytes(b"y" * (256 * 1024 + 1), media_type="audio/pcm")
    elif run.content == "delete":
        async with run.tool("delete", approve=True, path="notes.txt") as tool:
            tool.result = "deleted"
        await run.emit("It is deleted.")
    else:
        for word in ("You ", "said ", run.content):
            await run.emit(word)
"""
PROGRAMS = Path(__file__).parent.parent / "browser"
VITE = "node_modules/vite/bin/vite.js"
NEXT_TEST = """
import { renderToString } from "react-dom/server";
import { expect, it } from "vitest";
import Chat from "../app/chat";

it("is rendered on a server", () => {
  expect(renderToString(<Chat />)).toBe("<p>DISCONNECTED</p>");
});
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    with serving(folder, "--agent", "outside_agents:talk") as running_server:
        yield running_server


@pytest.fixture(scope="module")
def app() -> Path:
    return project()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running_browser:
        yield running_browser


def test_there_is_one_react(app: Path) -> None:
    listed = npm(app, "ls", "--all", "--parseable", "react").splitlines()
    assert [Path(line).relative_to(app).as_posix() for line in listed] == ["node_modules/react"]
    assert not (app / "node_modules" / "@netra-trio" / "client" / "node_modules").exists()


def test_its_test_and_that_of_a_client_module(app: Path) -> None:
    (app / "src" / "next.test.tsx").write_text(NEXT_TEST, encoding="utf-8")
    output = npm(app, "test")
    assert "2 passed (2)" in output
    assert "Invalid hook call" not in output


def test_a_page_in_development(app: Path, browser: Browser, server: Server) -> None:
    words = [VITE, "--port=0", "--host=localhost"]
    with running(app, *words, VITE_SERVER=f"http://{server.address}") as address:
        use(browser, address)


def test_a_built_page_that_a_server_renders(app: Path, browser: Browser, server: Server) -> None:
    environ = {"VITE_SERVER": f"http://{server.address}"}
    npm(app, "run", "build", **environ)
    words = ["vite", "build", "--ssr", "src/server.tsx", "--outDir", "server"]
    npm(app, "exec", "--", *words, **environ)
    with kept_port() as port, running(app, "server/server.js", PORT=str(port)) as address:
        use(browser, address)


def test_bytes_go_with_a_message_and_come_with_the_answer(app: Path, server: Server) -> None:
    shutil.copy(PROGRAMS / "packed_client.mjs", app)
    output = npm(app, "exec", "--", "node", "packed_client.mjs", f"http://{server.address}")
    told = orjson.loads(output.splitlines()[-1])
    assert told["subprotocol"] == "netra.v2"
    [file] = told["files"]
    assert (file["media_type"], file["bytes"]) == ("image/png", 64)
    assert told["read"] == [0x89, *b"PNG"]
    assert told["refused"] == "MESSAGE_TOO_LARGE"
    # The answer: its text and bytes in order; what is too large for a frame is read as a file.
    assert told["order"] == ["One: ", "file", "Two: ", "file"]
    sizes = [one["bytes"] for one in told["attachments"]]
    assert sizes == [256 * 1024, 256 * 1024 + 1]
    assert told["inline"] == [256 * 1024, None]
    assert told["large"] == list(b"yyyy")


def use(browser: Browser, address: str) -> None:
    """Use everything that the page can do; its faults and React's complaints are failures."""
    with visiting(browser, address) as visitor:
        page = visitor.page()
        expect(page.get_by_role("status")).to_have_text("CONNECTED")
        say(page, "hello")
        expect(answer(page)).to_contain_text("You said hello")
        say(page, "wait")
        expect(answer(page)).to_contain_text("I wait")
        page.get_by_role("button", name="Stop").click()
        expect(answer(page)).to_contain_text("cancelled")
        say(page, "ask")
        page.get_by_label("What is your name?").fill("Ada")
        page.get_by_role("button", name="Answer").click()
        expect(answer(page)).to_contain_text("Hello, Ada.")
        say(page, "delete")
        expect(page.get_by_role("region", name="Question")).to_contain_text("notes.txt")
        page.get_by_role("button", name="Approve").click()
        expect(answer(page)).to_contain_text("It is deleted.")
        expect(page.get_by_role("article")).to_have_count(8)


def say(page: Page, content: str) -> None:
    page.get_by_label("Message", exact=True).fill(content)
    page.get_by_role("button", name="Send", exact=True).click()


def answer(page: Page) -> Locator:
    return page.get_by_role("article", name="Agent").last
