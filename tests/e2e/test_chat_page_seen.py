"""The chat page in a real browser: what one sees, hears and types while everything works."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import (
    DEVELOPER,
    answers,
    articles,
    bubbles,
    chromium,
    connected,
    message_box,
    said,
    say,
    sign_in,
    visiting,
)
from support.server import SOON, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = '''
from pathlib import Path

import trio

HOSTILE = """\\
<script>window.hacked = 1</script>

<img src=x onerror="window.hacked = 2"> <svg/onload=window.hacked=3> <b onclick="x()">bold</b>

[click](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>)
[vb](vbscript:x) [file](file:///etc/passwd) <javascript:window.hacked=6>
[quote](https://ok.example/" onmouseover="window.hacked=7)
![tracker](https://evil.example/pixel.png) ![js](javascript:window.hacked=8)
[entity](&#106;avascript:window.hacked=9) [tab](java\\tscript:window.hacked=10)

[good](https://good.example/a?b=c&d=1) <https://auto.example> me@mail.example

<style>* { display: none !important }</style>
<iframe src="https://evil.example"></iframe><form action="https://evil.example"><input></form>
<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example">

```html"><script>window.hacked=11</script>
</code></pre><script>window.hacked = 12</script>
```

| a | b |
| --- | --- |
| <script>window.hacked=13</script> | `<img src=x onerror=window.hacked=14>` |

&lt;script&gt;window.hacked=15&lt;/script&gt; &amp; done \\u202e reversed \\u0000
"""


async def talk(run):
    """Do what the message says."""
    word, _, rest = run.content.partition(" ")
    return await DOES.get(word, echo)(run, rest)


async def echo(run, rest):
    await run.emit(run.content)


async def hold(run, name):
    await run.emit("first ")
    while not Path(name).exists():
        await trio.sleep(0.01)
    await run.emit("second")


async def work(run, rest):
    await run.think("Looking around", step=1, total=2)
    async with run.tool("search", query="trio", limit=3) as tool:
        tool.result = {"found": ["one", "two"]}
    try:
        async with run.tool("broken") as tool:
            raise ValueError("secret of the tool")
    except Exception:
        pass
    await run.think("Writing", step=2, total=2)
    await run.emit("It is **done**.")


async def fail(run, rest):
    await run.emit("I begin")
    raise RuntimeError("secret of the agent")


async def result(run, kind):
    return "only *returned*" if kind == "text" else {"only": "returned"}


async def hostile(run, rest):
    await run.emit(HOSTILE)


async def deep(run, rest):
    for text in (">" * 3000 + "deep", "- " * 2000 + "x", "[" * 9000, "the end"):
        await run.emit(text + "\\n\\n")


async def markdown(run, rest):
    text = (
        "# Title\\n\\nA *word* and `code`.\\n\\n1. one\\n2. two\\n\\n- [x] done\\n\\n"
        "```python\\nprint('hi')\\n```\\n\\n| a | b |\\n|---|--:|\\n| 1 | 2 |\\n\\n> quoted"
    )
    for part in text.split(" "):
        await run.emit(part + " ")


async def long(run, name):
    for line in range(80):
        await run.emit(f"line {line}\\n\\n")
    while not Path(name).exists():
        await trio.sleep(0.01)
    for line in range(80, 120):
        await run.emit(f"line {line}\\n\\n")


DOES = {
    "hold": hold,
    "work": work,
    "fail": fail,
    "result": result,
    "hostile": hostile,
    "deep": deep,
    "markdown": markdown,
    "long": long,
}
'''


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SOON * 1000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("seen")
    write_agents(folder, AGENTS)
    agents = ("--agent", "outside_agents:talk")
    with serving(folder, *agents, WEBSOCKET_MAX_MESSAGE_RATE="1000") as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Return the page of a user of its own."""
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        sign_in(page, request.node.name)
        yield page


def release(server: Server, name: str) -> None:
    (server.process.directory / name).touch()


# --- talking


def test_the_first_message(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        expect(page.get_by_role("status", name="Connection")).to_have_count(0)
        page.get_by_role("button", name=DEVELOPER).click()
        connected(page)
        expect(message_box(page)).to_be_focused()
        say(page, "hello there")
        expect(bubbles(page)).to_have_text(["hello there"])
        expect(answers(page).locator(".markdown")).to_have_text(["hello there"])
        expect(message_box(page)).to_have_value("")
        expect(articles(page)).to_have_count(2)
        assert len(visitor.sockets) == 1
        # The token is in no address, and the browser has asked for nothing but this server.
        assert all("token=" not in socket.url for socket in visitor.sockets)


def test_an_answer_is_seen_while_it_is_written(page: Page, server: Server) -> None:
    stop = page.get_by_role("button", name="Stop", exact=True)
    expect(stop).to_have_count(0)
    say(page, "hold streamed")
    expect(answers(page)).to_contain_text("first")
    expect(answers(page)).not_to_contain_text("second")
    expect(answers(page)).to_have_attribute("aria-busy", "true")
    expect(stop).to_be_visible()
    release(server, "streamed")
    expect(answers(page)).to_contain_text("first second")
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    expect(stop).to_have_count(0)


@pytest.mark.parametrize("way", ["button", "key"])
def test_stop(page: Page, way: str) -> None:
    say(page, "hold for-ever")
    expect(answers(page)).to_contain_text("first")
    if way == "button":
        page.get_by_role("button", name="Stop", exact=True).click()
    else:
        page.keyboard.press("Escape")
    expect(answers(page)).to_contain_text("Stopped.")
    expect(answers(page)).to_contain_text("first")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)
    say(page, "still there")
    expect(answers(page).last).to_contain_text("still there")


def test_a_message_that_waits_its_turn_says_so(page: Page, server: Server) -> None:
    say(page, "hold turn")
    expect(answers(page)).to_contain_text("first")
    say(page, "next")
    expect(said(page).last).to_contain_text("Waiting its turn")
    expect(articles(page)).to_have_count(3)
    release(server, "turn")
    expect(answers(page).last).to_contain_text("next")
    expect(said(page).last).not_to_contain_text("Waiting")
    expect(answers(page)).to_have_count(2)


def test_thoughts_and_tools(page: Page) -> None:
    say(page, "work")
    answer = answers(page)
    expect(answer).to_contain_text("It is done.")
    answer.get_by_text("1 thought").first.click()
    expect(answer.get_by_text("Looking around")).to_be_visible()
    search = answer.locator("details.tool").first
    expect(search).to_contain_text("search")
    expect(search).to_contain_text("done")
    search.locator("summary").click()
    expect(search.get_by_label("Arguments")).to_contain_text('"query": "trio"')
    expect(search.get_by_label("Result")).to_contain_text('"found"')
    expect(answer.locator("details.tool").last).to_contain_text("failed")
    expect(answer).not_to_contain_text("secret")


def test_an_agent_that_fails(page: Page) -> None:
    say(page, "fail")
    answer = answers(page)
    expect(answer).to_contain_text("I begin")
    expect(answer).to_contain_text("Error id: ")
    expect(answer).not_to_contain_text("secret")
    answer.get_by_role("button", name="Regenerate").click()
    expect(bubbles(page)).to_have_text(["fail"])
    expect(answers(page)).to_have_count(1)


def test_what_an_agent_returns_without_writing_it(page: Page) -> None:
    say(page, "result text")
    expect(answers(page).locator("em")).to_have_text("returned")
    say(page, "result json")
    expect(answers(page).last.locator("pre")).to_contain_text('"only": "returned"')


def test_a_message_beyond_the_limit_is_refused_with_help(page: Page) -> None:
    say(page, "x" * 20_000)
    fault = page.locator("#composer-fault")
    expect(fault).to_have_text(re.compile(r"too long by \d{1,2},\d{3} characters"))
    expect(message_box(page)).to_have_value("x" * 20_000)
    expect(said(page)).to_have_count(0)
    say(page, "short")
    expect(fault).to_have_count(0)
    expect(answers(page)).to_contain_text("short")


def test_markdown(page: Page) -> None:
    say(page, "markdown")
    answer = answers(page)
    expect(answer.get_by_role("heading", name="Title")).to_be_visible()
    expect(answer.locator("em")).to_have_text("word")
    expect(answer.locator("ol > li")).to_have_text(["one", "two"])
    expect(answer.get_by_role("img", name="done")).to_be_visible()
    expect(answer.locator("figure pre")).to_have_text("print('hi')")
    expect(answer.locator("figure pre .hl-call")).to_have_text("print")
    expect(answer.locator("figure pre .hl-string")).to_have_text("'hi'")
    expect(answer.locator("tbody td")).to_have_text(["1", "2"])
    expect(answer.locator("blockquote")).to_have_text("quoted")


def test_code_is_copied(browser: Browser, server: Server) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    with visiting(browser, server.address, permissions=permissions) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, "markdown")
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied", exact=True)).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == "print('hi')"
        page.get_by_role("button", name="Copy answer").click()
        expect(page.get_by_role("button", name="Copied answer")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("# Title\n\nA *word* and `code`.")


# --- conversations


def test_conversations_are_listed_and_their_history_comes_back(page: Page) -> None:
    say(page, "first subject")
    expect(answers(page)).to_have_count(1)
    page.get_by_role("button", name="New conversation").click()
    expect(articles(page)).to_have_count(0)
    expect(message_box(page)).to_be_focused()
    say(page, "second subject")
    expect(answers(page)).to_have_count(1)
    listed = page.get_by_role("navigation").get_by_role("link")
    expect(listed).to_have_text(["second subject", "first subject"])
    expect(listed.first).to_have_attribute("aria-current", "page")
    listed.last.click()
    expect(articles(page)).to_have_count(2)
    expect(bubbles(page)).to_have_text(["first subject"])
    page.reload()
    connected(page)
    expect(bubbles(page)).to_have_text(["first subject"])
    expect(answers(page).locator(".markdown")).to_have_text(["first subject"])
    page.go_back()
    expect(bubbles(page)).to_have_text(["second subject"])
    page.get_by_role("button", name="Delete: first subject").click()
    expect(listed).to_have_text(["second subject"])


def test_somebody_else_sees_nothing_of_it(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        sign_in(page)
        say(page, "something private")
        expect(answers(page)).to_have_count(1)
        page.get_by_role("button", name="Sign out").click()
        sign_in(page, "other-user")
        expect(articles(page)).to_have_count(0)
        expect(page.get_by_text("something private")).to_have_count(0)
        say(page, "hello")
        expect(answers(page)).to_have_count(1)


# --- typing and reading


def test_keys(page: Page) -> None:
    box = message_box(page)
    box.press_sequentially("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    expect(articles(page)).to_have_count(0)
    box.press("Enter")
    expect(bubbles(page)).to_have_text(["one\ntwo"])
    expect(box).to_have_value("")
    box.press("Enter")
    box.press_sequentially("   ")
    box.press("Enter")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    expect(said(page)).to_have_count(1)


def test_everything_can_be_reached_by_keyboard(page: Page) -> None:
    say(page, "work")
    expect(answers(page)).to_contain_text("It is done.")
    expect(page.get_by_role("link", name="work")).to_be_visible()
    message_box(page).focus()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        reached.add(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.textContent)(document.activeElement)"
            )
        )
        # The box around where one types is its ring.
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        has_own = page.evaluate("document.activeElement.matches('body, .box textarea')")
        assert ring == "solid" or has_own
    assert {"New conversation", "work", "Sign out", "Theme: as the system"} <= reached


def test_what_is_typed_survives_a_reload(page: Page) -> None:
    message_box(page).fill("half a thought")
    page.reload()
    connected(page)
    expect(message_box(page)).to_have_value("half a thought")


def test_reading_above_is_not_disturbed(page: Page, server: Server) -> None:
    say(page, "long scrolled")
    expect(answers(page)).to_contain_text("line 79")
    scroller = page.locator(".scroller")

    def left() -> float:
        measure = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
        return float(scroller.evaluate(measure))

    expect(page.get_by_text("line 79", exact=True)).to_be_in_viewport()
    assert left() < 50
    scroller.hover()
    page.mouse.wheel(0, -900)
    latest = page.get_by_role("button", name="Latest")
    expect(latest).to_be_visible()
    before = scroller.evaluate("e => e.scrollTop")
    release(server, "scrolled")
    expect(answers(page)).to_contain_text("line 119")
    assert scroller.evaluate("e => e.scrollTop") == before
    latest.click()
    expect(page.get_by_text("line 119", exact=True)).to_be_in_viewport()
    assert left() < 50
    expect(latest).to_have_count(0)


def test_themes(browser: Browser, server: Server) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(25, 28, 28)")):
        with visiting(browser, server.address, color_scheme=scheme) as visitor:
            page = visitor.page()
            assert page.evaluate(ground) == colour
            page.get_by_role("button", name="Theme: as the system").click()
            page.get_by_role("button", name="Theme: light").click()
            assert page.evaluate(ground) == "rgb(25, 28, 28)"
            page.reload()
            assert page.evaluate(ground) == "rgb(25, 28, 28)"
            page.get_by_role("button", name="Theme: dark").click()
            assert page.evaluate(ground) == colour


def test_a_narrow_screen(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address, viewport={"width": 360, "height": 640}) as visitor:
        page = visitor.page()
        sign_in(page, "narrow")
        say(page, "markdown")
        expect(answers(page)).to_contain_text("quoted")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        links = page.get_by_role("navigation").get_by_role("link")
        expect(links).to_have_count(0)
        page.get_by_role("button", name="Open conversations").click()
        expect(links).to_have_text(["markdown"])
        expect(page.get_by_role("main")).to_have_attribute("inert", "")
        expect(page.get_by_role("button", name="Close conversations")).to_be_focused()
        page.keyboard.press("Escape")
        expect(links).to_have_count(0)
        expect(page.get_by_role("button", name="Open conversations")).to_be_focused()
        page.get_by_role("button", name="Open conversations").click()
        page.get_by_role("button", name="New conversation").click()
        expect(articles(page)).to_have_count(0)
        expect(message_box(page)).to_be_focused()


# --- harm


def test_hostile_output_is_text(browser: Browser, server: Server) -> None:
    with visiting(browser, server.address) as visitor:
        wanted: list[str] = []
        visitor.context.on("request", lambda request: wanted.append(request.url))
        page = visitor.page()
        sign_in(page)
        say(page, "hostile")
        answer = answers(page)
        expect(answer).to_contain_text("reversed")
        expect(answer).to_contain_text("<script>window.hacked = 1</script>")
        assert page.evaluate("window.hacked") is None
        forbidden = "script, style, iframe, img, svg:not(.icon), form, input, base, meta, object"
        expect(answer.locator(forbidden)).to_have_count(0)
        harmful = (
            "e => [...e.querySelectorAll('*')].flatMap(x => [...x.attributes])"
            ".filter(a => /^on|^style$|^srcdoc$/.test(a.name)).map(a => a.name)"
        )
        assert answer.evaluate(harmful) == []
        links = answer.locator("a").evaluate_all(
            "all => all.map(a => [a.href, a.rel, a.target, a.protocol])"
        )
        assert {link[3] for link in links} <= {"https:", "http:", "mailto:"}
        assert all(link[1:3] == ["noopener noreferrer", "_blank"] for link in links)
        hrefs = {link[0] for link in links}
        assert {
            "https://good.example/a?b=c&d=1",
            "https://auto.example/",
            "mailto:me@mail.example",
            "https://evil.example/pixel.png",
        } <= hrefs
        assert [url for url in wanted if server.address not in url and "data:" not in url] == []
        # The user's own words are text too.
        say(page, "<img src=x onerror=window.hacked=20>")
        expect(bubbles(page).last).to_have_text("<img src=x onerror=window.hacked=20>")
        assert page.evaluate("window.hacked") is None


def test_the_policy_would_stop_a_script(browser: Browser, server: Server) -> None:
    """A second wall: if something did get in, it would not run, and reach nobody."""
    attempts = {
        "script": "document.body.append(Object.assign(document.createElement('script'), "
        "{src: 'data:text/javascript,window.hacked=1'}))",
        "html": "document.body.innerHTML = '<img src=x onerror=window.hacked=2>'",
        "style": "document.body.append(Object.assign(document.createElement('style'), "
        "{textContent: 'main { display: none }'}))",
        "fetch": "fetch('https://evil.example/')",
        "image": "new Image().src = 'https://evil.example/pixel.png'",
        "frame": "document.body.append(Object.assign(document.createElement('iframe'), "
        "{src: 'https://evil.example/'}))",
    }
    with visiting(browser, server.address) as visitor:
        page = visitor.page()
        sign_in(page)
        for attempt, code in attempts.items():
            blocked = page.evaluate(
                """code => new Promise(done => {
                    addEventListener("securitypolicyviolation", e => done(e.effectiveDirective));
                    try { (0, eval)(code)?.catch?.(() => undefined); } catch { done("thrown"); }
                })""",
                code,
            )
            assert blocked, attempt
        assert page.evaluate("window.hacked") is None
        expect(page.get_by_role("main")).to_be_visible()
        assert len(visitor.faults) >= len(attempts) - 2
        visitor.faults.clear()


def test_deep_output_does_not_break_the_page(page: Page) -> None:
    say(page, "deep")
    expect(answers(page)).to_contain_text("the end")
    say(page, "hello")
    expect(answers(page).last).to_contain_text("hello")


# --- for everybody


def test_what_a_screen_reader_is_told(page: Page, server: Server) -> None:
    log = page.get_by_role("log", name="Conversation")
    expect(log).to_have_count(1)
    expect(page.get_by_role("status", name="Connection")).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    say(page, "hold reader")
    # What is busy is read when it is whole, not word by word.
    expect(log.get_by_role("article").last).to_have_attribute("aria-busy", "true")
    release(server, "reader")
    expect(log.get_by_role("article").last).to_have_attribute("aria-busy", "false")
