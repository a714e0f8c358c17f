"""A chat in the terminal: one line in, an answer streamed out.

trio.run(partial(chat, "ws://127.0.0.1:8000/ws", user="alice"))
"""

import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio
from attrs import define, field

from netra_trio.cli.login import Login, NoWayIn, look_for_server
from netra_trio.cli.terminal import Screen, typed_lines
from netra_trio.client import (
    Client,
    ClientError,
    ConnectionClosed,
    Event,
    MessageRefused,
    Network,
    NoAnswer,
    OpeningRefused,
    Run,
    TokenFailed,
    connect,
)
from netra_trio.client.network import WebSocket
from netra_trio.client.retry import Next, after_refusal
from netra_trio.errors import NetraError
from netra_trio.ids import new_thread_id
from netra_trio.protocol.codes import CloseCode, ErrorCode

ATTEMPTS = 8  # of one message to get a lost connection back: some 45 seconds, a restart's time

_PATIENCE = {
    ErrorCode.RATE_LIMIT_EXCEEDED,
    ErrorCode.QUEUE_FULL,
    ErrorCode.SERVICE_UNAVAILABLE,
}
_BACK = {
    "new": "Connected.",
    "exact": "Connected again; nothing was missed.",
    "gap": "Connected again; something was missed.",
    "reset": "Connected again; the server has forgotten this session and begun a new one.",
}
_ENDS = {
    "interrupted": "(interrupted: the server ended before the answer did; ask again)",
}


class ChatError(NetraError):
    """The chat cannot go on; the text says why and what to do."""


async def chat(
    url: str,
    *,
    message: str | None = None,
    user: str,
    token: str | None = None,
    agent: str | None = None,
) -> int:
    """Talk until the input ends, or until one message is answered; return the exit code.

    Ctrl-C stops the answer that is under way, a second one leaves. A connection that is lost is
    told, and got back: a conversation tries for as long as it takes, one message `ATTEMPTS` times.

    Raises:
        ChatError: If there is no way in, or no way back.
    """
    talk = _Talk(Screen(sys.stdout), agent, is_conversation=message is None)
    login = Login(url, user)
    failure: ChatError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.heed_signals, nursery)
        try:
            await (login.look() if token is None else look_for_server(url))
            async with connect(
                url,
                token=token,
                get_token=login.token if token is None else None,
                max_attempts=None if message is None else ATTEMPTS,
                dialer=_FirstDialer(talk.tell_no_connection),
            ) as client:
                await talk.hold(client, message)
        except NoWayIn as error:
            failure = ChatError(str(error))
        except ClientError as error:
            failure = ChatError(_explain(error))
        except ValueError as error:
            failure = ChatError(f"cannot connect to {url}: {error}")
        finally:
            talk.screen.end()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    # Who stops an answer in a conversation got what was asked for.
    fine = {None, "completed"} if message is not None else {None, "completed", "cancelled"}
    return 0 if talk.status in fine else 1


@define(eq=False)
class _Talk:
    """A conversation, or one message, and the run that is under way."""

    screen: Screen
    agent: str | None
    is_conversation: bool
    status: str | None = None
    # One thread of our own: a session's would end with the session.
    _thread_id: str = field(factory=new_thread_id)
    _run: Run | None = None
    _stopping: bool = False
    _is_away: bool = False
    _told: set[str] = field(factory=set)  # why there is no connection, since it was lost

    async def hold(self, client: Client, message: str | None) -> None:
        """Send one message, or what is typed; return when it is answered, or the input ends.

        Raises:
            ClientError: The client cannot go on.
        """
        failure: ClientError | None = None
        self._is_away = False
        async with trio.open_nursery() as nursery:

            async def heed_news() -> None:
                nonlocal failure
                try:
                    async for event in client.events():
                        self._show_news(event)
                except ClientError as error:
                    failure = error
                    nursery.cancel_scope.cancel()

            nursery.start_soon(heed_news)
            if message is not None:
                await self._ask(client, message)
            else:
                await self._converse(client)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _converse(self, client: Client) -> None:
        self.screen.note("Type a message; Ctrl-C stops an answer, Ctrl-D leaves.")
        self.screen.prompt()
        async for line in typed_lines():
            self.screen.heard()
            if line.strip():
                await self._ask(client, line)
            self.screen.prompt()

    async def _ask(self, client: Client, content: str) -> None:
        """Send a message and show what comes, to its end."""
        self._stopping = False
        if self._is_away:
            self.screen.note("… it is sent when the connection is back")
        try:
            run = await client.send(content, agent=self.agent, thread_id=self._thread_id)
            self._run = run
            if run.status == "queued":
                self.screen.note("… waiting")
            async for event in run:
                self._show(event.type, event.payload)
        except MessageRefused as refused:
            self.screen.fault(f"{refused.error} {refused.help}")
            self.status = "failed"
        except ClientError:
            await trio.sleep_forever()  # until the news, which has heard it too, ends everything
        finally:
            self._run = None

    async def heed_signals(self, nursery: trio.Nursery) -> None:
        """Stop the answer at the first Ctrl-C; leave at the second, or where there is none."""
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                self.screen.interrupted()
                if self._run is None or self._stopping or self._is_away:
                    self.status = self.status or "cancelled"
                    nursery.cancel_scope.cancel()
                    return
                self._stopping = True
                nursery.start_soon(self._stop, self._run)

    async def _stop(self, run: Run) -> None:
        try:
            await run.stop()
        except MessageRefused as refused:
            self._stopping = False  # it goes on, and the next Ctrl-C asks again
            self.screen.fault(f"{refused.error} {refused.help}")
        except ClientError:
            return  # the news has heard it too

    def tell_no_connection(self, why: str) -> None:
        """Say why there is no connection; each reason once, until there is one."""
        self._is_away = True
        if why in self._told:
            return
        told = f"connected: {why.rstrip('.')}."
        if self._told:
            self.screen.note(f"Still not {told}")
        elif self.is_conversation:
            self.screen.note(f"Not {told} Trying until it is back; Ctrl-C leaves.")
        else:
            self.screen.note(f"Not {told} Trying {ATTEMPTS} times at most.")
        self._told.add(why)

    def _show_news(self, event: Event) -> None:
        """Show what goes on beside the answers."""
        if event.type == "server_draining":
            self.screen.note("The server is about to restart.")
        elif event.type == "disconnected":
            self.tell_no_connection(event.payload["reason"])
        elif event.type == "connected":
            self._is_away = False
            if self._told:
                self._told.clear()
                self.screen.note(_BACK[event.payload["verdict"]])
        elif event.type == "error" and event.payload["code"] in _PATIENCE:
            self.screen.note(f"… {event.payload['error']} It is sent again.")

    def _show(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "agent_started" and payload["attempt"] > 1:
            self.screen.note(f"… trying again, attempt {payload['attempt']}")
        elif kind == "agent_thinking":
            self.screen.note(f"… {payload['thought']}")
        elif kind == "partial_result":
            self.screen.answer(payload["content"])
        elif kind == "tool_executing":
            self.screen.note(f"[{payload['tool_name']}] {_short(payload['arguments'])}")
        elif kind == "tool_completed":
            outcome = payload["result"] if payload["success"] else payload["error"]
            self.screen.note(f"[{payload['tool_name']}] → {_short(outcome)}")
        elif kind == "gap" and "content" in payload:
            self.screen.note("… the answer so far:")
            self.screen.answer(payload["content"])
        elif kind == "agent_completed":
            self._show_end(payload)
        elif kind == "lost":
            self.status = kind
            self.screen.fault(f"How it ended is not known: {payload['reason']}.")

    def _show_end(self, payload: dict[str, Any]) -> None:
        self.screen.end()
        self.status = payload["status"]
        if "error" in payload:
            self.screen.fault(f"{payload['error']['error']} {payload['error']['help']}")
        elif self.status != "completed":
            self.screen.note(_ENDS.get(payload["status"], f"({self.status})"))


def _explain(error: ClientError) -> str:
    """Return in words for somebody at a terminal why the client cannot go on."""
    if isinstance(error, TokenFailed) and isinstance(error.__cause__, NoWayIn):
        return str(error.__cause__)
    if isinstance(error, ConnectionClosed) and error.code == CloseCode.TOKEN_EXPIRED:
        return "the token has expired: come back with another one (--token)"
    return str(error)


class _FirstDialer(Network):
    """The network, which tells why there is no first connection: later on, events do.

    Args:
        tell: Told in words why an opening failed.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell
        self._is_first = True

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[WebSocket]:
        """Open a WebSocket (see `Dialer`)."""
        try:
            async with super().open(url, headers=headers, subprotocols=subprotocols) as socket:
                self._is_first = False
                yield socket
        except OpeningRefused as refused:
            if after_refusal(refused.status) is Next.RETRY:
                self._note(refused.told)
            raise
        except NoAnswer as silence:
            self._note(str(silence))
            raise

    def _note(self, why: str) -> None:
        if self._is_first:
            self._tell(why)


def _short(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= limit else text[:limit] + "…"
