"""Measure the chat page while a long answer is streamed: `nox -s page_speed`.

An answer of 10 000 tokens is streamed token by token. Reported are the CPU time of the page's main
thread, and its tasks of more than 50 ms, which a user notices. Run it on a quiet machine.
"""

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import expect

from support.browser import answers, chromium, say, sign_in, visiting
from support.server import serving, write_agents

TOKENS = 10_000
PATIENCE_MS = 600_000

AGENTS = f'''
import trio

PART = """\\
## Section

A paragraph with **bold** and *italic* words, `code`, and [a link](https://example.com/page_1).
It goes on for a while, so that it has a few lines on the page, as an answer of a model has.

- an item with **bold** text
- another item with `code`
  1. a nested one

| Function | Result |
| --- | --- |
| `first(1)` | the first of them |
| `second(2)` | the second |

```python
async def call(value: int) -> str:
    return await ask("the model", value + 1)  # a comment
```

> A quote of two lines
> with *emphasis*.

"""
SIZE = 4  # characters of a token


async def writer(run):
    text = PART * ({TOKENS} * SIZE // len(PART) + 1)
    for n in range({TOKENS}):
        await run.emit(text[n * SIZE : (n + 1) * SIZE])
        if n % 10 == 9:
            await trio.sleep(0.02)
'''

_WATCH = """
window.tasks = [];
const note = (list) => window.tasks.push(...list.getEntries().map((one) => one.duration));
new PerformanceObserver(note).observe({ type: "longtask" });
"""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_agents(folder, AGENTS)
        with (
            serving(folder, "--agent", "outside_agents:writer") as server,
            chromium() as browser,
            visiting(browser, server.address, viewport={"width": 1280, "height": 900}) as visitor,
        ):
            page = visitor.page()
            sign_in(page)
            page.evaluate(_WATCH)
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = _metrics(session.send("Performance.getMetrics"))
            started = time.monotonic()
            say(page, "go")
            expect(answers(page)).to_have_attribute("aria-busy", "true")
            expect(answers(page)).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)
            seconds = time.monotonic() - started
            after = _metrics(session.send("Performance.getMetrics"))
            tasks: list[float] = page.evaluate("window.tasks")
    spent = {figure: after[figure] - before[figure] for figure in after}
    layout = spent["LayoutDuration"] + spent["RecalcStyleDuration"]
    sys.stdout.write(
        f"{TOKENS} tokens in {seconds:.1f} s\n"
        f"main thread: {spent['TaskDuration']:.2f} s, of it "
        f"scripts {spent['ScriptDuration']:.2f} s, style and layout {layout:.2f} s\n"
        f"tasks of more than 50 ms: {len(tasks)}, the longest {max(tasks, default=0):.0f} ms\n"
    )


def _metrics(answer: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    return {str(one["name"]): one["value"] for one in answer["metrics"]}


if __name__ == "__main__":
    main()
