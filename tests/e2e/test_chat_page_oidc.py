"""Signing in on the chat page at a real OpenID Connect provider, in a real browser.

The provider is npm's `oidc-provider`. Its ID tokens last some seconds longer than the minute before
whose end the server asks for a new one. All tests share one server and one provider.
"""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from attrs import frozen
from playwright.sync_api import Browser, Page, Route, WebSocket, expect
from support.browser import (
    Visitor,
    answers,
    axe_faults,
    chromium,
    connected,
    message_box,
    say,
    visiting,
)
from support.keyserver import SIGNERS
from support.node import running_script
from support.ports import kept_port
from support.server import Server, serving

pytestmark = pytest.mark.unmeasured

CHAT, API = "netra-chat", "netra-api"
AUDIENCE = "https://netra.example.com"
SECONDS = 64  # of a token: four more than the server's warning


@frozen
class Login:
    """The provider, and a server that accepts its tokens."""

    issuer: str
    server: Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with kept_port() as port:
        issuer = f"http://127.0.0.1:{port}"
        environ = {"JWT_SECRET_KEY": "", "JWT_ALGORITHMS": "RS256"}
        with serving(
            tmp_path_factory.mktemp("oidc"),
            "--agent",
            "netra_trio.agents.demo.echo:echo",
            OIDC_ISSUER=issuer,
            OIDC_CLIENT_ID=CHAT,
            **environ,
        ) as server:
            pages = [f"http://{server.address}/"]
            clients = [
                {"id": CHAT, "pages": pages},
                {"id": API, "pages": pages, "audience": AUDIENCE},
            ]
            keys = [SIGNERS["RS256"].private_jwk()]
            argument = {"port": port, "keys": keys, "clients": clients, "seconds": SECONDS}
            with running_script("login.mjs", argument):
                yield Login(issuer, server)


@contextmanager
def visited(browser: Browser, server: Server, path: str = "/") -> Iterator[tuple[Visitor, Page]]:
    with visiting(browser, server.address) as visitor:
        yield visitor, visitor.page(path)


def log_in(page: Page, user: str) -> None:
    """Fill in the provider's page."""
    page.get_by_placeholder("Enter any login").fill(user)
    page.get_by_placeholder("and password").fill("a password")
    page.get_by_role("button", name="Sign-in").click()


def sign_in(page: Page, user: str) -> None:
    page.get_by_role("button", name="Sign in", exact=True).click()
    log_in(page, user)
    page.get_by_role("button", name="Continue").click()
    connected(page)


def refused(page: Page, text: str) -> None:
    """Wait for the reason of a refusal, over redirects to the provider and back."""
    page.get_by_role("alert").filter(has_text=text).wait_for()


def token_requests(visitor: Visitor, login: Login) -> int:
    return sum(asked[:2] == ("POST", f"{login.issuer}/token") for asked in visitor.asked)


def stored(page: Page) -> str:
    return str(page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])"))


def test_sign_in_reload_and_sign_out(browser: Browser, login: Login) -> None:
    with visited(browser, login.server, "/#/t-before") as (visitor, page):
        page.get_by_role("button", name="Sign in", exact=True).wait_for()
        expect(page.get_by_text("Sign in as developer instead")).to_be_visible()
        assert axe_faults(page) == []
        address = page.url
        sign_in(page, "alice")
        assert page.url == address, "the address has the thread again, and no code"
        expect(page.get_by_role("navigation")).to_contain_text("Alice Example")
        say(page, "hello")
        expect(answers(page)).to_contain_text("hello")
        message_box(page).fill("a draft")
        assert "eyJ" not in stored(page)
        assert "sign-in-attempt" not in stored(page)
        # The policy of the page knows the provider by now, and allows no other address there.
        policy = page.request.get(page.url).headers["content-security-policy"]
        assert f"{login.issuer}/.well-known/openid-configuration {login.issuer}/token;" in policy

        page.reload()
        connected(page)
        assert page.url == address
        expect(message_box(page)).to_have_value("a draft")
        expect(answers(page)).to_contain_text("hello")
        assert token_requests(visitor, login) == 2

        other = visitor.page()
        connected(other)
        assert visitor.open_sockets == 1, "the tabs of a user share one connection"
        page.get_by_role("button", name="Sign out").click()
        for each in (page, other):
            expect(each.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
        page.get_by_role("button", name="Sign out there too").click()
        page.get_by_role("button", name="Yes, sign me out").click()
        page.get_by_role("button", name="Sign in", exact=True).click()
        log_in(page, "bob")
        page.get_by_role("button", name="Continue").click()
        connected(page)
        expect(page.get_by_role("navigation")).to_contain_text("Bob Example")


def test_the_command_names_the_login_that_gives_tokens(login: Login) -> None:
    hint = "--token TOKEN (from the login that OIDC_ISSUER names)"
    assert hint in login.server.process.out.text


def test_consent_that_is_denied(browser: Browser, login: Login) -> None:
    with visited(browser, login.server, "/#/t-denied") as (visitor, page):
        page.get_by_role("button", name="Sign in", exact=True).click()
        log_in(page, "carol")
        page.get_by_role("link", name=re.compile("Cancel|Abort")).click()
        refused(page, "You are not signed in.")
        expect(page.get_by_role("button", name="Try again")).to_be_focused()
        assert page.url.endswith("/#/t-denied")
        assert axe_faults(page) == []
        page.get_by_role("button", name="Try again").click()
        page.get_by_role("button", name="Continue").click()
        connected(page)
        assert token_requests(visitor, login) == 1


def test_a_code_of_another_tab_is_refused(browser: Browser, login: Login) -> None:
    with visited(browser, login.server, "/?code=stolen&state=foreign#/t-a") as (visitor, page):
        refused(page, "This sign-in is no longer valid.")
        assert page.url.endswith("/#/t-a")
        assert token_requests(visitor, login) == 0


def test_a_token_that_ends_soon_is_renewed(browser: Browser, login: Login) -> None:
    frames: list[str] = []

    def opened(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: frames.append(str(frame)))

    with visited(browser, login.server) as (visitor, page):
        page.on("websocket", opened)
        sign_in(page, "dora")
        with page.expect_response(f"{login.issuer}/token") as answer:
            pass  # a few seconds later
        assert "grant_type=refresh_token" in (answer.value.request.post_data or "")
        say(page, "still here")
        expect(answers(page)).to_contain_text("still here")
        assert page.get_by_role("note").count() == 0
        assert token_requests(visitor, login) == 2
        assert sum('"auth_ok"' in frame for frame in frames) <= 2
        assert visitor.open_sockets == len(visitor.sockets) == 1


def test_a_token_for_another_audience_is_refused(browser: Browser, login: Login) -> None:
    def as_other_client(route: Route) -> None:
        """Let the page sign in as a client whose access tokens are for another service."""
        config = route.fetch().json()
        oidc = config["websocket_config"]["auth"]["oidc"]
        oidc |= {"client_id": API, "token": "access_token", "scope": "openid profile netra:talk"}
        route.fulfill(json=config)

    with visited(browser, login.server, "/icon.svg") as (visitor, page):
        page.route("**/ws/config", as_other_client)
        page.goto(visitor.address)
        page.get_by_role("button", name="Sign in", exact=True).click()
        log_in(page, "erin")
        with page.expect_response("**/ws/ticket") as answer:
            page.get_by_role("button", name="Continue").click()
        refused(page, "The token is for another audience.")
        assert answer.value.status == 401
        coded = answer.value.request.headers["authorization"].split(".")[1]
        assert json.loads(base64.urlsafe_b64decode(coded + "=="))["aud"] == AUDIENCE
        with page.expect_response("**/ws/ticket"):
            page.get_by_role("button", name="Sign in again").click()
        refused(page, "The token is for another audience.")
