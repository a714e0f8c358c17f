"""A chat over one client: messages out, answers in, and Ctrl-C in between."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from attrs import define, field

from netra_trio.cli.chat_files import ChatFiles
from netra_trio.cli.chat_questions import ChatQuestions
from netra_trio.cli.chat_view import ChatView
from netra_trio.cli.errors import CommandError
from netra_trio.cli.line_editor import History
from netra_trio.cli.line_input import LineInput
from netra_trio.cli.streams import OutputError
from netra_trio.cli.terminal import Screen
from netra_trio.client import Client, ClientError, Event, MessageRefused, Run
from netra_trio.protocol.codes import ErrorCode

_TEMPORARY = {
    ErrorCode.RATE_LIMIT_EXCEEDED,
    ErrorCode.QUEUE_FULL,
    ErrorCode.SERVICE_UNAVAILABLE,
}


@define(eq=False)
class ChatSession:
    """A conversation, or one message, and the run that is in progress.

    Attributes:
        screen: The output.
        agent: The agent; None for the server's default.
        thread_id: The thread. Not the default thread of the session, which ends with the session.
        max_attempts: How many connection attempts may fail in a row; None for any number.
        files: The files to attach, and where those of answers are saved.
        status: How the last run ended; None before the first end.
    """

    screen: Screen
    agent: str | None
    thread_id: str
    max_attempts: int | None
    files: ChatFiles
    status: str | None = None
    _view: ChatView = field(init=False)
    _lines: LineInput = field(init=False)
    _run: Run | None = None
    _is_stopping: bool = False
    _is_disconnected: bool = False
    _has_warned: bool = False  # that the next Ctrl-C quits, with a line that is not sent
    _shown_reasons: set[str] = field(factory=set)  # why there is no connection, since it was lost

    def __attrs_post_init__(self) -> None:
        self._view = ChatView(self.screen)
        self._lines = LineInput(self.screen, History.open(os.environ))

    async def run(self, client: Client, message: str | None) -> None:
        """Send one message, or every line of the input; return after the last answer.

        Raises:
            ClientError: The client cannot continue.
        """
        failure: ClientError | None = None
        self._is_disconnected = False
        async with trio.open_nursery() as nursery:

            async def follow_connection() -> None:
                nonlocal failure
                try:
                    async for event in client.events():
                        self._show_connection(event)
                except ClientError as error:
                    failure = error
                    nursery.cancel_scope.cancel()

            nursery.start_soon(follow_connection)
            if message is not None:
                await self._ask(client, message)
            else:
                await self._converse(client)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _converse(self, client: Client) -> None:
        self.screen.note("Type a message; Ctrl-C stops an answer, Ctrl-D quits.")
        while (line := await self._read_line()) is not None:
            self._has_warned = False
            if line.strip():
                await self._ask(client, line)

    async def _read_line(self) -> str | None:
        with _input_errors():
            return await self._lines.read()

    async def _ask(self, client: Client, content: str) -> None:
        """Send a message and show its run to the end."""
        self._is_stopping = False
        if self._is_disconnected:
            self.screen.note("… it is sent when the connection is back")
        try:
            run = await client.send(
                content,
                agent=self.agent,
                thread_id=self.thread_id,
                attachments=await self.files.upload(client),
            )
            self._run = run
            if run.status == "queued":
                self.screen.note("… waiting")
            await self._follow(client, run)
            if run.end is not None:
                self.status = run.end.payload.get("status", run.end.type)
                await self.files.show(client, run.end.payload)
        except MessageRefused as refused:
            self.screen.fault(f"{refused.error} {refused.help}")
            self.status = "failed"
        except ClientError:
            await trio.sleep_forever()  # the task that follows the connection ends everything
        finally:
            self._run = None

    async def _follow(self, client: Client, run: Run) -> None:
        """Show the events of a run to its end, and ask what its agent asks."""
        questions = ChatQuestions(client, self.screen, self._lines)
        failure: ClientError | None = None
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                nonlocal failure
                try:
                    with _input_errors():
                        await questions.ask_all()
                except ClientError as error:
                    failure = error
                    nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            try:
                async for event in run:
                    self._view.show(event)
                    questions.note(event)
            except ClientError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def handle_signals(self, nursery: trio.Nursery) -> None:
        """Stop the answer at the first Ctrl-C; quit at the second, or if there is no answer.

        A line that is typed and not sent is kept at the first Ctrl-C.
        """
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                self.screen.interrupted()
                if self._run is None and self._lines.typed and not self._has_warned:
                    self._has_warned = True
                    self.screen.note("Ctrl-C again quits; Ctrl-U clears the line.")
                    self.screen.prompt(self._lines.typed)
                    continue
                if self._run is None or self._is_stopping or self._is_disconnected:
                    self.status = self.status or "cancelled"
                    nursery.cancel_scope.cancel()
                    return
                self._is_stopping = True
                nursery.start_soon(self._stop, self._run)

    async def _stop(self, run: Run) -> None:
        try:
            await run.stop()
        except MessageRefused as refused:
            self._is_stopping = False  # the run continues, and the next Ctrl-C tries again
            self.screen.fault(f"{refused.error} {refused.help}")
        except ClientError:
            return  # the task that follows the connection reports it

    def show_no_connection(self, why: str) -> None:
        """Show why there is no connection; each reason once until there is one."""
        self._is_disconnected = True
        if why in self._shown_reasons:
            return
        reason = f"connected: {why.rstrip('.')}."
        if self._shown_reasons:
            self.screen.note(f"Still not {reason}")
        elif self.max_attempts is None:
            self.screen.note(f"Not {reason} Trying until it is back; Ctrl-C quits.")
        else:
            self.screen.note(f"Not {reason} Trying {self.max_attempts} times at most.")
        self._shown_reasons.add(why)

    def _show_connection(self, event: Event) -> None:
        """Show an event that does not belong to a run."""
        if event.type == "server_draining":
            self.screen.note("The server is about to restart.")
        elif event.type == "usage_warning":
            self._view.show(event)
        elif event.type == "disconnected":
            self.show_no_connection(event.payload["reason"])
        elif event.type == "connected":
            self._is_disconnected = False
            if self._shown_reasons:
                self._shown_reasons.clear()
                self._view.show_connected(event.payload["verdict"])
        elif event.type == "error" and event.payload["code"] in _TEMPORARY:
            self.screen.note(f"… {event.payload['error']} It is sent again.")


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise CommandError(f"cannot read standard input: {error.strerror}") from None
