"""The chat page in a real browser behind proxies that let no WebSocket through."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import (
    DEVELOPER,
    Visitor,
    answers,
    bubbles,
    chromium,
    connected,
    say,
    state,
    visiting,
)
from support.proxying import Proxy, proxying
from support.server import PATIENCE, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

WITHOUT = "Connected without WebSocket"
FIRST_EVENT_MS = 5_000  # that a page waits for the first event of a stream
RETURN_MS = 601_000  # after which an idle page tries the WebSocket again
STREAM, MESSAGES = ("GET", "/ws/events", 200), ("POST", "/ws/messages", 202)

AGENTS = '''
from pathlib import Path

import trio


async def talk(run):
    """Echo; or write two parts, with a pause between until a file is there."""
    if not run.content.startswith("hold"):
        await run.emit(run.content)
        return
    await run.emit("first ")
    while not Path(run.content.partition(" ")[2]).exists():
        await trio.sleep(0.01)
    for number in range(100):
        await run.emit(f"{number} ")
        await trio.sleep(0.005)
'''
CUTS = 3  # of the connections while an answer is written
WORDS = " ".join(str(number) for number in range(100))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fallback")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    write_agents(folder, AGENTS)
    arguments = ("--agent", "outside_agents:talk", "--door", "events")
    with serving(folder, *arguments, port="0") as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxying(server.address) as running:
        yield running


@pytest.fixture
def visitor(browser: Browser, proxy: Proxy) -> Iterator[Visitor]:
    with visiting(browser, proxy.address) as opened:
        opened.context.add_init_script("Math.random = () => 0")  # the shortest pauses
        yield opened


def arrive(visitor: Visitor, user: str, *, collects: bool = False) -> Page:
    """Open the page, sign in, and wait until it is connected without a WebSocket.

    Args:
        visitor: Whose page it is.
        user: Who signs in.
        collects: Whether the proxy holds streams back, so that the page waits in vain for one.
    """
    visitor.context.clock.install()
    page = visitor.page()
    page.get_by_label("User name").fill(user)
    with page.expect_request(lambda request: "/ws/events" in request.url):
        page.get_by_role("button", name=DEVELOPER).click()
    if collects:
        page.clock.fast_forward(FIRST_EVENT_MS)
    expect(state(page)).to_have_text(WITHOUT)
    return page


def eventually(page: Page, look: Callable[[], object]) -> None:
    """Wait until something that no page shows is true; what happened is told while a page waits."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def cut(page: Page, visitor: Visitor, proxy: Proxy) -> None:
    """Cut the page's connections, and wait until it has a new one."""
    before = visitor.asked.count(STREAM)
    eventually(page, lambda: proxy.cut("/ws/events"))
    eventually(page, lambda: visitor.asked.count(STREAM) > before)


def converse(page: Page, visitor: Visitor, proxy: Proxy, folder: Path) -> None:
    """Have an answer written, cut one in the middle, and stop one; nothing may be lost."""
    user = folder / page.evaluate("crypto.randomUUID()")
    cut(page, visitor, proxy)  # while nothing happens
    say(page, "hello")
    expect(answers(page).locator(".markdown")).to_have_text(["hello"])

    say(page, f"hold {user}-written")
    expect(answers(page).last).to_contain_text("first")
    Path(f"{user}-written").touch()
    expect(answers(page).last.locator(".markdown")).to_have_text(f"first {WORDS}")

    say(page, f"hold {user}-cut")
    expect(answers(page).last).to_contain_text("first")
    Path(f"{user}-cut").touch()
    for _ in range(CUTS):
        cut(page, visitor, proxy)
    say(page, "sent meanwhile")
    expect(answers(page).locator(".markdown")).to_have_text(
        ["hello", f"first {WORDS}", f"first {WORDS}", "sent meanwhile"]
    )
    expect(state(page)).to_have_text(WITHOUT)

    say(page, f"hold {user}-stopped")
    expect(answers(page).last).to_contain_text("first")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(answers(page).last).to_contain_text("Stopped")
    expect(bubbles(page)).to_have_text(
        [
            "hello",
            *(f"hold {user}-{end}" for end in ("written", "cut")),
            "sent meanwhile",
            f"hold {user}-stopped",
        ]
    )
    assert MESSAGES in visitor.asked
    assert visitor.open_sockets == 0


def test_a_proxy_that_strips_upgrades(visitor: Visitor, proxy: Proxy, folder: Path) -> None:
    page = arrive(visitor, "sue")
    converse(page, visitor, proxy, folder)
    assert len(visitor.sockets) == 2  # the first attempts


def test_a_proxy_that_holds_streams_back(visitor: Visitor, proxy: Proxy, folder: Path) -> None:
    proxy.collects = True
    page = arrive(visitor, "paul", collects=True)
    converse(page, visitor, proxy, folder)


def test_a_proxy_that_recovers(visitor: Visitor, proxy: Proxy) -> None:
    page = arrive(visitor, "rita")
    say(page, "by events")
    # A page with an active run does not try the WebSocket.
    expect(answers(page).get_by_role("button", name="Regenerate")).to_be_visible()
    proxy.strips = False
    page.clock.fast_forward(RETURN_MS)
    connected(page)
    assert visitor.open_sockets == 1
    posted = visitor.asked.count(MESSAGES)
    say(page, "by a WebSocket")
    expect(answers(page).locator(".markdown")).to_have_text(["by events", "by a WebSocket"])
    assert visitor.asked.count(MESSAGES) == posted
