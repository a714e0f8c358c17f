"""Open WebUI, whose only provider of models is a server of the tests: for `nox -s open_webui`.

    with open_webui(folder, server, "webui") as address:
        page.goto(address)

It runs in the environment that the session has installed, without a network and without a sign-in:
everybody is its administrator. Its other settings are its own.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Locator, Page, ViewportSize

from support.ports import HOST, kept_port
from support.server import SOON, Output, Server, clean_environ, sign

PYTHON = "OPEN_WEBUI_PYTHON"  # the session sets it
STARTING = 600.0  # seconds: it loads PyTorch, and migrates an empty database
WINDOW: ViewportSize = {"width": 1200, "height": 860}

_MAIN = "from open_webui import app; app()"
_STARTED = "Scheduler worker started"


@contextmanager
def open_webui(folder: Path, server: Server, user: str, **environ: str) -> Iterator[str]:
    """Run Open WebUI during the block; yield its address.

    Args:
        folder: Where it keeps its data.
        server: The server, with its openai door.
        user: The user of the server that all people of Open WebUI are.
        environ: More of its settings.
    """
    program = os.environ.get(PYTHON)
    if program is None:
        pytest.fail("Open WebUI is not installed: `nox -s open_webui` installs it and tests it")
    with kept_port() as port:
        settings = {
            "DATA_DIR": str(folder),
            "WEBUI_AUTH": "false",
            "OFFLINE_MODE": "true",
            "HF_HUB_OFFLINE": "1",
            "ANONYMIZED_TELEMETRY": "false",
            "DO_NOT_TRACK": "true",
            "SCARF_NO_ANALYTICS": "true",
            "ENABLE_OLLAMA_API": "false",
            "OPENAI_API_BASE_URL": f"http://{server.address}/v1",
            "OPENAI_API_KEY": sign(user),
            **environ,
        }
        process = subprocess.Popen(  # noqa: S603 - a test's own command line
            [program, "-c", _MAIN, "serve", "--host", HOST, "--port", str(port)],
            cwd=folder,
            env=clean_environ(folder, settings, measured=False),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert process.stdout is not None
        output = Output(process.stdout)
        try:
            output.wait_for(lambda lines: any(_STARTED in line for line in lines), STARTING)
            address = f"http://{HOST}:{port}"
            _leave_out_the_news(address)
            yield address
        finally:
            process.kill()
            process.wait()
            output.join()


def _leave_out_the_news(address: str) -> None:
    """Set what is set by closing the window with the news of the release, at the first visit."""
    with httpx2.Client(base_url=f"{address}/api/v1", timeout=SOON, trust_env=False) as client:
        signed_in = client.post("/auths/signin", json={"email": "", "password": ""})
        client.headers["Authorization"] = f"Bearer {signed_in.json()['token']}"
        settings = {"ui": {"showChangelog": False}}
        client.post("/users/user/settings/update", json=settings).raise_for_status()


@contextmanager
def visiting_open_webui(browser: Browser, address: str) -> Iterator[Page]:
    """Open a new conversation in a browser context of its own."""
    context = browser.new_context(viewport=WINDOW, color_scheme="light", locale="en-US")
    context.set_default_timeout(SOON * 1000)
    try:
        page = context.new_page()
        page.goto(address)
        message_box(page).wait_for()
        yield page
    finally:
        context.close()


def message_box(page: Page) -> Locator:
    """Return the text box for messages."""
    return page.locator("#chat-input")


def say(page: Page, text: str) -> None:
    """Type a message and send it."""
    message_box(page).click()
    page.keyboard.insert_text(text)
    page.keyboard.press("Enter")


def choose(page: Page, model: str) -> None:
    """Choose a model for the conversation."""
    page.get_by_role("button", name="Selected model").click()
    page.get_by_role("option", name=f"Select {model} model").click()


def messages(page: Page) -> Locator:
    """Return every message of the conversation, those of the user too."""
    return page.get_by_role("log").get_by_role("listitem")


def stop_button(page: Page) -> Locator:
    """Return the button that is there while an answer is written."""
    return page.get_by_role("button", name="Stop", exact=True)
