"""The agents of the benchmark for this project's server, which is its own `serve` command.

    netra-trio serve --agent echo=bench.peers.netra:echo --agent stream=bench.peers.netra:stream

Nothing is turned off: token, user, origin, rate limit, numbered events and their log,
acknowledgements, heartbeats, deadlines, the history in an SQLite file, a line of log for each run
and connection. The limits on messages and connections are raised, where they would be measured.
"""

from bench.peers.work import TOKENS
from netra_trio import Run


async def echo(run: Run) -> str:
    """Emit the text once, and return it."""
    await run.emit(run.content)
    return run.content


async def stream(run: Run) -> str:
    """Emit 200 tokens, one event each."""
    for token in TOKENS:
        await run.emit(token)
    return run.content
