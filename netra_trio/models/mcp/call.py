"""A tool call at an MCP server: its time limit, and the questions of the server to the user."""

from contextvars import ContextVar
from math import inf
from typing import Any

import structlog
import trio
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from netra_trio.agents.run import Run
from netra_trio.errors import QuestionExpired
from netra_trio.models.mcp.form import check_form

_log = structlog.get_logger(__name__)

CURRENT: ContextVar["Call | None"] = ContextVar("CURRENT", default=None)
"""The call that a task, or a message of a server, belongs to; None if that is not known."""


class Call:
    """A call that is running.

    Args:
        run: The run whose user is asked.
        nursery: A nursery in the task of the run: its end cancels the questions.
        seconds: The time limit; the time in which the user is asked does not count.
    """

    def __init__(self, run: Run, nursery: trio.Nursery, seconds: float) -> None:
        self._run = run
        self._nursery = nursery
        self._left = seconds
        self._asking = 0
        self.scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    async def elicit(self, params: ElicitRequestParams) -> ElicitResult:
        """Ask the user in the task of the run, and return the answer for the server."""
        if not isinstance(params, ElicitRequestFormParams):
            # The protocol has no event that asks the user to open a URL.
            return ElicitResult(action="decline")
        results: list[ElicitResult] = []
        done = trio.Event()

        async def ask() -> None:
            try:
                results.append(await self._ask(params))
            finally:
                done.set()

        self._nursery.start_soon(ask)
        await done.wait()
        return results[0] if results else ElicitResult(action="cancel")

    async def _ask(self, params: ElicitRequestFormParams) -> ElicitResult:
        self._pause()
        try:
            check_form(params.requested_schema)
            answer: Any = await self._run.ask(params.message, schema=params.requested_schema)
        except QuestionExpired:
            return ElicitResult(action="cancel")
        except (ValueError, TypeError, RuntimeError) as error:
            _log.warning("mcp_question_refused", run_id=self._run.id, reason=str(error))
            return ElicitResult(action="decline")
        finally:
            self._resume()
        if not isinstance(answer, dict):
            return ElicitResult(action="decline")
        try:
            return ElicitResult(action="accept", content=answer)
        except ValueError:  # a nested value, in a field that the form does not have
            return ElicitResult(action="decline")

    def _pause(self) -> None:
        self._asking += 1
        if self._asking == 1:
            self._left = self.scope.deadline - trio.current_time()
            self.scope.deadline = inf

    def _resume(self) -> None:
        self._asking -= 1
        if not self._asking:
            self.scope.deadline = trio.current_time() + self._left
