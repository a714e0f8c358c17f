"""The agents of the benchmark for this project's server, which is its own `serve` command.

    netra-trio serve --agent echo=bench.peers.netra:echo --agent stream=bench.peers.netra:stream

No feature is turned off: token, user, origin, rate limit, numbered events and their log,
acknowledgements, heartbeats, deadlines, the history in an SQLite file, log lines for runs and
connections. The limits on messages and connections are raised where they would be measured.

Only public names of `netra_trio` are used here, because the same file also runs with the source
of another checkout.
"""

import trio

from bench.peers.work import TOKENS, paced_tokens, seconds_until
from netra_trio import Run


async def may(user: str, room: str, action: str) -> bool:  # noqa: ARG001 - its interface
    """Allow everything except presence, which the other servers do not have."""
    return action != "see"


async def echo(run: Run) -> str:
    """Emit the text once, and return it."""
    await run.emit(run.content)
    return run.content


async def stream(run: Run) -> str:
    """Emit 200 tokens, one event each."""
    for token in TOKENS:
        await run.emit(token)
    return run.content


async def paced(run: Run) -> str:
    """Emit a token every 50 ms."""
    for due, token in paced_tokens(run.content):
        await trio.sleep(seconds_until(due))
        await run.emit(token)
    return run.content
