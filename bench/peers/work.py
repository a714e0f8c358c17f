"""The work that every server does: the text of a stream, and the schedule of a paced run.

>>> len(TOKENS)
200
>>> due, token = next(paced_tokens("00 40"))
>>> token == f"{due:.6f} "
True
"""

import time
from collections.abc import Iterator

TOKENS = ("lorem ", "ipsum ", "dolor ", "sit ", "amet ") * 40
"""The tokens of a stream, one event each."""

PACE_SECONDS = 0.05
"""The time from one token of a paced run to the next: a model that writes 20 tokens a second."""


def paced_tokens(content: str) -> Iterator[tuple[float, str]]:
    """Yield each token of a paced run with the time at which it is due.

    The schedule is absolute: a late token does not delay the next one, as a model does not wait
    for the server. Times are those of `time.monotonic`, which on Linux is CLOCK_MONOTONIC, one
    clock for all processes of a machine. The text of a token is its time and a space, so that the
    client can subtract it from its own time.

    Args:
        content: The message: the number of its slot, and the number of tokens to emit.
    """
    started = time.monotonic()
    for number in range(1, int(content.split()[1]) + 1):
        due = started + number * PACE_SECONDS
        yield due, f"{due:.6f} "


def seconds_until(due: float) -> float:
    """Return how long to sleep until a time of `time.monotonic`; 0 if it has passed."""
    return max(0.0, due - time.monotonic())
