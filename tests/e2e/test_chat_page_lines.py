"""The chat page in a real browser when things go wrong: lines, servers, tokens, tabs.

Each test counts sockets: whatever happens, a page opens one after the other and never a storm.
"""

import importlib.util
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from support.browser import (
    DEVELOPER,
    Visitor,
    answers,
    bubbles,
    chromium,
    connected,
    received,
    said,
    say,
    sign_in,
    state,
    visiting,
)
from support.pages import pages
from support.ports import kept_port
from support.relay import Relay, relaying
from support.server import PATIENCE, Server, serving, sign, write_agents

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parent.parent.parent
STORM_SECONDS = 3.0  # in which a page that retries without a pause would open dozens of sockets

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
    await run.emit("second")
'''


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with chromium() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENTS)
    return tmp_path


@contextmanager
def talking(folder: Path, port: str = "0", **environ: str) -> Iterator[Server]:
    with serving(folder, "--agent", "outside_agents:talk", port=port, **environ) as server:
        yield server


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with talking(folder) as running:
        yield running


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with relaying(server.address) as running:
        yield running


def eventually(page: Page, look: Callable[[], object]) -> None:
    """Wait until something that no page shows is true; what happened is told while a page waits."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def no_storm(page: Page, visitor: Visitor, most: int) -> None:
    """Check that a while goes by without more than so many sockets and tickets in all."""
    page.wait_for_timeout(STORM_SECONDS * 1000)
    tickets = [path for method, path, _ in visitor.asked if path == "/ws/ticket"]
    assert len(visitor.sockets) <= most, [one.url.partition("?")[0] for one in visitor.sockets]
    # A refused token is tried once more, in case there is a newer one.
    assert len(tickets) <= most + 2


# --- the server


def test_a_server_that_is_killed_in_mid_stream(browser: Browser, folder: Path) -> None:
    with kept_port() as kept, visiting(browser, f"127.0.0.1:{kept}") as visitor:
        port = str(kept)
        with talking(folder, port) as first:
            page = visitor.page()
            sign_in(page)
            say(page, "hold never")
            expect(answers(page)).to_contain_text("first")
            first.process.end(signal.SIGKILL)
        expect(state(page)).to_contain_text("Reconnecting")
        say(page, "typed while it was away")
        expect(state(page)).to_contain_text("1 message waits")
        expect(said(page).last).to_contain_text("Waiting for the connection")
        before, since = len(visitor.sockets), time.monotonic()
        with talking(folder, port):
            connected(page)
            assert visitor.open_sockets == 1
            most = before + 3 + int(time.monotonic() - since)  # the server's start may take a while
            assert len(visitor.sockets) <= most
            # The run that the crash cut off says so, and can be asked for again.
            expect(answers(page).first).to_contain_text("The server ended")
            expect(answers(page).first).to_contain_text("first")
            expect(answers(page).last).to_contain_text("typed while it was away")
            expect(bubbles(page)).to_have_text(["hold never", "typed while it was away"])
            no_storm(page, visitor, most)


def test_what_a_crash_cut_off_is_sent_again(browser: Browser, folder: Path) -> None:
    with kept_port() as kept, visiting(browser, f"127.0.0.1:{kept}") as visitor:
        port = str(kept)
        with talking(folder, port) as first:
            page = visitor.page()
            sign_in(page)
            say(page, "hold again")
            expect(answers(page)).to_contain_text("first")
            first.process.end(signal.SIGKILL)
        expect(state(page)).to_contain_text("Reconnecting")
        (folder / "again").touch()
        with talking(folder, port):
            connected(page)
            answers(page).get_by_role("button", name="Regenerate").click()
            expect(answers(page)).to_contain_text("first second")
            expect(bubbles(page)).to_have_text(["hold again"])


def test_a_drain(browser: Browser, folder: Path) -> None:
    with kept_port() as kept, visiting(browser, f"127.0.0.1:{kept}") as visitor:
        port = str(kept)
        with talking(folder, port, WEBSOCKET_DRAIN_TIMEOUT="1000") as first:
            page = visitor.page()
            sign_in(page)
            say(page, "hold never")
            expect(answers(page)).to_contain_text("first")
            assert first.process.end(signal.SIGTERM) == 0
        # Its last words came before the close: the run's end is known without asking.
        expect(answers(page)).to_contain_text("The server ended")
        expect(state(page)).to_contain_text("Reconnecting")
        with talking(folder, port):
            connected(page)
            say(page, "hello again")
            expect(answers(page).last).to_contain_text("hello again")
            assert visitor.open_sockets == 1
            no_storm(page, visitor, len(visitor.sockets))


# --- the network


def test_the_network_goes_off_and_on(browser: Browser, relay: Relay) -> None:
    with visiting(browser, relay.address) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, "before")
        expect(answers(page)).to_have_count(1)
        relay.cut()
        visitor.context.set_offline(True)
        expect(state(page)).to_contain_text("You are offline")
        say(page, "one")
        say(page, "two")
        expect(state(page)).to_contain_text("2 messages wait")
        expect(said(page).last).to_contain_text("Waiting for the connection")
        before = len(visitor.sockets)
        relay.restore()
        visitor.context.set_offline(False)
        connected(page)
        expect(answers(page).locator(".markdown")).to_have_text(["before", "one", "two"])
        expect(bubbles(page)).to_have_text(["before", "one", "two"])
        assert visitor.open_sockets == 1
        assert len(visitor.sockets) <= before + 3


def test_each_message_runs_once_whatever_the_line_does(browser: Browser, relay: Relay) -> None:
    with visiting(browser, relay.address) as visitor:
        page = visitor.page()
        sign_in(page)
        for number in range(5):
            say(page, f"message {number}")
            relay.drop()
        connected(page)
        expected = [f"message {number}" for number in range(5)]
        expect(bubbles(page)).to_have_text(expected)
        expect(answers(page).locator(".markdown")).to_have_text(expected)
        page.reload()
        connected(page)
        expect(bubbles(page)).to_have_text(expected)
        expect(answers(page).locator(".markdown")).to_have_text(expected)


def test_a_line_that_drops_in_mid_stream_costs_nothing(
    browser: Browser, folder: Path, relay: Relay
) -> None:
    with visiting(browser, relay.address) as visitor:
        page = visitor.page()
        frames = received(page)
        sign_in(page)
        say(page, "hold resumed")
        expect(answers(page)).to_contain_text("first")
        say(page, "in line")
        expect(said(page).last).to_contain_text("Waiting its turn")
        relay.cut()
        expect(state(page)).to_contain_text("Reconnecting")
        say(page, "typed meanwhile")
        asked = ["hold resumed", "in line", "typed meanwhile"]
        expect(bubbles(page)).to_have_text(asked)
        # What is written meanwhile is waiting when the line is back.
        (folder / "resumed").touch()
        expect(answers(page).locator(".markdown")).to_have_text(["first"])
        relay.restore()
        connected(page)
        answered = ["first second", "in line", "typed meanwhile"]
        expect(answers(page).locator(".markdown")).to_have_text(answered)
        expect(bubbles(page)).to_have_text(asked)
        expect(page.get_by_text("Stopped")).to_have_count(0)
        # Deltas of netra.v2; the second connection names the first run by its number alone.
        deltas = [frame[1:] for frame in frames if isinstance(frame, list)]
        assert deltas == [["first "], ["second", 1], ["in line"], ["typed meanwhile"]]
        types = {frame["type"] for frame in frames if isinstance(frame, dict)}
        assert "agent_started" in types
        assert "partial_result" not in types


def test_a_line_that_is_dead_is_noticed_and_a_long_wait_can_be_ended(
    browser: Browser, relay: Relay
) -> None:
    with visiting(browser, relay.address) as visitor:
        page = visitor.page()
        sign_in(page)
        page.evaluate("Math.random = () => 0.999")  # the longest pauses
        relay.freeze()  # the browser reports no event
        say(page, "into the void")
        expect(state(page)).to_contain_text("Connected")
        relay.restore()
        expect(state(page)).to_contain_text("Reconnecting")
        connected(page)
        expect(answers(page)).to_contain_text("into the void")
        relay.cut()
        try_now = page.get_by_role("button", name="Try now")
        expect(try_now).to_be_visible()
        relay.restore()
        try_now.click()
        connected(page)
        expect(try_now).to_have_count(0)
        assert page.evaluate("document.activeElement !== document.body")


# --- a reload


def test_a_reload_while_an_answer_is_written(
    browser: Browser, folder: Path, server: Server
) -> None:
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, "hold reloaded")
        expect(answers(page)).to_contain_text("first")
        page.reload()
        connected(page)
        expect(answers(page)).to_contain_text("first")
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        (folder / "reloaded").touch()
        expect(answers(page).locator(".markdown")).to_have_text(["first second"])
        expect(bubbles(page)).to_have_text(["hold reloaded"])
        assert visitor.open_sockets == 1


def test_a_reload_with_messages_that_wait(browser: Browser, relay: Relay) -> None:
    def refuse(route: Route) -> None:
        route.abort()

    with visiting(browser, relay.address) as visitor:
        page = visitor.page()
        sign_in(page)
        # The page itself can still be had, as from a cache; the WebSocket's side cannot.
        visitor.context.route(re.compile("/ws"), refuse)
        relay.drop()
        expect(state(page)).to_contain_text("Reconnecting")
        say(page, "one")
        say(page, "two")
        expect(state(page)).to_contain_text("2 messages wait")
        page.reload()
        expect(said(page).last).to_contain_text("two")
        expect(state(page)).to_contain_text("2 messages wait")
        visitor.context.unroute(re.compile("/ws"), refuse)
        connected(page)
        expect(answers(page).locator(".markdown")).to_have_text(["one", "two"])
        expect(bubbles(page)).to_have_text(["one", "two"])


# --- tokens and refusals


def use_token(page: Page, token: str) -> None:
    """Sign in with a pasted token."""
    page.get_by_text("Sign in with a token instead").click()
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Sign in with token").click()


def test_a_pasted_token(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        use_token(page, "not a token")
        expect(page.get_by_role("alert")).to_contain_text("This is no token.")
        page.get_by_label("Token", exact=True).fill(sign("paula"))
        page.get_by_role("button", name="Sign in with token").click()
        connected(page)
        expect(page.get_by_role("navigation")).to_contain_text("paula")
        page.reload()
        connected(page)
        say(page, "hello")
        expect(answers(page)).to_contain_text("hello")


def test_a_token_that_expires(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        # All but some seconds of the server's leeway of ten have passed.
        use_token(page, sign("brief", seconds=-4))
        connected(page)
        expect(page.get_by_role("alert")).to_contain_text("token")
        expect(state(page)).not_to_have_text("Connected")
        no_storm(page, visitor, 1)
        say(page, "kept for later")
        page.get_by_role("button", name="Sign in again").click()
        expect(page.get_by_role("alert")).to_contain_text("token")
        use_token(page, sign("brief"))
        connected(page)
        expect(answers(page)).to_contain_text("kept for later")


def test_the_page_around_renews_the_token(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        given: list[str] = []

        def get_token() -> str:
            # The first one lasts some seconds; `auth_expiring` comes at once, and asks for more.
            given.append(sign("hosted", seconds=-5 if not given else 3600))
            return given[-1]

        visitor.context.expose_function("giveToken", get_token)
        visitor.context.add_init_script("window.netraTrio = { getToken: () => giveToken() }")
        page = visitor.page()
        connected(page)
        expect(page.get_by_role("button", name=DEVELOPER)).to_have_count(0)
        expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
        eventually(page, lambda: len(given) >= 2)
        page.wait_for_timeout(7_000)  # past the end of the first token
        connected(page)
        say(page, "still here")
        expect(answers(page)).to_contain_text("still here")
        assert len(visitor.sockets) == 1


HOST_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>A page of one's own</title>
<link rel="stylesheet" href="http://{server}/chat.css">
<script>window.netraTrio = {{ url: "http://{server}", getToken: () => "{token}" }};</script>
<script type="module" src="http://{server}/chat.js"></script>
<body><div id="chat"></div></body></html>
"""


def test_a_page_of_ones_own_on_another_origin(browser: Browser, server: Server) -> None:
    html = HOST_PAGE.format(server=server.address, token=sign("olivia"))
    with pages(html.encode()) as port, visiting(browser, f"localhost:{port}") as visitor:
        page = visitor.page("/account/chat")
        connected(page)
        expect(page.get_by_role("navigation")).to_contain_text("olivia")
        say(page, "hello from outside")
        expect(answers(page)).to_contain_text("hello from outside")
        assert len(visitor.sockets) == 1


def test_a_full_server_is_waited_for(browser: Browser, folder: Path) -> None:
    with (
        talking(folder, WEBSOCKET_MAX_CONNECTIONS="1") as server,
        visiting(browser, server.address) as inside,
        pages(HOST_PAGE.format(server=server.address, token=sign("olivia")).encode()) as port,
        visiting(browser, f"localhost:{port}") as outside,
    ):
        first = inside.page()
        sign_in(first)
        page = outside.page()
        expect(page.get_by_role("alert")).to_contain_text("places are taken")
        expect(state(page)).to_contain_text("Reconnecting")
        ask = "url => fetch(url, {method: 'POST'}).then(a => a.headers.get('Retry-After'))"
        assert int(page.evaluate(ask, f"http://{server.address}/ws/ticket")) >= 1
        no_storm(page, outside, 0)
        first.close()
        connected(page)
        assert len(outside.sockets) == 1


def test_a_page_around_that_has_no_token_says_so(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        answers_no = "window.netraTrio = { getToken: () => Promise.reject(new Error('no')) }"
        visitor.context.add_init_script(answers_no)
        page = visitor.page()
        expect(page.get_by_role("alert")).to_contain_text("Nobody is signed in")
        token = sign("late")
        page.evaluate("token => { window.netraTrio = { getToken: () => token } }", token)
        page.get_by_role("button", name="Try again").click()
        connected(page)


def test_a_refusal_is_clear_and_is_not_tried_again(browser: Browser, folder: Path) -> None:
    environ = {"ENVIRONMENT": "staging", "DATABASE_URL": "sqlite:///netra.db"}
    origins = {"WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com"}
    with (
        talking(folder, **environ, **origins) as server,
        visiting(browser, server.address) as visitor,
    ):
        page = visitor.page()
        page.get_by_role("button", name=DEVELOPER).click()
        expect(page.get_by_role("alert")).to_contain_text("gives no tokens to developers")
        expect(page.get_by_role("button", name=DEVELOPER)).to_have_count(0)
        page.get_by_label("Token", exact=True).fill(sign("nobody"))
        page.get_by_role("button", name="Sign in with token").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("user")
        expect(state(page)).to_have_text("Not connected")
        no_storm(page, visitor, 1)
        assert visitor.open_sockets == 0
        alert.get_by_role("button", name="Sign in again").click()
        expect(page.get_by_label("Token", exact=True)).to_be_visible()


# --- tabs and connections


def test_ten_tabs_have_one_socket(browser: Browser, folder: Path, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        first = visitor.page()
        sign_in(first)
        pages = [first, *(visitor.page() for _ in range(9))]
        for page in pages:
            connected(page)
        assert visitor.open_sockets == 1
        for number in (3, 7):
            say(pages[number], f"from tab {number}")
            expect(answers(pages[number])).to_contain_text(f"from tab {number}")
        expect(answers(pages[5])).to_have_count(0)
        # The one that has the socket goes: another takes over, and nothing is lost.
        holder = visitor.page_of(next(one for one in visitor.sockets if not one.is_closed()))
        others = [page for page in pages if page is not holder]
        say(others[0], "hold taken-over")
        expect(answers(others[0]).last).to_contain_text("first")
        holder.close()
        eventually(others[0], lambda: visitor.open_sockets == 1 and len(visitor.sockets) > 1)
        for page in others:
            connected(page)
        (folder / "taken-over").touch()
        expect(answers(others[0]).last.locator(".markdown")).to_have_text("first second")
        expect(bubbles(others[0]).last).to_have_text("hold taken-over")
        say(others[4], "after it has gone")
        expect(answers(others[4]).last).to_contain_text("after it has gone")
        no_storm(others[0], visitor, 3)
        assert visitor.open_sockets == 1


def test_a_frozen_tab_loses_the_connection_to_one_that_is_used(
    browser: Browser, server: Server
) -> None:
    with visiting(browser, server.address) as visitor:
        first = visitor.page()
        sign_in(first)
        second = visitor.page()
        connected(second)
        # As phones do with pages in the background: no script runs, and the lock is held.
        debugger = visitor.context.new_cdp_session(first)
        debugger.send("Debugger.enable")
        debugger.send("Debugger.pause")
        say(second, "is anybody there?")
        expect(answers(second)).to_contain_text("is anybody there?")
        assert len(visitor.sockets) == 2
        debugger.send("Debugger.disable")
        connected(first)
        expect(first.get_by_role("alert")).to_have_count(0)
        say(first, "here again")
        expect(answers(first)).to_contain_text("here again")
        no_storm(second, visitor, 2)
        assert visitor.open_sockets == 1


def test_a_tab_that_signs_in_again_connects_for_the_others(
    browser: Browser, server: Server
) -> None:
    with visiting(browser, server.address) as visitor:
        first = visitor.page()
        # All but some seconds of the server's leeway of ten have passed.
        use_token(first, sign("paula", seconds=-4))
        connected(first)
        expect(first.get_by_role("alert")).to_contain_text("token")
        second = visitor.page()
        use_token(second, sign("paula"))
        connected(second)
        connected(first)
        expect(first.get_by_role("alert")).to_have_count(0)
        say(first, "through the other tab")
        expect(answers(first)).to_contain_text("through the other tab")
        no_storm(first, visitor, 2)
        assert visitor.open_sockets == 1


def test_an_eviction_is_said_and_stays(browser: Browser, folder: Path) -> None:
    with (
        talking(folder, WEBSOCKET_MAX_CONNECTIONS_PER_USER="1") as server,
        visiting(browser, server.address) as old,
        visiting(browser, server.address) as new,
    ):
        page = old.page()
        sign_in(page)
        sign_in(new.page())
        expect(page.get_by_role("alert")).to_contain_text("connections")
        expect(state(page)).not_to_have_text("Connected")
        no_storm(page, old, 1)
        assert (old.open_sockets, new.open_sockets) == (0, 1)
        page.get_by_role("button", name="Connect again").click()
        connected(page)
        eventually(page, lambda: new.open_sockets == 0)
        no_storm(page, old, 2)
        assert len(new.sockets) == 1


# --- React


@pytest.fixture(scope="module")
def development_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page built for development, where React mounts everything twice."""
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("development") / "page"
    _build_hook().build(target, mode="development")
    return target


def _build_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mounting_twice_opens_one_socket(
    browser: Browser, server: Server, development_page: Path
) -> None:
    def development(route: Route) -> None:
        # The same script of the other build, whose names have other hashes.
        name = route.request.url.rpartition("/")[2][: -len("-12345678.js")]
        (script,) = (development_page / "assets").glob(f"{name}-????????.js")
        route.fulfill(path=script)

    with visiting(browser, server.address) as visitor:
        visitor.context.route(re.compile(r"/assets/.*\.js$"), development)
        page = visitor.page()
        sign_in(page)
        say(page, "hello")
        expect(answers(page)).to_contain_text("hello")
        no_storm(page, visitor, 1)
        page.reload()
        connected(page)
        assert visitor.open_sockets == 1
        assert len(visitor.sockets) == 2
