"""The command `chat`: talks to an agent in the terminal."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter

from netra_trio.cli.arguments import OptionalText, Text, Texts
from netra_trio.cli.chat_files import ChatFiles
from netra_trio.cli.chat_session import ChatSession
from netra_trio.cli.errors import CommandError
from netra_trio.cli.login import DEV_USER, Login, LoginError, find_server
from netra_trio.cli.terminal import Screen, restored_terminal
from netra_trio.client import (
    ClientError,
    ConnectionClosed,
    Network,
    NoAnswer,
    OpeningRefused,
    Socket,
    TokenFailed,
    connect,
)
from netra_trio.client.retry import Next, after_refusal
from netra_trio.ids import new_thread_id
from netra_trio.protocol.codes import CloseCode

ATTEMPTS = 8  # to reconnect for one message: some 45 seconds, so that a restart is survived


def chat(
    message: OptionalText = None,
    /,
    *,
    url: Text = "ws://127.0.0.1:8000/ws",
    user: OptionalText = None,
    token: OptionalText = None,
    agent: OptionalText = None,
    thread: OptionalText = None,
    attach: Annotated[Texts, Parameter(name="--attach", negative=(), show_default=False)] = (),
    save_files: OptionalText = None,
) -> None:
    """Talk to an agent in the terminal; Ctrl-C stops an answer, a second one quits.

    Parameters
    ----------
    message
        One message: print the answer and quit. Without it, a conversation.
    url
        The server's WebSocket.
    user
        The user, if the server gives tokens to developers or its secret is set here.
    token
        A token to use instead of a user.
    agent
        The agent to talk to; the server's default without it.
    thread
        The thread to continue; a new one without it.
    attach
        A file to attach to the message, or to the first one of the conversation. May be given
        more than once.
    save_files
        A folder in which the files of answers are saved; it is created if necessary.
    """
    if user is not None and token is not None:
        raise CommandError("give --user or --token, not both")
    screen = Screen(sys.stdout)
    session = ChatSession(
        screen,
        agent=agent,
        thread_id=thread or new_thread_id(),
        max_attempts=None if message is None else ATTEMPTS,
        files=ChatFiles(
            screen, [*map(Path, attach)], None if save_files is None else Path(save_files)
        ),
    )
    run = partial(run_chat, session, url, message=message, user=user or DEV_USER, token=token)
    with restored_terminal():
        code = trio.run(run)
    sys.exit(code)


async def run_chat(
    session: ChatSession, url: str, *, message: str | None, user: str, token: str | None
) -> int:
    """Talk until the input ends, or until one message is answered; return the exit code.

    A lost connection is reported and restored: a conversation tries without a limit, one message
    `ATTEMPTS` times.

    Raises:
        CommandError: There is no connection, or no token.
    """
    login = Login(url, user)
    failure: CommandError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.handle_signals, nursery)
        try:
            await (login.prepare() if token is None else find_server(url))
            async with connect(
                url,
                token=token,
                get_token=login.token if token is None else None,
                max_attempts=session.max_attempts,
                dialer=_ReportingNetwork(session.show_no_connection),
            ) as client:
                await session.run(client, message)
        except LoginError as error:
            failure = error
        except ClientError as error:
            failure = CommandError(_explain(error))
        except ValueError as error:
            failure = CommandError(f"cannot connect to {url}: {error}")
        finally:
            session.screen.end()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    # In a conversation a stopped answer is what its user asked for.
    fine = {None, "completed"} if message is not None else {None, "completed", "cancelled"}
    return 0 if session.status in fine else 1


def _explain(error: ClientError) -> str:
    """Return why the client cannot continue, for a user of the command."""
    if isinstance(error, TokenFailed) and isinstance(error.__cause__, LoginError):
        return str(error.__cause__)
    if isinstance(error, ConnectionClosed) and error.code == CloseCode.TOKEN_EXPIRED:
        return "the token has expired: start again with another one (--token)"
    return str(error)


class _ReportingNetwork(Network):
    """The network, which reports why there is no first connection: later, events do.

    Args:
        report: Called with the reason of a failed attempt.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()
        self._report = report
        self._is_first = True

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[Socket]:
        """Open a WebSocket (see `Dialer`)."""
        try:
            async with super().open(url, headers=headers, subprotocols=subprotocols) as socket:
                self._is_first = False
                yield socket
        except OpeningRefused as refused:
            if after_refusal(refused.status) is Next.RETRY:
                self._report_first(refused.reason)
            raise
        except NoAnswer as no_answer:
            self._report_first(str(no_answer))
            raise

    def _report_first(self, why: str) -> None:
        if self._is_first:
            self._report(why)
