"""The client: it keeps a connection, and reconnects when the connection is lost.

async with connect("ws://localhost:8000/ws", token=token) as client:
    run = await client.send("hello")
    async for event in run:
        print(event.type, event.payload)
"""

import random as random_module
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import orjson
import trio

from netra_trio.client.errors import ClientClosed
from netra_trio.client.event import BINARY, Event
from netra_trio.client.feed import Events
from netra_trio.client.files import Download, File, FileTransfers, Progress
from netra_trio.client.manager import ConnectionManager
from netra_trio.client.membership import Place
from netra_trio.client.messages import check_key
from netra_trio.client.network import Network
from netra_trio.client.outbox_file import OutboxFile
from netra_trio.client.retry import BackOff
from netra_trio.client.rooms import Room, entered_room
from netra_trio.client.run import Run
from netra_trio.client.session import ClientSession
from netra_trio.client.sockets import Dialer
from netra_trio.client.stats import Stats, Status
from netra_trio.client.threads import Threads
from netra_trio.client.tokens import GetToken, Tokens
from netra_trio.client.watch import Watch, watched_thread
from netra_trio.errors import is_only
from netra_trio.ids import new_correlation_id
from netra_trio.protocol.fields import HISTORY_PAGE

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
    random: Callable[[], float] = random_module.random,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncIterator["Client"]:
    """Open a client, and keep it connected until the block is left.

    It waits for the first connection. When a connection is lost, the client reconnects with
    exponential back-off, resumes the session, and sends unconfirmed messages again. Leaving the
    block closes with 1000 and waits for every task; messages that are not confirmed by then are
    lost, unless there is an `outbox`. Cancelling is safe, and takes 2 seconds at most. An exception
    of the block is raised as it is, not in a group.

    Args:
        url: The server's WebSocket, such as `wss://example.com/ws`.
        token: A JSON Web Token.
        get_token: Instead of `token`: an async function that returns one, called before the first
            connection, before the token expires, and after a 401. It may raise `TokenUnavailable`
            or `OSError` if there is no token now; other exceptions end the client: `TokenFailed`.
        max_attempts: How many attempts may fail in a row; None for any number.
        outbox: A file for unconfirmed messages. A client that is opened with it later sends them
            under their keys; their events are in `Client.events`.
        dialer: Another network, for tests.
        random: Returns a number from 0 to 1: the jitter of the pauses between attempts.
        wall_clock: Returns Unix seconds.

    Raises:
        ConnectionRefused: The server refused the upgrade, and trying again would not help.
        ConnectionClosed: It closed the first connection, and trying again would not help.
        GaveUp: `max_attempts` attempts failed.
        TokenFailed: `get_token` raised.
        OutboxUnusable: The file cannot be used.
        RuntimeError: The caller is not a Trio task, but one of asyncio, for example.
        ValueError: Not exactly one of `token` and `get_token` is given, or the url is invalid.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "netra_trio.client.connect needs a Trio task; docs/client.md, 'In an asyncio program', "
            "shows how to run one from asyncio"
        )
    stats = Stats()
    tokens = Tokens(token, get_token)
    with ExitStack() as files:
        file = None if outbox is None else files.enter_context(OutboxFile.open(Path(outbox)))
        dialer = Network() if dialer is None else dialer
        transfers = FileTransfers(url, dialer=dialer, tokens=tokens, random=random)
        client = Client(file, stats, wall_clock, transfers)
        client.connection = ConnectionManager(
            url,
            dialer=dialer,
            tokens=tokens,
            back_off=BackOff(max_attempts),
            session=client.session,
            stats=stats,
            random=random,
        )
        async with _connected(client):
            yield client


@asynccontextmanager
async def _connected(client: "Client") -> AsyncIterator[None]:
    body: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.connection.run)
            try:
                await client.connection.until_connected()
                yield
            except BaseException as error:
                body = error
                raise
            finally:
                await client.connection.close()
    except BaseExceptionGroup as group:
        # `except MessageRefused` around the block has to match the error of the block, which the
        # nursery has put into a group.
        if body is None or not is_only(group, body):
            raise
    finally:
        client.connection.status = Status.DISCONNECTED
        client.session.fail(None, ClientClosed("the client was left"))
    if body is not None:
        raise body


class Client:
    """A client that `connect` has opened.

    Its methods are for tasks of one Trio program; several tasks may use it concurrently.

    Attributes:
        session: Handles the frames; for `connect`.
        connection: Keeps the connection; for `connect`.
    """

    connection: ConnectionManager

    def __init__(
        self,
        file: OutboxFile | None,
        stats: Stats,
        wall_clock: Callable[[], float],
        files: FileTransfers,
    ) -> None:
        self.session = ClientSession(stats=stats, file=file, stop=self._stop, wall_clock=wall_clock)
        self._stats = stats
        self._file = file
        self._files = files
        self._adding = trio.Lock()

    @property
    def status(self) -> Status:
        """The status of the client."""
        return self.connection.status

    @property
    def stats(self) -> Stats:
        """The live counters, not a copy."""
        self._stats.queued = len(self.session)
        return self._stats

    @property
    def config(self) -> Mapping[str, Any]:
        """The discovery document of the server; empty if the server gave none."""
        return self.connection.config or {}

    @property
    def agents(self) -> Sequence[Mapping[str, Any]]:
        """The agents of the server, the default one first: `name`, `title`, `examples` of each."""
        return self.session.agents

    @property
    def user_room(self) -> str:
        """The name of the room of the user; all its sessions may join it and publish to it."""
        return self.session.user_room

    async def send(
        self,
        content: str,
        *,
        thread_id: str | None = None,
        agent: str | None = None,
        on_busy: OnBusy | None = None,
        deadline_ms: int | None = None,
        correlation_id: str | None = None,
        replaces: str | None = None,
        attachments: Sequence[str] = (),
        data: bytes | None = None,
        media_type: str | None = None,
    ) -> Run:
        """Send a message to an agent; return when the server has confirmed it.

        While there is no connection, it waits. After a temporary error the message is sent again
        later, and later messages wait. If it is cancelled before the message was written, the
        message is not sent; afterwards it stays in the outbox, and its events are in `events`.

        Args:
            content: The text.
            thread_id: The thread; the session's own if None.
            agent: The agent; the server's default if None.
            on_busy: What to do if the thread has a run already; `enqueue` if None.
            deadline_ms: Milliseconds that the run may take.
            correlation_id: The key: a second message with the same key and content is a duplicate
                and starts nothing, even after a restart. A new key if None.
            replaces: A message of the thread: its question and all later ones leave the history.
            attachments: The ids of up to 16 files that were uploaded, see `upload`.
            data: The content of a small attachment, which is sent with the message in one frame, in
                place of `attachments`; larger content has to be uploaded. It needs a connection
                with `netra.v2`.
            media_type: The type of `data`, for example `image/png`.

        Raises:
            MessageRefused: The server refused it, or it is too large, or it has data, and the
                connection is not one of `netra.v2`.
            OutboxFull: Too many messages are unconfirmed.
            OutboxUnusable: It could not be written to the file of the outbox.
            ConnectionRefused, ConnectionClosed, GaveUp, TokenFailed: The client has stopped
                connecting. The message stays in the outbox, and is sent after `reconnect`.
            ClientClosed: The client was left.
            ValueError: The correlation id is not 1 to 128 characters; or of `data` and
                `media_type` there is only one; or there are `attachments` beside them.
        """
        if (data is None) is not (media_type is None) or (data is not None and attachments):
            raise ValueError("expected data and media_type without attachments, or neither of them")
        files: list[Any] = list(attachments)
        if data is not None:
            data, files = bytes(data), [{"media_type": media_type}]
        payload = {
            "content": content,
            "thread_id": thread_id,
            "agent": agent,
            "on_busy": on_busy,
            "deadline_ms": deadline_ms,
            "replaces": replaces,
            "attachments": files or None,
        }
        return await self._post("user_message", payload, correlation_id, data)

    async def request(
        self,
        agent: str,
        input: dict[str, Any] | str,  # noqa: A002 - its name in the protocol
        *,
        thread_id: str | None = None,
        on_busy: OnBusy | None = None,
        deadline_ms: int | None = None,
        correlation_id: str | None = None,
        attachments: Sequence[str] = (),
    ) -> Run:
        """Send an `agent_request` with structured input; otherwise like `send`."""
        payload = {
            "agent": agent,
            "input": input,
            "thread_id": thread_id,
            "on_busy": on_busy,
            "deadline_ms": deadline_ms,
            "attachments": list(attachments) or None,
        }
        return await self._post("agent_request", payload, correlation_id)

    async def upload(
        self,
        source: str | Path | bytes | AsyncIterable[bytes],
        *,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> File:
        """Upload a file, for the `attachments` of messages within 24 hours.

        It needs no connection of the client. An upload that breaks off, or is refused temporarily,
        is repeated with growing pauses. An upload of an iterable is not repeated, because an
        iterable can be read only once. Cancelling is safe: the server then has no file.

        Args:
            source: A path, the content, or an async iterable of its pieces; a generator is
                closed at the end.
            name: Its name; by default that of the path, or none.
            progress: Called with the bytes that were sent, and the size or None.

        Raises:
            MessageRefused: The server refused it, for example with MESSAGE_TOO_LARGE, or with
                QUEUE_FULL if the files of the user would be too many bytes.
            TransferFailed: It broke off too often.
            TokenFailed: `get_token` raised.
            OSError: The file cannot be read.
            ValueError: The file has changed meanwhile.
        """
        return await self._files.upload(source, name=name, progress=progress)

    def download(self, file_id: str) -> AbstractAsyncContextManager[Download]:
        """Download a file in an `async with` block, which returns a `Download`.

        Iterating over it gives chunks of at most 64 KiB. A transfer that breaks off continues where
        it was. Cancelling is safe.

        Args:
            file_id: A file of the user, for example of `attachments` in an `agent_completed`.

        Raises:
            MessageRefused: The server refused it, for example with FILE_NOT_FOUND.
            TransferFailed: It broke off too often.
        """
        return self._files.download(file_id)

    async def data_of(self, event: Event) -> bytes:
        """Return the data of a `binary_result`; download it if it did not come with the event.

        Cancelling is safe.

        Raises:
            ValueError: The event is not a `binary_result`.
            MessageRefused: The server refused the download, for example with FILE_NOT_FOUND.
            TransferFailed: It broke off too often.
        """
        file_id = event.payload.get("file_id")
        if event.type != BINARY or not isinstance(file_id, str):
            raise ValueError(f"expected a {BINARY}, got {event.type}")
        if event.data is not None:
            await trio.lowlevel.checkpoint()
            return event.data
        async with self.download(file_id) as download:
            return b"".join([chunk async for chunk in download])

    async def answer(
        self,
        question_id: str,
        *,
        answer: Any = None,
        approve: bool | None = None,
    ) -> Event:
        """Answer a question of an agent (`agent_asking`); return its `agent_answered`.

        The first answer of any session counts. If the connection is lost, the answer is sent again.
        Cancelling is safe; the answer may have been sent.

        Args:
            question_id: The question.
            answer: The answer to a question: a value of JSON that fits its schema, and not null.
            approve: The answer to an approval.

        Raises:
            MessageRefused: With ANSWER_REJECTED: the question is closed or unknown, or the answer
                does not fit. If the session was lost meanwhile, this answer may have closed it.
            ClientError: The client ended first.
            ValueError: Not exactly one of `answer` and `approve` is given.
            TypeError: The answer cannot be encoded as JSON.
        """
        if (answer is None) == (approve is None):
            raise ValueError("expected either an answer or approve")
        self._check_usable()
        # Compared with what comes back, so as JSON has it: a tuple is an array.
        payload = orjson.loads(
            orjson.dumps({"question_id": question_id, "answer": answer, "approve": approve})
        )
        # A frame beyond the limit would end each connection that it is sent over.
        self.session.check_size("answer", payload)
        closed = await self.session.requests.ask("answer", payload)
        assert closed is not None  # noqa: S101 - only a request to stop a run is settled with None
        return closed

    def events(self) -> Events:
        """Return all events in order, each once; one task at a time may iterate.

        These are the server's events, its `error`, `auth_expiring` and `server_draining` frames,
        and the client's own events: `connected`, `disconnected`, `gap`, `reset`, `lost`, `lagged`
        (see `docs/client.md`). Events from before the first iteration are included, within the
        bounds for events that no task reads. The iteration ends when the client is left, and raises
        when the client fails.
        """
        return Events(self.session.feed)

    async def history(
        self, thread_id: str, limit: int = HISTORY_PAGE, before: str | None = None
    ) -> dict[str, Any]:
        """Return a page of a thread: `thread_id`, `messages` (oldest first), `has_more`.

        If the connection is lost, the request is sent again. Cancelling is safe.

        Args:
            thread_id: The thread.
            limit: The most messages to return, 1 to 100.
            before: A message id: the page ends just before it.

        Raises:
            MessageRefused: The server refused it, for example with THREAD_NOT_FOUND.
            ClientError: The client ended first.
        """
        payload = {"thread_id": thread_id, "limit": limit, "before": before}
        self._check_usable()
        page = await self.session.requests.ask("get_thread_history", payload)
        assert page is not None  # noqa: S101 - only a request to stop a run is settled with None
        return page.payload

    def room(
        self, name: str, after: int | None = None, epoch: str | None = None
    ) -> AbstractAsyncContextManager[Room]:
        """Join a room during an `async with` block, which returns a `Room`.

        The block begins when the server has confirmed the join, and leaves the room at its end.
        After a lost connection the client joins again automatically, from its last position: no
        event is repeated, and a `room_gap` reports each loss. Blocks for the same room share one
        membership. Cancelling is safe.

        Args:
            name: The room.
            after: The offset after which events are requested; None for new ones only.
            epoch: The epoch of `after`.

        Raises:
            MessageRefused: The user has no permission to join (FORBIDDEN), or the client is in too
                many rooms (QUEUE_FULL).
            ClientError: The client ended first.
            ValueError: `epoch` is given without `after`.
        """
        if after is None and epoch is not None:
            raise ValueError("epoch: expected together with after")
        self._check_usable()
        return entered_room(self.session, name, None if after is None else Place(after, epoch))

    def watch(self, thread_id: str, owner: str | None = None) -> AbstractAsyncContextManager[Watch]:
        """Watch a thread during an `async with` block, which returns a `Watch`.

        It has the runs of all sessions, also of this client. After a lost connection the client
        watches again automatically. Cancelling is safe.

        Args:
            thread_id: The thread; it need not exist yet.
            owner: The user of the thread, if it is another user.

        Raises:
            MessageRefused: The user has no permission to watch it (FORBIDDEN), or the client is in
                too many rooms (QUEUE_FULL).
            ClientError: The client ended first.
        """
        self._check_usable()
        return watched_thread(self.session, thread_id, owner)

    def threads(self) -> Threads:
        """Return the threads of the user: to list and change them, and to iterate over changes.

        Each call returns a new object with its own iteration.

        Raises:
            ClientError: The client has ended.
        """
        self._check_usable()
        return Threads(self.session)

    async def reconnect(self) -> None:
        """Connect again now, after a failure or instead of the present connection; wait for it.

        The session is resumed if the server still has it. Cancelling is safe; the client continues
        to connect.

        Raises:
            ClientError: As `connect`.
        """
        if self.connection.is_left:
            raise ClientClosed("the client was left")
        self.connection.try_now()
        await self.connection.until_connected()

    async def _post(
        self, kind: str, payload: Mapping[str, Any], key: str | None, data: bytes | None = None
    ) -> Run:
        self._check_usable()
        key = new_correlation_id() if key is None else key
        check_key(key)
        messages = self.session.messages
        message = messages.make(kind, payload, key, data)
        # One after the other, so that they are sent in the order of the calls.
        async with self._adding:
            self._check_usable()
            self.session.check_room(message)
            if self._file is not None:
                await trio.to_thread.run_sync(self._file.add, message)
            reply = messages.post(message)
        try:
            run = await reply.result()
        except trio.Cancelled:
            messages.abandon(message)
            raise
        assert run is not None  # noqa: S101 - a message is settled with its run
        return run

    async def _stop(self, run: Run) -> None:
        await trio.lowlevel.checkpoint()
        if run.end is None:
            self._check_usable()
            payload = {"run_id": run.run_id}
            await self.session.requests.ask("stop_agent", payload, run_id=run.run_id)

    def _check_usable(self) -> None:
        if self.connection.is_left:
            raise ClientClosed("the client was left")
        if self.connection.failure is not None:
            raise self.connection.failure.with_traceback(None)
