"""Measure the chat page while long answers are streamed: `nox -s page_speed`.

An answer of 10 000 tokens is streamed token by token. Reported are the CPU time of the page's main
thread, and its tasks of more than 50 ms, which a user notices. Then the conversation goes on to 50
such answers. Reported are the memory of the tab after 5 and after 50, and the CPU time of the
scripts for each token of these two. Run it on a quiet machine.
"""

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect

from support.browser import answers, chromium, say, sign_in, visiting
from support.server import serving, write_agents

TOKENS = 10_000
PATIENCE_MS = 600_000
ANSWERS = 50
FIRST = 5  # the first answer after which the memory is measured

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
    together = 10 if run.content == "go" else 100
    for n in range({TOKENS}):
        await run.emit(text[n * SIZE : (n + 1) * SIZE])
        if n % together == together - 1:
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
            meter = _Meter(page)
            _report_answer(meter)
            _report_conversation(meter)


class _Meter:
    """Measures the main thread and the memory of a page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._count = 0

    def answer(self, pace: str = "go") -> dict[str, float]:
        """Have one more answer, in full; return what the main thread has spent."""
        self._count += 1
        before = self._metrics()
        say(self.page, pace)
        answer = answers(self.page).nth(self._count - 1)
        expect(answer).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)
        after = self._metrics()
        return {figure: after[figure] - before[figure] for figure in after}

    def memory(self) -> tuple[float, float]:
        """Return the MiB of the heap of the scripts, and the number of nodes, without garbage."""
        self._session.send("HeapProfiler.collectGarbage")
        metrics = self._metrics()
        return metrics["JSHeapUsedSize"] / 2**20, metrics["Nodes"]

    def _metrics(self) -> dict[str, float]:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return {str(one["name"]): one["value"] for one in metrics}


def _report_answer(meter: _Meter) -> None:
    started = time.monotonic()
    spent = meter.answer()
    seconds = time.monotonic() - started
    tasks: list[float] = meter.page.evaluate("window.tasks")
    layout = spent["LayoutDuration"] + spent["RecalcStyleDuration"]
    _write(
        f"{TOKENS} tokens in {seconds:.1f} s",
        f"main thread: {spent['TaskDuration']:.2f} s, of it "
        f"scripts {spent['ScriptDuration']:.2f} s, style and layout {layout:.2f} s",
        f"tasks of more than 50 ms: {len(tasks)}, the longest {max(tasks, default=0):.0f} ms",
    )


def _report_conversation(meter: _Meter) -> None:
    for number in range(2, ANSWERS + 1):
        if number not in {FIRST, ANSWERS}:
            meter.answer("fast")
            continue
        spent = meter.answer()
        heap, nodes = meter.memory()
        layout = spent["LayoutDuration"] + spent["RecalcStyleDuration"]
        _write(
            f"after {number} answers: heap {heap:.1f} MiB, {nodes:.0f} nodes; for a token of the "
            f"last one: scripts {spent['ScriptDuration'] / TOKENS * 1000:.3f} ms, "
            f"style and layout {layout / TOKENS * 1000:.3f} ms",
        )


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
