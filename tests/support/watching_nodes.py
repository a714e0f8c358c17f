"""A seeded simulation of watchers of one thread on three nodes, in virtual time.

    violations = simulate(seed, faulty=True)

Clients send messages to one thread. Others watch it, lose their connections, and come back at any
node. Calls of the broker are late, and fail if the simulation is faulty.
"""

from functools import partial
from random import Random
from typing import Any

import trio
from attrs import define, field

from netra_trio.agents.run import Run
from netra_trio.broker.base import RENEW_SECONDS
from netra_trio.errors import TransportClosed
from support.memory import Client
from support.seeds import in_virtual_time, run_seeds
from support.shared_nodes import LinkedNode, open_nodes
from support.watching import THREAD, Frame, View

BUSY_SECONDS = 12.0
QUIET_SECONDS = 8.0  # after the last run: all gaps are known then
DELAY = 0.02


async def words(run: Run) -> None:
    """Emit words at random times."""
    random = Random(run.content)  # noqa: S311 - no secret
    for number in range(20):
        await run.emit(f"{run.content}.{number} ")
        if random.random() < 0.5:
            await trio.sleep(random.choice([0, 0.01, 0.2]))


def whole(content: str) -> str:
    return "".join(f"{content}.{number} " for number in range(20))


@define(eq=False)
class Watcher:
    """A client that watches, loses its connection, and does what it has to after a gap."""

    nodes: tuple[LinkedNode, ...]
    random: Random
    view: View = field(factory=View)
    is_whole: bool = False  # whether it has watched, and has got no gap since
    verdicts: list[str] = field(factory=list)

    def violations(self, *, faulty: bool) -> list[str]:
        """Return what is wrong with what is shown in the end."""
        view, found = self.view, []
        if not faulty and (view.gaps or not set(self.verdicts) <= {"new", "exact"}):
            found.append(f"gaps without a fault: {view.gaps} {self.verdicts}")
        for run_id, text in view.texts.items():
            message = view.messages.get(run_id, {"content": text.partition(".")[0]})
            if (text, view.statuses[run_id]) != (whole(message["content"]), "completed"):
                found.append(f"{message['content']}: {text!r} {view.statuses[run_id]}")
        return found

    async def run(self, has_ended: trio.Event) -> None:
        """Watch until a moment after the last run."""
        while not has_ended.is_set():
            seconds = self.random.choice([0.1, 0.5, 2, 5])
            await self._connect(seconds)
            await trio.sleep(self.random.choice([0, 0.05, 1]))
        await self._connect(QUIET_SECONDS)

    async def _connect(self, seconds: float) -> None:
        """Watch over one connection, and cut it."""
        client = self.random.choice(self.nodes).start()
        with trio.move_on_after(seconds):
            await self._use(client)
        client.peer.cut()
        await client.done.wait()

    async def _use(self, client: Client) -> None:
        await client.expect("connection_established")
        await self._watch(client)
        while True:
            try:
                frame = await client.next()
            except TransportClosed:
                return
            self.view.take(frame)
            if frame["type"] == "room_gap":
                self.is_whole = False
                await self._watch(client)

    async def _watch(self, client: Client) -> None:
        """Watch; until the reply, events of the earlier membership still count."""
        epoch, offset = self.view.place
        place: Frame = {"epoch": epoch, "after": offset} if self.is_whole else {}
        while True:
            await client.send("watch_thread", {"thread_id": THREAD, **place}, "watch")
            frame = await client.next()
            while frame["type"] in {"room_event", "room_gap"}:
                self.view.take(frame)
                frame = await client.next()
            if frame["type"] == "room_joined":
                break
            assert frame["payload"]["recoverable"], frame
            await trio.sleep(0.3)
        verdict = frame["payload"]["verdict"]
        self.verdicts.append(verdict)
        if verdict != "exact":  # runs that are not listed have ended: it reads the history
            for known in (self.view.texts, self.view.statuses, self.view.messages):
                known.clear()
        self.view.join(frame)
        self.is_whole = True


async def ask(nodes: tuple[LinkedNode, ...], name: str, random: Random, until: float) -> None:
    """Send messages, and wait for all answers."""
    async with random.choice(nodes).connect() as client:
        number = waiting = 0
        while trio.current_time() < until or waiting:
            if trio.current_time() < until:
                number, waiting = number + 1, waiting + 1
                await client.say(f"{name}-{number}", thread_id=THREAD)
            while waiting > 1 or (waiting and random.random() < 0.7):
                end = (await client.until("agent_completed"))[-1]
                assert end["payload"]["status"] == "completed"
                waiting -= 1
            await trio.sleep(random.choice([0, 0.1, 1]))


async def break_things(nodes: tuple[LinkedNode, ...], random: Random, until: float) -> None:
    while trio.current_time() < until:
        await trio.sleep(random.uniform(0.5, 3))
        link = random.choice(nodes).link
        link.is_cut = True
        await trio.sleep(random.choice([0.1, 0.5, 1.5]))
        link.is_cut = False


async def run_script(seed: int, *, faulty: bool) -> list[str]:
    """Run a script; return what went wrong."""
    random = Random(seed)  # noqa: S311 - no secret

    async def delay(_name: str) -> None:
        await trio.sleep(random.uniform(0, DELAY))

    options: dict[str, Any] = {
        "heartbeat_interval_ms": 3_600_000,
        "max_connections_per_user": 100,
        "max_message_rate": 10_000,
    }
    async with open_nodes(3, agents={"words": words}, **options) as nodes:
        await trio.sleep(2 * RENEW_SECONDS)
        for node in nodes:
            node.link.on_call = delay
        until = trio.current_time() + BUSY_SECONDS
        watchers = [Watcher(nodes, random) for _ in range(4)]
        has_ended = trio.Event()
        async with trio.open_nursery() as nursery:
            for watcher in watchers:
                nursery.start_soon(watcher.run, has_ended)
            async with trio.open_nursery() as busy:
                for name in ("a", "b"):
                    busy.start_soon(ask, nodes, name, random, until)
                if faulty:
                    busy.start_soon(break_things, nodes, random, until)
            has_ended.set()
        for node in nodes:
            node.link.on_call = None
        return [each for watcher in watchers for each in watcher.violations(faulty=faulty)]


def simulate(seed: int, *, faulty: bool) -> list[str]:
    """Run a script in virtual time; return what went wrong."""
    return in_virtual_time(partial(run_script, seed, faulty=faulty))


def simulate_both(seed: int) -> list[str]:
    """Run a script without faults and with them."""
    return [*simulate(seed, faulty=False), *simulate(seed, faulty=True)]


if __name__ == "__main__":
    raise SystemExit(run_seeds(simulate_both))
