"""Forwards the pieces of a model's answers to the events of a run.

output = Output(run)
completion = await provider.answer(request, output.forward)
await output.end()
"""

from netra_trio.agents.run import Run
from netra_trio.models.completion import Delta

THOUGHT_CHARACTERS = 400  # reasoning is many small pieces, and each thought is an event
BETWEEN = "\n\n"  # the texts before and after tool calls are paragraphs


class Output:
    """Emits texts at once, and joins the pieces of reasoning into thoughts.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._thought = ""
        self._has_text = False
        self._starts = False

    def next_answer(self) -> None:
        """Begin another answer of the same run."""
        self._starts = self._has_text

    async def forward(self, delta: Delta) -> None:
        """Send a piece; waits while the client does not keep up. Cancelling is safe."""
        if delta.thought:
            await self._think(delta.thought)
        if delta.text:
            await self.end()
            if self._starts:
                self._starts = False
                await self._run.emit(BETWEEN)
            self._has_text = True
            await self._run.emit(delta.text)

    async def end(self) -> None:
        """Send the rest of the reasoning."""
        thought, self._thought = self._thought.strip(), ""
        if thought:
            await self._run.think(thought)

    async def _think(self, text: str) -> None:
        self._thought += text
        if len(self._thought) < THOUGHT_CHARACTERS:
            return
        end = max(self._thought.rfind(mark) for mark in (" ", "\n"))
        complete, rest = self._thought[: end + 1], self._thought[end + 1 :]
        if complete.strip():
            self._thought = complete
            await self.end()
            self._thought = rest
        elif len(self._thought) >= 2 * THOUGHT_CHARACTERS:  # a script without spaces
            await self.end()
