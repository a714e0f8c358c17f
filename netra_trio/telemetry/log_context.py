"""The ids that belong to a task: every log line of the task carries them.

>>> set_log_context(session_id="sess_1", user_id="alice")
>>> extend_log_context(run_id="run_1")
>>> LOG_CONTEXT.get()
{'session_id': 'sess_1', 'user_id': 'alice', 'run_id': 'run_1'}

One context variable holds all ids of a task: to set and to read it costs a fraction of what
structlog's own context costs, which has a variable for each id. Values that an application binds
with `structlog.contextvars` appear in the lines of its own loggers as usual.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

LOG_CONTEXT: ContextVar[Mapping[str, str]] = ContextVar("LOG_CONTEXT", default=MappingProxyType({}))


def set_log_context(**ids: str) -> None:
    """Replace the ids of the current task; tasks that it starts later inherit them."""
    LOG_CONTEXT.set(ids)


def extend_log_context(**ids: str) -> None:
    """Add to the ids of the current task; tasks that it starts later inherit them."""
    LOG_CONTEXT.set({**LOG_CONTEXT.get(), **ids})
