"""The part of a connection that its requests and WebSockets use."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn.inbox import AppInbox
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.transports.asgi import EXTENSION
from netra_trio.transports.pacing import Turns

AppSend: TypeAlias = Callable[[ASGISendEvent | None], Awaitable[None]]


class StreamHost(ABC):
    """A connection of HTTP/1.1, or a stream of HTTP/2.

    Hypercorn's classes use it as their task group.

    Attributes:
        config: Hypercorn's configuration.
        context: Hypercorn's state of the server.
        limits: The limits of the settings.
        turns: The turns that all connections of the process share.
    """

    config: Config
    context: WorkerContext
    limits: Limits
    turns: Turns

    @property
    @abstractmethod
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""

    @property
    @abstractmethod
    def timed_out(self) -> bool:
        """Whether that is because the peer took nothing for the send timeout."""

    @abstractmethod
    def spawn(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a task whose exception ends this connection or stream, and nothing else."""

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: AppSend
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for an HTTP request; return what passes messages to it."""
        del config  # the host's own
        # Its sends are bounded by the progress of the peer. A stream ends by a drain only, and the
        # lifespan of Hypercorn's command ends when all streams have ended.
        own = {EXTENSION: {"terminated": self.context.terminated.wait}}
        extensions: dict[str, Any] = {**cast("Any", scope).get("extensions", {}), **own}
        bounded = cast("Scope", {**scope, "extensions": extensions})
        return self.start_app(app, bounded, self._checked(send)).put

    def start_app(self, app: AppWrapper, scope: Scope, send: AppSend) -> AppInbox:
        """Start the application and return its inbox."""
        inbox = AppInbox(self.config.max_app_queue_size)
        self.spawn(self._run_app, app, scope, inbox, send)
        return inbox

    def _checked(self, send: AppSend) -> AppSend:
        """Return a send that raises `TransportClosed` when the peer is lost."""

        async def checked(message: ASGISendEvent | None) -> None:
            if message is not None and self.is_lost:
                await trio.lowlevel.checkpoint()
                raise TransportClosed(timed_out=self.timed_out)
            await send(message)
            if message is not None and self.is_lost:
                raise TransportClosed(timed_out=self.timed_out)

        return checked

    async def _run_app(self, app: AppWrapper, scope: Scope, inbox: AppInbox, send: AppSend) -> None:
        await self.turns.take()  # many requests that come at once must not delay other tasks
        receive = cast("Callable[[], Awaitable[ASGIReceiveEvent]]", inbox.receive)
        try:
            await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except* TransportClosed:
            pass  # the application ended because its connection is lost: no fault of it
        except* Exception:
            await self.config.log.exception("Error in ASGI Framework")
        finally:
            inbox.close()
        await send(None)
