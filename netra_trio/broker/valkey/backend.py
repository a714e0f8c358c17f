"""The directory, the broker and the limits of one node, on a Valkey or Redis server.

    backend = ValkeyBackend(node, "redis://127.0.0.1:6379")
    async with backend.open():
        await backend.directory.renew()

It has three connections: one for commands, one for the blocking read of the node's inbox (a server
takes no other command from a connection that waits), and one for push messages.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import trio
from attrs import define, field

from netra_trio.broker.base import ANSWER_SECONDS
from netra_trio.broker.valkey import keys, scripts
from netra_trio.broker.valkey.calls import Calls, checked, evaluation, milliseconds
from netra_trio.broker.valkey.connection import Command
from netra_trio.broker.valkey.dialing import Dialer, Server, exchange, limited
from netra_trio.broker.valkey.directory import INBOX_SECONDS, ValkeyDirectory
from netra_trio.broker.valkey.inbox import Inbox
from netra_trio.broker.valkey.lasting import LastingConnection
from netra_trio.broker.valkey.limits import ValkeyLimits
from netra_trio.broker.valkey.listening import PROBE_SECONDS
from netra_trio.broker.valkey.rooms import ValkeyBroker
from netra_trio.broker.valkey.threads import ValkeyThreads
from netra_trio.broker.valkey.usage import ValkeyUsage
from netra_trio.config.redis_url import parse
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId

UNHEALTHY_SECONDS = 5.0  # of lag


@define(eq=False)
class ValkeyBackend:
    """The `Backend` of one node.

    Attributes:
        node: The node.
        url: Where the server is; a value of REDIS_URL.

    Raises:
        BrokerUnusable: If a file that the URL names cannot be used.
        ValueError: If the URL is invalid; the text contains nothing of it.
    """

    node: NodeId
    url: str = field(repr=False)
    directory: ValkeyDirectory = field(init=False)
    broker: ValkeyBroker = field(init=False)
    limits: ValkeyLimits = field(init=False)
    threads: ValkeyThreads = field(init=False)
    usage: ValkeyUsage = field(init=False)
    _lasting: tuple[LastingConnection, LastingConnection, LastingConnection] = field(init=False)
    _inbox: Inbox = field(init=False)
    _calls: Calls = field(init=False)
    _probe_command: Command = field(init=False)

    def __attrs_post_init__(self) -> None:
        address = parse(self.url)
        self._probe_command = evaluation(
            scripts.PROBE,
            [keys.inbox(self.node)],
            [milliseconds(INBOX_SECONDS), keys.node_channel(address.database, self.node)],
        )
        dialer = Dialer(address, f"netra-trio:{self.node}", [self._probe_command])
        commands = LastingConnection("commands", dialer, with_scripts=True)
        self._calls = Calls(commands)
        commands.on_error = self._calls.reload
        self._inbox = Inbox(self.node)
        self.directory = ValkeyDirectory(self.node, self._calls, self._inbox)
        self.broker = ValkeyBroker(self.node, self._calls, address.database, dialer)
        self.limits = ValkeyLimits(self.node, self._calls)
        self.threads = ValkeyThreads(self.node, self._calls)
        self.usage = ValkeyUsage(self.node, self._calls)
        inbox = LastingConnection("inbox", dialer, use=self._inbox.listen)
        self._lasting = (commands, inbox, self.broker.lasting)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the connections open; waits for the first one, for `ANSWER_SECONDS` at most.

        They work also while the task of the block is cancelled.

        Raises:
            BrokerUnusable: If the server can never work; the text says what to do.
        """
        commands = self._lasting[0]
        patience = trio.current_time() + ANSWER_SECONDS
        with trio.move_on_at(patience), suppress(BrokerUnavailable):
            await commands.dial()  # if it fails now, the lasting connection tries again, and logs
        async with trio.open_nursery() as nursery:
            stop = await nursery.start(self._work)
            try:
                if commands.connection is not None:
                    with trio.move_on_at(patience):
                        for lasting in self._lasting:
                            await lasting.is_up.wait()
                yield
            finally:
                stop.cancel()

    async def try_out(self) -> tuple[Server, int]:
        """Connect once and try what a server needs, without `open`; nothing is left behind.

        Returns:
            What the server tells of itself, and the number of live nodes.

        Raises:
            BrokerUnavailable: If it does not answer, or takes no writes now.
            BrokerUnusable: If it can never work.
        """
        commands = self._lasting[0]
        connection = await commands.dial()
        with limited(commands.dialer.address.place, ANSWER_SECONDS):
            try:
                replies = await exchange(
                    connection.stream,
                    connection.reader,
                    [
                        self._probe_command,
                        ("DEL", keys.inbox(self.node)),
                        evaluation(scripts.NODES, [keys.NODES], [keys.LEASE_PREFIX]),
                    ],
                )
            finally:
                await trio.aclose_forcefully(connection.stream)
        leases = [checked(reply) for reply in replies][-1]
        return commands.server or Server("", None), len(leases) // 2

    async def _work(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope(shield=True) as stop:
            async with trio.open_nursery() as nursery:
                for lasting in self._lasting:
                    nursery.start_soon(lasting.run)
                nursery.start_soon(self._probe)
                task_status.started(stop)

    async def _probe(self) -> None:
        """Send probes the way of all messages; a listener that receives none is connected again."""
        _, inbox, events = self._lasting
        while True:
            sent_at = trio.current_time()
            try:
                await self._calls.run_all([self._probe_command])
            except BrokerUnavailable:
                pass  # each call tells its own caller
            else:
                for lasting, each in (
                    (inbox, self._inbox.listening),
                    (events, self.broker.listening),
                ):
                    each.note_probe(sent_at)
                    if each.is_silent and lasting.connection is not None:
                        lasting.connection.close("the listener receives nothing")
                        each.forget()
            await trio.sleep(PROBE_SECONDS)

    async def check(self) -> None:
        """Return if the server can answer now, and the listeners receive.

        Raises:
            BrokerUnavailable: If not; the text has the reason.
        """
        unusable = self._lasting[0].unusable
        if unusable is not None:
            raise BrokerUnavailable(unusable)
        await self._calls.run_all([("PING",)])
        for name, each in (("inbox", self._inbox.listening), ("events", self.broker.listening)):
            if each.lag > UNHEALTHY_SECONDS:
                raise BrokerUnavailable(
                    f"the listener of the {name} has received nothing for {each.lag:.0f} s"
                )

    def statistics(self) -> Mapping[str, float]:
        """Return figures for the metrics.

        `lag` is the age of the newest sign of life of the listener that has none for longest, in
        seconds; `reconnects` counts lost connections; `outstanding_bytes` wait for the server.
        """
        connection = self._lasting[0].connection
        return {
            "lag": max(self._inbox.listening.lag, self.broker.listening.lag),
            "reconnects": float(sum(max(0, lasting.connections - 1) for lasting in self._lasting)),
            "outstanding_bytes": float(connection.outstanding_bytes if connection else 0),
        }
