"""The live page in a browser: a run of another client and its stop, and the permission."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import (
    answers,
    axe_faults,
    chromium,
    say,
    sign_in,
    state,
    visiting,
)
from support.server import Server, serving, sign, write_agents

pytestmark = pytest.mark.unmeasured

AGENT = """
import trio

async def shop(run):
    await run.emit("I look it up.")
    async with run.tool("search_catalogue", query="a secret query"):
        await trio.sleep_forever()
"""
ADMIN = ["netra:admin"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    write_agents(folder, AGENT)
    with serving(folder, "--agent=outside_agents:shop") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def enter(page: Page, user: str, permissions: list[str]) -> None:
    """Sign in to the live page with a token."""
    page.get_by_text("Sign in with a token instead").click()
    page.get_by_label("Token").fill(sign(user, permissions=permissions))
    page.get_by_role("button", name="Sign in with token").click()


def test_a_run_is_seen_and_stopped(server: Server, browser: Browser) -> None:
    with (
        visiting(browser, server.address) as chatting,
        visiting(browser, server.address) as operating,
    ):
        chat = chatting.page()
        sign_in(chat, "alice")
        say(chat, "a private question")
        expect(answers(chat)).to_contain_text("I look it up.")
        live = operating.page("/admin")
        enter(live, "root", ADMIN)
        sessions = live.get_by_role("region", name="Sessions", exact=True)
        row = sessions.get_by_role("listitem").filter(has_text="alice").first
        expect(row).to_contain_text("waits for a tool")
        expect(row).to_contain_text("search_catalogue")
        expect(live.locator("body")).not_to_contain_text(re.compile("private|secret"))
        expect(live.get_by_label("Totals")).to_contain_text("Runs1")
        for heading in ("Connection metrics", "Message metrics", "Health indicators"):
            expect(live.get_by_role("heading", name=heading)).to_be_visible()
        assert axe_faults(live) == []
        stop = row.get_by_role("button", name=re.compile("^Stop the run"))
        stop.focus()
        live.keyboard.press("Enter")
        dialog = live.get_by_role("dialog", name="Stop this run?")
        assert axe_faults(live) == []
        live.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(stop).to_be_focused()
        stop.click()
        dialog.get_by_role("button", name="Stop the run").click()
        expect(live.get_by_role("log")).to_contain_text("stopping at")
        expect(answers(chat)).to_have_attribute("aria-busy", "false")
        expect(answers(chat)).to_contain_text("Stopped")
        expect(sessions).to_contain_text(re.compile("no run"))


@pytest.mark.parametrize(
    ("width", "scheme", "forced"),
    [(320, "light", "none"), (390, "dark", "none"), (768, "light", "active")],
)
def test_it_fits_and_can_be_read(
    server: Server, browser: Browser, width: int, scheme: str, forced: str
) -> None:
    options = {"viewport": {"width": width, "height": 800}}
    with visiting(
        browser, server.address, color_scheme=scheme, forced_colors=forced, **options
    ) as operating:
        live = operating.page("/admin")
        enter(live, "root", ADMIN)
        live.get_by_label("Without runs too").check()
        expect(live.get_by_role("region", name="Sessions", exact=True)).to_contain_text("root")
        for wide in ("document.querySelector('.page')", "document.documentElement"):
            assert live.evaluate(f"{wide}.scrollWidth") <= width
        assert axe_faults(live) == []


def test_a_user_without_the_permission_is_told_how_to_get_it(
    server: Server, browser: Browser
) -> None:
    with visiting(browser, server.address) as visitor:
        page = visitor.page("/admin")
        enter(page, "bob", [])
        expect(page.get_by_role("alert")).to_contain_text(
            "netra-trio token --user bob --permission netra:admin"
        )
        assert axe_faults(page) == []
        page.get_by_role("button", name="Sign in with another token").click()
        enter(page, "bob", ADMIN)
        expect(page.get_by_label("Totals")).to_be_visible()
        expect(state(page).first).to_have_text("Connected")
