"""A real Chromium that shows the chat page of a server, controlled by Playwright.

    with chromium() as browser, visiting(browser, server) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, "hello")
        expect(answers(page)).to_have_count(1)

The browser is that of `tests/browser/package-lock.json`; if it is not available, the tests are
skipped; in CI they fail.
"""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import orjson
from attrs import define, field
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    FilePayload,
    Locator,
    Page,
    Request,
    WebSocket,
    sync_playwright,
)

from netra_trio.endpoints.chat_page import FOLDER, INDEX
from support.node import evaluate, installed, missing
from support.server import SOON

DEVELOPER = "Sign in as developer"

_AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

_NETWORK = re.compile(r"Failed to load resource|WebSocket connection to|net::ERR_")
_ASK = """
import chromium from "@sparticuz/chromium";
console.log(JSON.stringify({ path: await chromium.executablePath(), args: chromium.args }));
"""
# Options of the package that are removed: they disable the security that is tested here; a single
# process, with which the browser ends after its first page; and a graphics card in software, with
# which the same pages take 1.7 times as much of the processor.
_OFF = {
    *("--disable-web-security", "--allow-running-insecure-content", "--single-process"),
    *("--in-process-gpu", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser."""
    if not (FOLDER / INDEX).is_file():
        missing("the chat page: pip install . builds it")
    found = orjson.loads(evaluate(_ASK))
    arguments = [argument for argument in found["args"] if argument not in _OFF]
    arguments.append("--disable-gpu")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=found["path"],
                args=arguments,
                env={**os.environ, "TMPDIR": str(installed() / "tmp")},
            )
        except Error as error:
            missing(f"a browser that starts: {error.message[-500:]}")
        with browser:
            yield browser


def received(page: Page) -> list[Any]:
    """Return a list of the JSON of each text frame that the page receives from now on."""
    frames: list[Any] = []

    def keep(frame: str | bytes) -> None:
        if isinstance(frame, str):
            frames.append(orjson.loads(frame))

    page.on("websocket", lambda socket: socket.on("framereceived", keep))
    return frames


@cache
def _axe() -> str:
    """Return the script of axe, which checks accessibility."""
    return (installed() / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def axe_faults(page: Page, *rules: str) -> list[Any]:
    """Return what axe finds wrong: its rule, and where.

    Args:
        page: The page.
        rules: The names of the rules; without any, all rules of the WCAG and of good practice.
    """
    # Axe's script is put in over the debugger, past the page's policy, which has no say there.
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(_axe())
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": _AXE_RULES}
    found = page.evaluate("only => axe.run(document, {runOnly: only})", only)
    return [
        (fault["id"], [node["html"][:200] for node in fault["nodes"]])
        for fault in found["violations"]
    ]


@define(eq=False, slots=False)  # Playwright sets attributes on listeners
class Visitor:
    """A browser context: its pages share their storage.

    Attributes:
        context: The context of Playwright.
        address: The address of the server, as `http://…`.
        sockets: All WebSockets that pages opened, in order.
        faults: Exceptions in pages, and scripts that the policy blocked.
        asked: The method, path and status of each HTTP answer.
    """

    context: BrowserContext
    address: str
    sockets: list[WebSocket] = field(factory=list)
    faults: list[str] = field(factory=list)
    asked: list[tuple[str, str, int]] = field(factory=list)
    _pages: list[Page] = field(factory=list)
    _left: list[WebSocket] = field(factory=list)

    def page(self, path: str = "/") -> Page:
        """Open a page and watch it."""
        page = self.context.new_page()
        page.on("websocket", partial(self._opened, page))
        page.on("request", self._requested)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._heard)
        page.on(
            "response",
            lambda answer: self.asked.append(
                (
                    answer.request.method,
                    answer.url.removeprefix(self.address).partition("?")[0],
                    answer.status,
                )
            ),
        )
        page.goto(self.address + path)
        return page

    @property
    def open_sockets(self) -> int:
        """The number of open WebSockets."""
        return sum(
            not (socket.is_closed() or page.is_closed() or socket in self._left)
            for socket, page in zip(self.sockets, self._pages, strict=True)
        )

    def page_of(self, socket: WebSocket) -> Page:
        """Return the page that opened a WebSocket."""
        return self._pages[self.sockets.index(socket)]

    def _opened(self, page: Page, socket: WebSocket) -> None:
        self.sockets.append(socket)
        self._pages.append(page)

    def _requested(self, request: Request) -> None:
        # When a page is left or reloaded, the browser closes its sockets without an event.
        if request.is_navigation_request():
            page = request.frame.page
            self._left += [
                one for one, its in zip(self.sockets, self._pages, strict=True) if its is page
            ]

    def _heard(self, message: ConsoleMessage) -> None:
        # The tests cause network errors on purpose, but no blocked script.
        if message.type == "error" and _NETWORK.search(message.text) is None:
            self.faults.append(message.text)


@contextmanager
def visiting(browser: Browser, address: str, **options: Any) -> Iterator[Visitor]:
    """Open a new browser context; the end of the block fails if a page had a fault."""
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 760}, **options})
    context.set_default_timeout(SOON * 1000)
    visitor = Visitor(context, f"http://{address}")
    try:
        yield visitor
    finally:
        context.close()
    assert visitor.faults == [], visitor.faults


def sign_in(page: Page, user: str | None = None) -> None:
    """Sign in as developer, with one click; as another user, whose threads no other test has."""
    if user is not None:
        page.get_by_label("User name").fill(user)
    page.get_by_role("button", name=DEVELOPER).click()
    connected(page)


def connected(page: Page) -> None:
    """Wait until the page says that it is connected."""
    state(page).filter(has_text=re.compile("^Connected$")).wait_for()


def state(page: Page) -> Locator:
    """Return the element with the state of the connection."""
    return page.get_by_role("status", name="Connection")


def message_box(page: Page) -> Locator:
    """Return the text box for messages."""
    return page.get_by_role("textbox", name="Message", exact=True)


def say(page: Page, text: str) -> None:
    """Type a message and send it."""
    message_box(page).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def choose(page: Page, *files: FilePayload) -> None:
    """Choose files for the message in the box."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Attach files").click()
    chooser.value.set_files(files)


def file(name: str, content: bytes, media_type: str = "") -> FilePayload:
    """Return a file that can be chosen."""
    return {"name": name, "mimeType": media_type, "buffer": content}


def picture(name: str, width: int = 40, height: int = 30) -> FilePayload:
    """Return an image of one colour."""
    return file(name, png([b"\x0f\x76\x6e" * width] * height), "image/png")


def png(rows: Sequence[bytes]) -> bytes:
    """Return an image; a row has three bytes for each pixel: red, green and blue."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    width = len(rows[0]) // 3
    head = width.to_bytes(4) + len(rows).to_bytes(4) + b"\x08\x02\x00\x00\x00"
    data = zlib.compress(b"".join(b"\x00" + row for row in rows))
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def articles(page: Page) -> Locator:
    """Return every message of the conversation."""
    return page.get_by_role("log").get_by_role("article")


def said(page: Page) -> Locator:
    """Return the messages of the user."""
    return page.get_by_role("log").get_by_role("article", name="You")


def bubbles(page: Page) -> Locator:
    """Return the texts of these messages."""
    return said(page).locator(".bubble")


def answers(page: Page) -> Locator:
    """Return the messages of agents."""
    return page.locator("[role=log] article.agent")
