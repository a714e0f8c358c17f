"""The users of the soak: they talk, and things happen to them.

talker = Talker("alice", served.port, served.token("alice"), tally, seed=1)
await talker.talk()      # until talker.is_leaving
talker.suffer()          # "cut", "half_open", "slow", "kill" or "reconnect"
"""

import contextlib
import random
from collections import Counter

import trio
from attrs import define, field

from bench.faults import HOST, Relay
from netra_trio.client import Client, ClientError, MessageRefused, Run, RunFailed, RunLost, connect

HALF_OPEN_SECONDS = 6.0  # longer than either end needs to notice, and than the window
SLOW_SECONDS = 3.0
FAULTS = ("cut", "half_open", "slow", "kill", "reconnect")

_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "at", "noon")


@define
class Tally:
    """What the clients saw.

    Attributes:
        counts: Ends by their status, and what else happened, by name.
        confirmed: The key of every confirmed message of a client that waited for its end.
        wrong: Answers that were not what was said, and what else must not be.
    """

    counts: Counter[str] = field(factory=Counter)
    confirmed: set[str] = field(factory=set)
    wrong: list[str] = field(factory=list)


class Talker:
    """A user who talks, and to whom things happen."""

    def __init__(self, name: str, port: int, token: str, tally: Tally, *, seed: int) -> None:
        self.name = name
        self.relay = Relay(port)
        self._token = token
        self._tally = tally
        self._chance = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._client: Client | None = None
        self._life = trio.CancelScope()
        self._number = 0
        self.is_leaving = False

    async def talk(self) -> None:
        """Come, talk, go, and come again, until it is told to leave."""
        while not self.is_leaving:
            self._life = trio.CancelScope()
            with self._life:
                try:
                    url = f"ws://{HOST}:{self.relay.port}/ws"
                    async with connect(url, token=self._token) as client:
                        self._client = client
                        for _ in range(self._chance.randint(1, 30)):
                            if not self.is_leaving:
                                await self._exchange(client)
                except ClientError as error:
                    self._tally.counts[f"client ended: {type(error).__name__}"] += 1
                finally:
                    self._client = None
            if self._life.cancelled_caught:
                self._tally.counts["killed"] += 1

    def suffer(self) -> str:
        """Let something happen to it; return what."""
        fault = self._chance.choice(FAULTS)
        if fault == "cut":
            self.relay.cut()
        elif fault == "half_open":
            self.relay.freeze(HALF_OPEN_SECONDS)
        elif fault == "slow":
            self.relay.slow(SLOW_SECONDS)
        elif fault == "kill":
            self.relay.cut()  # so that it can say no goodbye
            self._life.cancel()
        elif self._client is not None:
            self._client.connection.try_now()
        return fault

    async def _exchange(self, client: Client) -> None:
        content = " ".join(self._chance.choices(_WORDS, k=self._chance.randint(1, 120)))
        self._number += 1
        key = f"{self.name}-{self._number}"
        try:
            run = await client.send(content, agent="talk", correlation_id=key)
            self._tally.counts["confirmed"] += 1
            self._tally.confirmed.add(key)
            if self._chance.random() < 0.2:
                await self._stop(run)
            else:
                await self._read(run, content)
        except MessageRefused as refused:
            self._tally.counts[f"refused: {refused.code}"] += 1

    async def _read(self, run: Run, content: str) -> None:
        try:
            text = await run.text()
        except RunFailed as failed:
            self._tally.counts[failed.status] += 1
        except RunLost:
            self._tally.counts["lost"] += 1
        else:
            self._tally.counts["completed"] += 1
            if text != content:
                self._tally.wrong.append(f"{self.name}: {content!r} was answered with {text!r}")

    async def _stop(self, run: Run) -> None:
        await trio.sleep(self._chance.random())
        with contextlib.suppress(MessageRefused):  # it ended first
            await run.stop()
        status = "lost"
        async for event in run:
            if event.type == "agent_completed":
                status = event.payload["status"]
        self._tally.counts[f"stopped: {status}"] += 1
