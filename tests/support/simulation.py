"""A seeded simulation of several nodes: clients with random messages, and faults at random times.

    plan = make_plan(seed)
    violations = simulate(plan)

The seed determines the plan and, on a virtual clock, the order in which tasks run; ids are not
reproduced, and nothing depends on them. `python -m support.simulation --seeds A:B` runs many seeds.
"""

import argparse
import random as random_module
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pool
from random import Random
from typing import Any

import orjson
import trio
import trio._core._run as trio_run
from attrs import Factory, define, field, frozen
from structlog.testing import capture_logs
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.broker.base import LEASE_SECONDS, RENEW_SECONDS
from netra_trio.client import Client, ClientClosed, ClientError, MessageRefused
from netra_trio.client import Run as ClientRun
from netra_trio.errors import AgentError
from netra_trio.ids import NodeId, RunId, SessionId
from netra_trio.testing import losses
from support.clients import Plain
from support.cluster import Cluster, Snapshot, open_cluster

BUSY_SECONDS = 12.0  # in which everything is sent, and all faults happen
WINDOW_SECONDS = 15.0  # the resume window: longer than any fault
SEEDS = "0:3000"  # of the session of nox
TASKS = 200  # seeds of one process: what a seed leaves behind must not add up
PATIENCE = 150.0  # of a client, after the last fault
WORDS = 24
NOTICE_SECONDS = 2.0  # after a fail-over to older data: then all nodes have copied again

Step = tuple[float, str, tuple[Any, ...]]

REFUSALS = frozenset({"AGENT_BUSY", "QUEUE_FULL", "ANSWER_REJECTED"})
# The faults after which a session may be lost, if its owner is lost too.
FORGETTING = frozenset({"cut", "down", "clear", "roll_back", "loss"})
ENDING = frozenset({"crash", "pause"})


@frozen
class ClientPlan:
    """A client: its user, and what it does."""

    name: str
    user: str
    is_plain: bool
    steps: tuple[Step, ...]
    leaves_at: float | None


@frozen
class Plan:
    """The script of a simulation."""

    seed: int
    nodes: int
    clients: tuple[ClientPlan, ...]
    faults: tuple[Step, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its faults."""
        return frozenset(what for _, what, _ in self.faults)

    def __str__(self) -> str:
        """Return the script, one line for each step."""
        lines = [f"seed {self.seed}: {self.nodes} nodes"]
        for at, what, args in self.faults:
            lines.append(f"  {at:6.2f} {what} {' '.join(str(arg) for arg in args)}")
        for client in self.clients:
            kind = "plain" if client.is_plain else "acknowledging"
            leaves = "" if client.leaves_at is None else f", leaves at {client.leaves_at:.2f}"
            lines.append(f"  {client.name} of {client.user}, {kind}{leaves}")
            for at, what, args in client.steps:
                lines.append(f"  {at:6.2f}   {what} {' '.join(str(arg) for arg in args)}")
        return "\n".join(lines)


def make_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    random = Random(seed)  # noqa: S311 - no secret
    nodes = random.choice((2, 2, 3))
    users = ["alice", "bob"][: random.randint(1, 2)]
    kinds = random.sample(
        ("crash", "crash", "pause", "cut", "delay", "loss", "clear", "roll_back", "down"),
        random.choice((0, 1, 1, 2, 2, 3)),
    )
    clients = []
    for number in range(random.randint(1, 4)):
        user, name = random.choice(users), f"client {number}"
        leaves_at = random.uniform(3, BUSY_SECONDS) if random.random() < 0.12 else None
        steps = tuple(_client_steps(random, user, number))
        clients.append(ClientPlan(name, user, random.random() < 0.2, steps, leaves_at))
    faults = tuple(_without_double(sorted(_faults(random, kinds, nodes))))
    return Plan(seed, nodes, tuple(clients), faults)


def _client_steps(random: Random, user: str, number: int) -> Iterator[Step]:
    steps: list[Step] = []
    for index in range(random.randint(1, 5)):
        at = random.uniform(0, BUSY_SECONDS * 0.8)
        kind = random.choice(("words", "words", "words", "burst", "ask", "sleep", "fail"))
        pause = random.choice((0.0, 0.01, 0.1, 0.4))
        count = random.randint(1, WORDS)
        key = f"{user}-{number}-{index}"
        thread = random.choice((None, "one", "two"))
        on_busy = random.choice((None, None, None, "reject", "interrupt"))
        message = (f"{kind} {count} {pause}", key, thread, on_busy)
        steps.append((at, "send", message))
        if random.random() < 0.2:
            steps.append((at + random.uniform(0, 4), "stop", (key,)))
        if random.random() < 0.2:
            steps.append((at + random.uniform(0, 6), "again", message))
    drops = random.choice((0, 1, 2, 4))
    steps += [(random.uniform(0, BUSY_SECONDS), "drop", ()) for _ in range(drops)]
    if random.random() < 0.15:
        steps.append((0.0, "drop_every", (random.randint(2, 12),)))
    if random.random() < 0.2:
        steps.append((random.uniform(0, BUSY_SECONDS), "reconnect", ()))
    return iter(sorted(steps, key=lambda step: step[0]))


def _faults(random: Random, kinds: list[str], nodes: int) -> Iterator[Step]:
    for kind in kinds:
        for _ in range(random.choice((1, 1, 2))):
            at, node = random.uniform(0.5, BUSY_SECONDS - 1), random.randrange(nodes)
            seconds = random.choice((0.1, 0.5, 1.0, 2.0, 4.0, 7.0))
            arguments: dict[str, tuple[float, ...]] = {
                "crash": (node, random.choice((0.2, 2.0, 10.0))),
                "pause": (node, seconds),
                # Not for a lease: a client that comes back to such a node is served by it, whatever
                # other nodes have done meanwhile.
                "cut": (node, min(seconds, 2.0)),
                "delay": (node, random.choice((0.04, 0.3))),
                "loss": (node, random.choice((0.1, 0.5)), seconds),
                "clear": (),
                "roll_back": (random.uniform(0.1, 3.0),),
                "down": (random.uniform(0.1, 5.0),),
            }
            yield at, kind, arguments[kind]


def _without_double(faults: list[Step]) -> Iterator[Step]:
    """Leave out crashes right after a fail-over, before the nodes have noticed it.

    Then the clients of the node may have events that nothing else has.
    """
    rolled_back = [
        (at, at + args[0] + NOTICE_SECONDS) for at, what, args in faults if what == "roll_back"
    ]
    for at, what, args in faults:
        if what not in ENDING or all(not low < at < high for low, high in rolled_back):
            yield at, what, args


@define(eq=False)
class Simulation:
    """A simulation that runs."""

    plan: Plan
    cluster: Cluster = field(init=False)
    violations: list[str] = Factory(list)
    executions: dict[str, list[NodeId]] = Factory(lambda: defaultdict(list))
    waiting: Counter[str] = Factory(Counter)
    runs: dict[str, ClientRun] = Factory(dict)
    history: list[tuple[float, str, str, int | None]] = Factory(list)
    verdicts: list[tuple[str, str, float]] = Factory(list)

    # Agents.

    async def agent(self, run: Run) -> Any:
        kind, count, pause = run.content.split()
        self.executions[run.id].append(NodeId(""))
        if len(self.executions[run.id]) > 1:
            self.violations.append(f"run {run.id} was executed twice")
        if kind == "fail":
            await trio.sleep(float(pause))
            raise AgentError("on purpose")
        if kind == "sleep":
            await trio.sleep(int(count) / 4)
            return "slept"
        if kind == "ask":
            await run.emit("before ")
            with suppress(Exception):
                await run.emit(str(await run.ask("well?", expires=5)))
        for number in range(int(count)):
            size = 4000 if kind == "burst" else 1
            await run.emit(f"{number} " * size)
            await trio.sleep(float(pause))
        return None

    # Clients.

    async def client(self, plan: ClientPlan, over: trio.Event) -> None:
        dialer = Plain(self.cluster) if plan.is_plain else self.cluster
        leaving = trio.CancelScope()
        if plan.leaves_at is not None:
            leaving.deadline = plan.leaves_at
        with leaving:
            async with trio.open_nursery() as nursery:
                options = {"dialer": dialer, "random": self.cluster.random.random}
                async with self.cluster.connect(plan.user, **options) as client:
                    nursery.start_soon(self._follow, plan, client, nursery)
                    for at, what, args in plan.steps:
                        await trio.sleep_until(at)
                        nursery.start_soon(self._step, plan, client, what, args)
                    await trio.sleep_until(BUSY_SECONDS)
                    await over.wait()
                nursery.cancel_scope.cancel()

    async def _step(self, plan: ClientPlan, client: Client, what: str, args: Any) -> None:
        match what:
            case "send" | "again":
                await self._send(plan, client, args)
            case "stop":
                run = self.runs.get(args[0])
                if run is not None:
                    with suppress(ClientClosed):
                        await run.stop()
            case "drop":
                self._drop(client)
            case "reconnect":
                await client.reconnect()

    def _drop(self, client: Client) -> None:
        connection = client.connection._connection
        if connection is not None:
            connection._socket.cut()  # type: ignore[attr-defined]

    async def _send(self, plan: ClientPlan, client: Client, message: Any) -> None:
        content, key, thread, on_busy = message
        what = f"{plan.name}: {key}"
        self.waiting[what] += 1
        try:
            run = await client.send(content, thread_id=thread, on_busy=on_busy, correlation_id=key)
            self.runs[key] = run
            async for _ in run:
                pass
            if run.end is None or run.end.type != "agent_completed":
                self.violations.append(f"{what} has no end: {run.end}")
        except MessageRefused as refused:
            if refused.code not in REFUSALS:
                self.violations.append(f"{what}: refused: {refused}")
        except ClientError as error:
            self.violations.append(f"{what}: {error!r}")
        finally:
            self.waiting[what] -= 1

    async def _follow(self, plan: ClientPlan, client: Client, nursery: trio.Nursery) -> None:
        every = next((args[0] for _, what, args in plan.steps if what == "drop_every"), None)
        events = 0
        async for event in client.events():
            self.cluster.trace.deliver(event, plan.name)
            self.history.append((trio.current_time(), plan.name, event.type, event.seq))
            if event.type == "connected":
                self.verdicts.append((plan.name, event.payload["verdict"], trio.current_time()))
            elif event.type == "agent_asking":
                nursery.start_soon(self._answer, client, event.payload["question_id"])
            elif event.seq is not None:
                events += 1
                if every is not None and events % every == 0 and events < 20 * every:
                    self._drop(client)

    async def _answer(self, client: Client, question_id: str) -> None:
        await trio.sleep(self.cluster.random.uniform(0, 3))
        with suppress(MessageRefused, ClientClosed):
            await client.answer(question_id, answer="yes")

    # Faults.

    async def fault(self, what: str, args: Any) -> None:
        cluster = self.cluster
        match what:
            case "crash":
                cluster.crash(*args)
            case "pause":
                number, seconds = args
                faults = cluster.faults[number]
                faults.pause()
                await trio.sleep(seconds)
                faults.resume()
            case "cut":
                number, seconds = args
                faults = cluster.faults[number]
                faults.is_cut = True
                await trio.sleep(seconds)
                faults.is_cut = False
            case "delay":
                number, seconds = args
                cluster.faults[number].delay = seconds
            case "loss":
                number, share, seconds = args
                faults = cluster.faults[number]
                faults.loss = share
                await trio.sleep(seconds)
                faults.loss = 0.0
            case "clear":
                cluster.broker.clear()
            case "roll_back":
                before: Snapshot = cluster.snapshot()
                await trio.sleep(args[0])
                cluster.roll_back(before)
            case "down":
                cluster.is_up = False
                await trio.sleep(args[0])
                cluster.is_up = True

    async def inject(self) -> None:
        async with trio.open_nursery() as nursery:
            for at, what, args in self.plan.faults:
                await trio.sleep_until(at)
                nursery.start_soon(self.fault, what, args)

    async def run(self) -> None:
        plan = self.plan
        names = {"agent": self.agent}
        random = Random(plan.seed ^ 0x5EED)  # noqa: S311 - no secret
        async with open_cluster(
            names,
            nodes=plan.nodes,
            random=random,
            resume_window_ms=int(WINDOW_SECONDS * 1000),
        ) as cluster:
            self.cluster = cluster
            cluster.choose = lambda: random.randrange(plan.nodes)
            over = trio.Event()
            async with trio.open_nursery() as nursery:
                for client in plan.clients:
                    nursery.start_soon(self.client, client, over)
                await self.inject()
                for faults in cluster.faults:
                    faults.delay = 0.0
                await trio.sleep_until(BUSY_SECONDS + 1)
                await self._wait_for_clients()
                self._check_owners()
                over.set()
            await trio.sleep(2 * WINDOW_SECONDS)  # a copy lives half a window longer
            await self._check_ends()
            self._check_rest()
        self._check_trace()

    # Checks.

    async def _wait_for_clients(self) -> None:
        with trio.move_on_after(PATIENCE):
            while +self.waiting:  # noqa: ASYNC110 - there is no notification
                await trio.sleep(0.5)
            await trio.sleep(5.0)
            return
        for what in +self.waiting:
            self.violations.append(f"{what} waits for ever")

    def _check_owners(self) -> None:
        """Check that no session is at two nodes."""
        owners = Counter(
            session.id
            for number in range(self.plan.nodes)
            if (node := self.cluster.node(number)) is not None
            for session in node.sessions
        )
        for session_id, count in owners.items():
            if count > 1:
                self.violations.append(f"session {session_id} is at {count} nodes")

    async def _check_ends(self) -> None:
        """Check that every end that a client got is the one in the store."""
        ended: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for name, events in self.cluster.trace.delivered.items():
            for event in events:
                if event.type == "agent_completed":
                    ended[event.run_id or ""].append((name, event.payload))
        nobody = SessionId("nobody"), NodeId("nobody")
        ends = await self.cluster.store.take_over(
            nobody[0], owner=nobody[1], runs=[RunId(run_id) for run_id in ended]
        )
        for run_id, told in ended.items():
            end = ends.get(RunId(run_id))
            if end is None:
                self.violations.append(f"run {run_id} has no end in the store, {told}")
                continue
            stored = orjson.loads(end.completed)
            for name, payload in told:
                if payload != stored and not payload.get("truncated"):
                    self.violations.append(f"{name}: run {run_id} ended {payload}, not {stored}")
        unfinished = self.cluster.store.statistics()["runs"]
        if unfinished:
            self.violations.append(f"{unfinished} runs are unfinished in the store")

    def _check_rest(self) -> None:
        """Check that nothing is left."""
        for number in range(self.plan.nodes):
            node = self.cluster.node(number)
            if node is None or node.cluster is None:
                self.violations.append(f"node {number} is down")
                continue
            part = node.cluster
            left = {
                "links": len(part.links),
                "locks": len(part.moves._locks),
                "moving": len(part.moves._moving),
                "ending": len(part.moves.ending),
                "copied": len(part._sessions),
                "changed": part.replicator.unreplicated,
                "holding": len(part.replicator._holding),
                "asked": len(part.mailbox._asked),
                **{
                    name: value
                    for name, value in node.statistics().items()
                    if name in {"slots", "connections", "sessions", "detached"}
                },
            }
            left = {name: count for name, count in left.items() if count}
            if left:
                self.violations.append(f"node {number} has left {left}")
        kept = [each for each in list(self.cluster.broker.sessions) if self._is_kept(each)]
        if kept:
            self.violations.append(f"the directory has left {kept}")

    def _is_kept(self, session_id: SessionId) -> bool:
        return self.cluster.broker.session(session_id) is not None

    def _check_trace(self) -> None:
        trace = self.cluster.trace
        cut_off = {
            event.run_id
            for events in trace.delivered.values()
            for event in events
            if event.type == "agent_completed"
            and event.payload["status"] == "interrupted"
            and event.run_id is not None
        }
        found = list(losses(trace, is_over=False, cut_off=cut_off))
        self.violations += found
        plain = {client.name for client in self.plan.clients if client.is_plain}
        kinds = self.plan.kinds
        may_lose = bool(kinds & ENDING and kinds & FORGETTING) or "roll_back" in kinds
        # A node without a lease is taken for dead, and its clients have what no other node has.
        cuts = [args[1] for _, what, args in self.plan.faults if what == "cut"]
        may_lose |= any(seconds >= LEASE_SECONDS - 2 * RENEW_SECONDS for seconds in cuts)
        # A session that moves is only in the directory for as long as the answers take.
        may_lose |= kinds >= {"clear", "delay"}
        for name, verdict, at in self.verdicts:
            if verdict == "reset" and not may_lose:
                self.violations.append(f"{name}: reset at {at:.2f}")
            if verdict == "gap" and not may_lose and name not in plain:
                self.violations.append(f"{name}: gap at {at:.2f}")


def simulate(plan: Plan, history: list[object] | None = None) -> list[str]:
    """Run a simulation; return the violations.

    Args:
        plan: What happens.
        history: Receives what clients have received, without what differs between two runs.
    """
    simulation = Simulation(plan)
    was = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state, order = random_module.getstate(), trio_run._r.getstate()
    random_module.seed(plan.seed)
    trio_run._r.seed(plan.seed)
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    try:
        with capture_logs() as logged:
            trio.run(simulation.run, clock=MockClock(autojump_threshold=0))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        simulation.violations.append("".join(traceback.format_exception(error)))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]
        random_module.setstate(state)
        trio_run._r.setstate(order)
    if history is not None:
        history += simulation.history
    for line in logged:
        if line["log_level"] in {"error", "critical"} and line["event"] != "run_failed":
            simulation.violations.append(f"logged: {line}")
    return simulation.violations


def report(plan: Plan, violations: list[str]) -> str:
    """Return what a failing seed needs to be repeated."""
    command = f"nox -s simulate -- --seeds {plan.seed}:{plan.seed + 1}"
    return "\n".join([f"{command}", str(plan), *(f"- {each}" for each in violations)])


def main() -> int:
    """Run the seeds of the command line; return 1 if any has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default=SEEDS, help="the first and the one after the last: A:B")
    low, _, high = parser.parse_args().seeds.partition(":")
    seeds = range(int(low), int(high))
    with Pool(maxtasksperchild=TASKS) as pool:
        failed = sum(map(_show, pool.imap(_check, seeds)))
    sys.stdout.write(f"{len(seeds)} seeds, {failed} failed\n")
    return min(failed, 1)


def _check(seed: int) -> str:
    plan = make_plan(seed)
    violations = simulate(plan)
    return report(plan, violations) if violations else ""


def _show(found: str) -> bool:
    if found:
        sys.stdout.write(found + "\n")
        sys.stdout.flush()
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
