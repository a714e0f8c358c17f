"""The users of the soak: they exchange messages, and suffer injected faults.

user = User("alice", served.port, served.token("alice"), observations, seed=1)
await user.run()         # until user.is_stopping
user.inject_fault()      # "cut", "half_open", "slow", "kill" or "reconnect"
"""

import contextlib
import random
from collections import Counter

import trio
from attrs import define, field

from bench.faults import HOST, Relay
from netra_trio.client import Client, ClientError, MessageRefused, Run, RunFailed, RunLost, connect

HALF_OPEN_SECONDS = 6.0  # longer than the detection of either side, and than the resume window
SLOW_SECONDS = 3.0
FAULTS = ("cut", "half_open", "slow", "kill", "reconnect")

_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "at", "noon")


@define
class Observations:
    """The observations of the clients.

    Attributes:
        counts: Ends of runs by their status, and other observations, by name.
        confirmed: The key of every confirmed message of a client that waited for the end.
        errors: Answers that differ from their message, and other violations.
    """

    counts: Counter[str] = field(factory=Counter)
    confirmed: set[str] = field(factory=set)
    errors: list[str] = field(factory=list)


class User:
    """A user with a sequence of clients, which connect through a relay."""

    def __init__(
        self, name: str, port: int, token: str, observations: Observations, *, seed: int
    ) -> None:
        self.name = name
        self.relay = Relay(port)
        self._token = token
        self._observations = observations
        self._random = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._client: Client | None = None
        self._client_scope = trio.CancelScope()
        self._number = 0
        self.is_stopping = False

    async def run(self) -> None:
        """Connect, exchange messages and disconnect, repeatedly, until `is_stopping`."""
        while not self.is_stopping:
            self._client_scope = trio.CancelScope()
            with self._client_scope:
                try:
                    url = f"ws://{HOST}:{self.relay.port}/ws"
                    async with connect(url, token=self._token) as client:
                        self._client = client
                        for _ in range(self._random.randint(1, 30)):
                            if not self.is_stopping:
                                await self._exchange(client)
                except ClientError as error:
                    self._observations.counts[f"client ended: {type(error).__name__}"] += 1
                finally:
                    self._client = None
            if self._client_scope.cancelled_caught:
                self._observations.counts["killed"] += 1

    def inject_fault(self) -> str:
        """Inject a random fault; return its name."""
        fault = self._random.choice(FAULTS)
        if fault == "cut":
            self.relay.cut()
        elif fault == "half_open":
            self.relay.freeze(HALF_OPEN_SECONDS)
        elif fault == "slow":
            self.relay.slow(SLOW_SECONDS)
        elif fault == "kill":
            self.relay.cut()  # before the client can send a close frame
            self._client_scope.cancel()
        elif self._client is not None:
            self._client.connection.try_now()
        return fault

    async def _exchange(self, client: Client) -> None:
        content = " ".join(self._random.choices(_WORDS, k=self._random.randint(1, 120)))
        self._number += 1
        key = f"{self.name}-{self._number}"
        try:
            run = await client.send(content, agent="repeat", correlation_id=key)
            self._observations.counts["confirmed"] += 1
            self._observations.confirmed.add(key)
            if self._random.random() < 0.2:
                await self._stop(run)
            else:
                await self._read(run, content)
        except MessageRefused as refused:
            self._observations.counts[f"refused: {refused.code}"] += 1

    async def _read(self, run: Run, content: str) -> None:
        try:
            text = await run.text()
        except RunFailed as failed:
            self._observations.counts[failed.status] += 1
        except RunLost:
            self._observations.counts["lost"] += 1
        else:
            self._observations.counts["completed"] += 1
            if text != content:
                error = f"{self.name}: {content!r} was answered with {text!r}"
                self._observations.errors.append(error)

    async def _stop(self, run: Run) -> None:
        await trio.sleep(self._random.random())
        with contextlib.suppress(MessageRefused):  # the run has ended before
            await run.stop()
        status = "lost"
        async for event in run:
            if event.type == "agent_completed":
                status = event.payload["status"]
        self._observations.counts[f"stopped: {status}"] += 1
