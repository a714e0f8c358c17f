"""A connection that is opened again whenever it ends.

lasting = LastingConnection("commands", dialer, use=listen)
async with trio.open_nursery() as nursery:
    nursery.start_soon(lasting.run)
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
import trio
from attrs import Factory, define, field

from netra_trio.broker.base import ANSWER_SECONDS
from netra_trio.broker.valkey.connection import Command, Connection, Reply, failed
from netra_trio.broker.valkey.dialing import Dialer, Server
from netra_trio.errors import BrokerUnavailable, BrokerUnusable, place_of

BACK_OFF_SECONDS = (0.05, 2.0)  # the ceiling of the first pause, and of any
POLICY_ADVICE = "let the user run INFO, or make sure that maxmemory-policy is noeviction"
STEADY_SECONDS = 1.0  # a connection that lasted this long resets the pauses

_log = structlog.get_logger(__name__)


async def _nothing(_: Connection) -> None:
    await trio.sleep_forever()


@define(eq=False)
class LastingConnection:
    """A lasting connection to the server.

    Attributes:
        name: For log lines.
        with_scripts: Whether scripts are loaded and the server is checked at each connection.
        use: Runs beside each connection; if it ends, the connection is closed and a new one opened.
        on_push: Called with each push message.
        on_error: Called with the code of each error reply.
        connection: The current connection; None between two.
        fault: Why there is none.
        unusable: Why the server cannot be used, if that is so; it is tried again all the same.
        server: What the server told of itself.
        connections: How many there have been.
        is_up: Set by the first connection.
    """

    name: str
    dialer: Dialer
    with_scripts: bool = False
    use: Callable[[Connection], Awaitable[None]] = _nothing
    on_push: Callable[[list[Any]], None] = lambda _: None
    on_error: Callable[[str], None] = lambda _: None
    connection: Connection | None = None
    fault: str = Factory(lambda self: f"{self.dialer.address.place} does not answer", True)
    unusable: str | None = None
    server: Server | None = None
    connections: int = 0
    is_up: trio.Event = field(factory=trio.Event)
    _chance: random.Random = field(factory=random.Random)

    def submit(
        self,
        commands: Sequence[Command],
        *,
        seconds: float = ANSWER_SECONDS,
        is_bulk: bool = False,
    ) -> Reply:
        """Send commands on the current connection; without one, the reply fails at once."""
        if self.connection is None:
            return failed(self.fault)
        return self.connection.submit(commands, seconds=seconds, is_bulk=is_bulk)

    def subscribe(self, command: Command) -> Reply:
        """Send a command that has no reply but push messages, or an error."""
        if self.connection is None:
            return failed(self.fault)
        return self.connection.subscribe(command)

    async def dial(self) -> Connection:
        """Try once to connect; `run` has to follow.

        Raises:
            BrokerUnavailable: If the server does not answer now.
            BrokerUnusable: If it can never work.
        """
        try:
            connection, server = await self.dialer.dial(
                number=self.connections + 1, with_scripts=self.with_scripts
            )
        except BrokerUnavailable as error:
            self.fault = str(error)
            raise
        except BrokerUnusable as error:
            self.fault = self.unusable = str(error)
            raise
        self.connections += 1
        self.unusable, self.server = None, server or self.server
        connection.on_push, connection.on_error = self.on_push, self.on_error
        self.connection = connection
        self.is_up.set()
        return connection

    async def run(self) -> None:
        """Keep the connection open, until cancelled."""
        failures, told = 0, ""
        while True:
            try:
                connection = self.connection or await self.dial()
            except (BrokerUnavailable, BrokerUnusable) as error:
                failures += 1
                if str(error) != told:
                    told = str(error)
                    _log.warning("broker_unavailable", connection=self.name, reason=told)
                await self._pause(failures)
                continue
            if told:
                _log.info("broker_available", connection=self.name)
            if self.with_scripts and self.server is not None and self.server.policy is None:
                _log.warning("broker_policy_unknown", advice=POLICY_ADVICE)
            started = trio.current_time()
            told = await self._serve(connection)
            _log.warning("broker_unavailable", connection=self.name, reason=told)
            failures = 0 if trio.current_time() - started >= STEADY_SECONDS else failures + 1
            await self._pause(failures)

    async def _serve(self, connection: Connection) -> str:
        """Run a connection and what uses it, until one of them ends; return why."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._use, connection)
                self.fault = await connection.run()
                nursery.cancel_scope.cancel()
        finally:
            self.connection = None
        return self.fault

    async def _use(self, connection: Connection) -> None:
        try:
            await self.use(connection)
        except BrokerUnavailable as error:
            connection.close(str(error))
        except Exception as error:
            _log.error("broker_failed", fault=type(error).__name__, where=place_of(error))
            connection.close("the listener failed")
        else:
            connection.close("the listener has ended")

    async def _pause(self, failures: int) -> None:
        """Wait; longer after each failure, and not in step with other nodes."""
        first, longest = BACK_OFF_SECONDS
        ceiling = min(longest, first * 2 ** min(failures, 16))
        await trio.sleep(ceiling * self._chance.uniform(0.5, 1.0))
