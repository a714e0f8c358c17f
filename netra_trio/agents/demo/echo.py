"""The echo agent: returns the message at once; for load tests, and as the shortest example.

from netra_trio import create_app
from netra_trio.agents.demo.echo import echo

app = create_app(agents={"echo": echo})
"""

from netra_trio.agents.run import Run


async def echo(run: Run) -> str:
    """Emit the user's text as one delta, and return it."""
    await run.emit(run.content)
    return run.content
