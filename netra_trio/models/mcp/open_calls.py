"""The tool calls that a server may be running, as the messages of its connection show.

calls = OpenCalls()
calls.begin(call)
calls.sent(request)                  # in the task of the call
calls.received(message, context)     # the context in which the message is handled
calls.end(call)
"""

from contextvars import Context, copy_context
from typing import Any

from mcp_types import (
    CONNECTION_CLOSED,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
)

from netra_trio.models.mcp.call import CURRENT, Call

STOPPED_MAX = 1000  # requests that are remembered after the end of their call

# The client makes these errors itself, without an answer of the server.
_WITHOUT_ANSWER = {CONNECTION_CLOSED, PARSE_ERROR}


class OpenCalls:
    """The calls of one connection.

    A server may go on with a call that was stopped, and ask its user a question. Therefore such a
    call counts until the server has answered its request.
    """

    def __init__(self) -> None:
        self._running: set[Call] = set()
        self._requests: dict[str, Call] = {}
        self._stopped: set[str] = set()
        self._has_forgotten = False

    def __contains__(self, call: Call | None) -> bool:
        """Whether a call is running."""
        return call in self._running

    def __len__(self) -> int:
        """Return the number of calls that are running, or were stopped and not answered."""
        return len(self._running) + len(self._stopped)

    def begin(self, call: Call) -> None:
        """Add a call; its requests follow."""
        self._running.add(call)

    def end(self, call: Call) -> None:
        """Remove a call; its requests without an answer are remembered."""
        self._running.discard(call)
        for request in [name for name, owner in self._requests.items() if owner is call]:
            del self._requests[request]
            if len(self._stopped) < STOPPED_MAX:
                self._stopped.add(request)
            else:
                self._has_forgotten = True

    def sent(self, item: Any) -> None:
        """Note a message to the server, which is sent in the task of its call."""
        call = CURRENT.get()
        if call is not None and isinstance(item.message, JSONRPCRequest):
            self._requests[str(item.message.id)] = call

    def received(self, item: Any, context: Context | None) -> Context | None:
        """Note a message of the server; return the context in which it is handled.

        Args:
            item: The message, or an exception of the transport.
            context: The context of the message, if the transport keeps it.
        """
        message = getattr(item, "message", None)
        if isinstance(message, JSONRPCRequest):
            return self._with_call(copy_context() if context is None else context)
        if isinstance(message, JSONRPCResponse) or (
            isinstance(message, JSONRPCError) and message.error.code not in _WITHOUT_ANSWER
        ):
            self._requests.pop(str(message.id), None)
            self._stopped.discard(str(message.id))
        return context

    def _with_call(self, context: Context) -> Context:
        """Return a context with the only call that a question may belong to, if there is one."""
        if context.get(CURRENT) is None and len(self) == 1 and not self._has_forgotten:
            for call in self._running:
                context = context.copy()
                context.run(CURRENT.set, call)
        return context
