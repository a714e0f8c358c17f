"""The client: one connection that is kept, whatever happens to the line.

async with connect("ws://localhost:8000/ws", token=token) as client:
    run = await client.send("hello")
    async for event in run:
        print(event.type, event.payload)
"""

import random as chance
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import trio

from netra_trio.client.connection import Connection
from netra_trio.client.conversation import Conversation
from netra_trio.client.errors import ClientClosed
from netra_trio.client.event import Event
from netra_trio.client.journal import Journal
from netra_trio.client.network import Network
from netra_trio.client.retry import BackOff
from netra_trio.client.run import Events, Run
from netra_trio.client.sockets import Dialer
from netra_trio.client.stats import Stats, Status
from netra_trio.client.tokens import GetToken, Tokens
from netra_trio.errors import is_only
from netra_trio.ids import new_correlation_id
from netra_trio.protocol.messages import CORRELATION_ID_CHARACTERS, HISTORY_PAGE

OnBusy = Literal["enqueue", "reject", "interrupt"]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    get_token: GetToken | None = None,
    max_attempts: int | None = None,
    outbox: str | Path | None = None,
    dialer: Dialer | None = None,
    random: Callable[[], float] = chance.random,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncIterator["Client"]:
    """Open a client, and keep it connected until the block is left.

    It waits for the first connection. From then on a lost line is the client's business: it
    connects again with exponential back-off, resumes the session, and sends what was not confirmed.
    Leaving the block closes with 1000 and waits for every task; what is not confirmed then is
    forgotten, unless there is an `outbox`. Cancelling is safe, and takes 2 seconds at most. What
    the block raises comes out as it is.

    Args:
        url: The server's WebSocket, such as `wss://example.com/ws`.
        token: A JSON Web Token.
        get_token: Instead of `token`: an async function that returns one, called before the first
            connection, before the token ends, and after a refusal. It may raise `TokenUnavailable`
            or `OSError` for "not now"; anything else ends the client as `TokenFailed`.
        max_attempts: How many attempts may fail in a row; for ever where None.
        outbox: A file for unconfirmed messages. A client that is opened with it later sends them
            under their keys; what comes of them is in `Client.events`.
        dialer: Another network, for tests.
        random: Returns a number from 0 to 1, by which the pauses of many clients differ.
        wall_clock: Returns Unix seconds.

    Raises:
        ConnectionRefused: The server refuses, and would again.
        ConnectionClosed: It closed the first connection at once, likewise.
        GaveUp: `max_attempts` attempts failed.
        TokenFailed: `get_token` raised.
        OutboxUnusable: The file cannot be used.
        ValueError: There is neither a token nor a function for it, or both; or the url is none.
    """
    stats = Stats()
    tokens = Tokens(token, get_token)
    with ExitStack() as files:
        journal = None if outbox is None else files.enter_context(Journal.open(Path(outbox)))
        client = Client(journal, stats, wall_clock)
        client.connection = Connection(
            url,
            dialer=Network() if dialer is None else dialer,
            tokens=tokens,
            back_off=BackOff(max_attempts),
            conversation=client.conversation,
            stats=stats,
            random=random,
        )
        async with _kept(client):
            yield client


@asynccontextmanager
async def _kept(client: "Client") -> AsyncIterator[None]:
    body: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.connection.keep)
            try:
                await client.connection.until_connected()
                yield
            except BaseException as error:
                body = error
                raise
            finally:
                await client.connection.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # Who writes `except MessageRefused` around the block means that error, and not a group
        # with nothing else in it.
        if body is None or not is_only(group, body):
            raise
    finally:
        client.connection.status = Status.DISCONNECTED
        client.conversation.fail(None, ClientClosed("the client has been left"))
    if body is not None:
        raise body


class Client:
    """A client that `connect` has opened.

    Its methods are for tasks of the same Trio program; several may use it side by side.

    Attributes:
        conversation: What is said; for `connect`.
        connection: The connection; for `connect`.
    """

    connection: Connection

    def __init__(
        self, journal: Journal | None, stats: Stats, wall_clock: Callable[[], float]
    ) -> None:
        self.conversation = Conversation(
            stats=stats, journal=journal, stop=self._stop, wall_clock=wall_clock
        )
        self._stats = stats
        self._journal = journal
        self._adding = trio.Lock()

    @property
    def status(self) -> Status:
        """Where the client is."""
        return self.connection.status

    @property
    def stats(self) -> Stats:
        """What happened so far: the live figures, not a copy."""
        self._stats.queued = len(self.conversation)
        return self._stats

    @property
    def config(self) -> Mapping[str, Any]:
        """The discovery document as the server gave it; empty where it gave none."""
        return self.connection.config or {}

    async def send(
        self,
        content: str,
        *,
        thread_id: str | None = None,
        agent: str | None = None,
        on_busy: OnBusy | None = None,
        deadline_ms: int | None = None,
        correlation_id: str | None = None,
    ) -> Run:
        """Say something to an agent; return when the server has confirmed it.

        Offline it waits for the connection. A server that asks for patience gets the message again
        later, and those behind it wait. Cancelled before the message was written, it is not sent;
        afterwards it stays in the outbox, and what comes of it is in `events`.

        Args:
            content: The text.
            thread_id: The conversation; the session's own where None.
            agent: The agent; the server's default where None.
            on_busy: What to do when the thread has a run; `enqueue` where None.
            deadline_ms: Milliseconds that the run may take.
            correlation_id: The key: the same key and content again, even after a restart, is a
                duplicate and starts nothing. A new one where None.

        Raises:
            MessageRefused: The server refuses it, or it is too large.
            OutboxFull: Too many messages wait.
            OutboxUnusable: The disk does not take it.
            ConnectionRefused, ConnectionClosed, GaveUp, TokenFailed: The client cannot connect any
                more. The message stays in the outbox, and goes out after `reconnect`.
            ClientClosed: The client has been left.
            ValueError: The correlation id is not 1 to 128 characters.
        """
        payload = {
            "content": content,
            "thread_id": thread_id,
            "agent": agent,
            "on_busy": on_busy,
            "deadline_ms": deadline_ms,
        }
        return await self._post("user_message", payload, correlation_id)

    async def request(
        self,
        agent: str,
        input: dict[str, Any] | str,  # noqa: A002 - the contract's name for it
        *,
        thread_id: str | None = None,
        on_busy: OnBusy | None = None,
        deadline_ms: int | None = None,
        correlation_id: str | None = None,
    ) -> Run:
        """Send an `agent_request` with structured input; otherwise like `send`."""
        payload = {
            "agent": agent,
            "input": input,
            "thread_id": thread_id,
            "on_busy": on_busy,
            "deadline_ms": deadline_ms,
        }
        return await self._post("agent_request", payload, correlation_id)

    def events(self) -> Events:
        """Return everything that happens, in order, each once; one task at a time may iterate.

        These are the server's events, its `error`, `auth_expiring` and `server_draining` frames,
        and what the client itself tells: `connected`, `disconnected`, `gap`, `reset`, `lost`,
        `lagged` (see `docs/client.md`). What came before the first iteration is there too, within
        the bounds of a run that nobody reads. It ends when the client is left, and raises when the
        client fails.
        """
        return Events(self.conversation.feed)

    async def history(
        self, thread_id: str, limit: int = HISTORY_PAGE, before: str | None = None
    ) -> dict[str, Any]:
        """Return a page of a thread: `thread_id`, `messages` (oldest first), `has_more`.

        Over a lost connection it is asked again. Cancelling is safe.

        Args:
            thread_id: The thread.
            limit: The most messages to return, 1 to 100.
            before: A message id: the page ends just before it.

        Raises:
            MessageRefused: With THREAD_NOT_FOUND, or what else the server says.
            ClientError: The client ended first.
        """
        payload = {"thread_id": thread_id, "limit": limit, "before": before}
        page: Event = await self._ask("get_thread_history", payload)
        return page.payload

    async def reconnect(self) -> None:
        """Connect again after the client failed, or drop the line and do so now; wait for it.

        The session is resumed where it still is there. Cancelling is safe; it goes on trying.

        Raises:
            ClientError: As `connect`.
        """
        if self.connection.is_left:
            raise ClientClosed("the client has been left")
        self.connection.try_now()
        await self.connection.until_connected()

    async def _post(self, kind: str, payload: Mapping[str, Any], key: str | None) -> Run:
        self._check_usable()
        key = new_correlation_id() if key is None else key
        if not 1 <= len(key) <= CORRELATION_ID_CHARACTERS:
            raise ValueError(
                f"correlation_id: expected 1 to {CORRELATION_ID_CHARACTERS} characters"
            )
        entry = self.conversation.entry_of(kind, payload, key)
        # One after the other, so that they go out in the order in which they were given.
        async with self._adding:
            self._check_usable()
            self.conversation.check_room(entry)
            if self._journal is not None:
                await trio.to_thread.run_sync(self._journal.add, entry)
            wait = self.conversation.post(entry)
        try:
            run: Run = await wait.result()
        except trio.Cancelled:
            self.conversation.abandon(entry)
            raise
        return run

    async def _ask(
        self, kind: str, payload: Mapping[str, Any], *, run_id: str | None = None
    ) -> Any:
        self._check_usable()
        question = self.conversation.ask(kind, payload, run_id=run_id)
        try:
            return await question.result()
        finally:
            self.conversation.withdraw(question)

    async def _stop(self, run: Run) -> None:
        await trio.lowlevel.checkpoint()
        if run.end is None:
            await self._ask("stop_agent", {"run_id": run.run_id}, run_id=run.run_id)

    def _check_usable(self) -> None:
        if self.connection.is_left:
            raise ClientClosed("the client has been left")
        if self.connection.failure is not None:
            raise self.connection.failure.with_traceback(None)
