"""Iterables of a caller that are read only in part: an async generator has to be closed then.

async with closing(data):
    async for piece in data:
        ...
"""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any


def closing(data: AsyncIterable[Any]) -> AbstractAsyncContextManager[Any]:
    """Close an async generator at the end of the block; leave any other iterable as it is.

    Otherwise the `finally` blocks of a generator that is not read to its end would run when it is
    garbage-collected: outside the task that has used it, and without a chance to wait.
    """
    return aclosing(data) if isinstance(data, AsyncGenerator) else nullcontext()
