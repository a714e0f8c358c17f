"""A tool call at an MCP server: its time limit, and what the server asks the user meanwhile."""

from contextvars import ContextVar
from math import inf
from typing import Any

import structlog
import trio
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from netra_trio.agents.run import Run
from netra_trio.errors import QuestionExpired

_log = structlog.get_logger(__name__)

CURRENT: ContextVar["Call | None"] = ContextVar("CURRENT", default=None)
"""The call that a message of a server belongs to, where the transport keeps contexts."""


class Call:
    """A call that is running.

    Args:
        run: The run whose user is asked.
        nursery: A nursery in the task of the run: its end ends the questions.
        seconds: The time limit; it stands still while the user is asked.
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
            return ElicitResult(action="decline")  # to open a URL, no event can ask for yet
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
        return ElicitResult(action="accept", content=answer)

    def _pause(self) -> None:
        self._asking += 1
        if self._asking == 1:
            self._left = self.scope.deadline - trio.current_time()
            self.scope.deadline = inf

    def _resume(self) -> None:
        self._asking -= 1
        if not self._asking:
            self.scope.deadline = trio.current_time() + self._left
