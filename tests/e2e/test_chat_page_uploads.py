"""Files on the chat page: chosen, pasted, dropped, broken off, kept, refused and shown."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser import (
    Visitor,
    answers,
    bubbles,
    choose,
    chromium,
    connected,
    file,
    message_box,
    picture,
    said,
    say,
    sign_in,
    visiting,
)
from support.proxying import proxying
from support.server import SOON, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

LIMIT = 1_000_000  # bytes of a file
OCTETS = "application/octet-stream"
UPLOADED = ("POST", "/ws/files", 200)
FAST = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
SLOW = FAST | {"uploadThroughput": 200_000}  # bytes a second
# Some texts are shown for less than a second: too short to be seen by polling on a busy machine.
RECORD = """() => {
    window.shown = [];
    const record = () => window.shown.push(document.querySelector(".uploads")?.textContent ?? "");
    new MutationObserver(record).observe(document.body, {
        subtree: true, childList: true, characterData: true,
    });
}"""

AGENTS = """
async def read(run):
    for file in run.attachments:
        await run.emit(f"{file.name}, {file.media_type}, {file.bytes} bytes. ")
        await run.attach(f"copy of {file.name}", await file.read())
"""

PASTE = """(box, [name, type, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const options = { clipboardData: data, bubbles: true, cancelable: true };
  box.dispatchEvent(new ClipboardEvent("paste", options));
}"""
DRAG = """([kind, name]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["dropped"], name, { type: "text/plain" }));
  const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
  document.querySelector("main").dispatchEvent(event);
}"""


PHOTO = picture("photo.png")
NOTES = file("notes.txt", "Grüße, one\ntwo\n".encode(), "text/plain")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("uploads")
    write_agents(folder, AGENTS)
    settings = {"FILES_MAX_BYTES": str(LIMIT), "WEBSOCKET_DRAIN_TIMEOUT": "100"}
    with serving(folder, "--agent", "outside_agents:read", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def visitor(server: Server) -> Iterator[Visitor]:
    expect.set_options(timeout=SOON * 1000)
    with chromium() as browser, visiting(browser, server.address) as one:
        yield one


@pytest.fixture
def page(visitor: Visitor, request: pytest.FixtureRequest) -> Iterator[Page]:
    opened = visitor.page()
    sign_in(opened, request.node.name)
    yield opened
    opened.evaluate("localStorage.clear()")
    opened.close()


def uploads(page: Page) -> Locator:
    return page.get_by_role("list", name="Files of this message").get_by_role("listitem")


def images(message: Locator) -> Locator:
    return message.locator(".thumbnail img")


def is_drawn(image: Locator) -> None:
    """Wait until an image is decoded."""
    expect(image).to_be_visible()
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => image.naturalWidth") == 40


def test_files_of_messages_and_answers(page: Page, visitor: Visitor, tmp_path: Path) -> None:
    other = visitor.context.browser
    assert other is not None
    choose(page, PHOTO, NOTES)
    expect(uploads(page)).to_have_text([re.compile("photo.png"), re.compile("notes.txt")])
    expect(uploads(page).filter(has_text="Text, 17 bytes")).to_have_count(1)
    say(page, "Look at these")
    expect(answers(page)).to_contain_text(f"photo.png, image/png, {len(PHOTO['buffer'])} bytes.")
    expect(answers(page)).to_contain_text("notes.txt, text/plain, 17 bytes.")
    expect(uploads(page)).to_have_count(0)
    is_drawn(images(said(page)))
    is_drawn(images(answers(page)))

    page.get_by_role("button", name="Show photo.png larger").click()
    dialog = page.get_by_role("dialog", name="photo.png")
    is_drawn(dialog.get_by_role("img", name="photo.png"))
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download copy of notes.txt").click()
    assert download.value.suggested_filename == "copy of notes.txt"
    assert Path(download.value.path()).read_bytes() == NOTES["buffer"]

    # Another device shows them from the history, and the files of a new message as it is sent.
    with visiting(other, visitor.address.removeprefix("http://")) as device:
        second = device.page(page.evaluate("location.pathname + location.hash"))
        sign_in(second, "test_files_of_messages_and_answers")
        is_drawn(images(said(second)))
        is_drawn(images(answers(second)))
        choose(page, file("more.txt", b"more"))
        say(page, "And this")
        expect(said(second).last.locator(".file-name")).to_have_text("more.txt")
        expect(answers(second).last.locator(".file-name")).to_have_text("copy of more.txt")

    page.get_by_role("button", name="Edit message").last.click()
    form = page.get_by_role("form", name="Edit message")
    form.get_by_role("textbox").fill("Once more")
    form.get_by_role("button", name="Send").click()
    expect(answers(page)).to_have_count(2)
    expect(bubbles(page).last).to_have_text("Once more")
    expect(answers(page).last).to_contain_text("more.txt, text/plain, 4 bytes.")


def test_files_that_are_pasted_and_dropped_are_kept_over_a_reload(page: Page) -> None:
    message_box(page).evaluate(PASTE, ["image.png", "image/png", list(PHOTO["buffer"])])
    expect(uploads(page)).to_contain_text("PNG image")
    page.evaluate(DRAG, ["dragover", "dropped.txt"])
    expect(page.get_by_text("Drop files to attach them")).to_be_visible()
    page.evaluate(DRAG, ["drop", "dropped.txt"])
    expect(page.get_by_text("Drop files to attach them")).to_have_count(0)
    expect(uploads(page).last).to_contain_text("Text, 7 bytes")
    message_box(page).fill("A draft")
    page.reload()
    connected(page)
    expect(uploads(page)).to_have_text([re.compile("image.png"), re.compile("dropped.txt")])
    is_drawn(uploads(page).locator("img"))
    page.get_by_role("button", name="Remove dropped.txt").click()
    expect(message_box(page)).to_have_value("A draft")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(answers(page)).to_contain_text("image.png, image/png")


def test_an_upload_that_breaks_off_begins_again_and_its_message_waits(
    server: Server, visitor: Visitor
) -> None:
    browser = visitor.context.browser
    assert browser is not None
    with proxying(server.address) as proxy, visiting(browser, proxy.address) as broken:
        proxy.strips = False
        page = broken.page()
        sign_in(page, "broken")
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", SLOW)
        choose(page, file("large.bin", bytes(LIMIT)))
        page.locator("progress:not([value='0'])").wait_for()
        say(page, "Read this")
        expect(page.get_by_text("The message is sent once the files are uploaded")).to_be_visible()
        expect(answers(page)).to_have_count(0)
        page.evaluate(RECORD)
        assert proxy.cut("/ws/files", method="POST")
        network.send("Network.emulateNetworkConditions", FAST)
        expect(answers(page)).to_contain_text(f"large.bin, {OCTETS}, {LIMIT} bytes.")
        shown = page.evaluate("window.shown")
        assert [text for text in shown if "The upload broke off and begins again" in text]
        assert [asked for asked in broken.asked if asked[1] == "/ws/files"] == [UPLOADED]


def test_a_file_beyond_the_limit_is_refused_in_plain_words(page: Page, visitor: Visitor) -> None:
    before = len(visitor.asked)
    choose(page, file("too-large.bin", bytes(LIMIT + 1)))
    fault = "This file is too large: 1,000,001 bytes, at most 1,000,000 bytes are allowed."
    expect(uploads(page)).to_contain_text(fault)
    say(page, "Read this")
    expect(page.get_by_role("alert")).to_contain_text("Remove the files that were not uploaded")
    page.get_by_role("button", name="Remove too-large.bin").click()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(answers(page)).to_have_count(1)
    assert [asked for asked in visitor.asked[before:] if asked[1] == "/ws/files"] == []


def test_a_file_that_might_run_is_never_shown(page: Page) -> None:
    image = b"<svg xmlns='http://www.w3.org/2000/svg'><script>document.title = 'run'</script></svg>"
    choose(page, file("photo.png", image, "image/png"))
    expect(uploads(page)).to_contain_text("SVG image")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(answers(page)).to_contain_text("photo.png, image/svg+xml")
    expect(said(page).locator(".file-card")).to_contain_text("SVG image")
    expect(page.locator(".message img")).to_have_count(0)
    # The text of a message without one is the name of its file, which the card shows.
    expect(bubbles(page)).to_have_count(0)
