"""Calls of scripts and commands on a lasting connection, and what their error replies mean."""

import math
from collections.abc import Sequence
from typing import Any

import hiredis
from attrs import define

from netra_trio.broker.valkey.connection import Command, Reply
from netra_trio.broker.valkey.lasting import LastingConnection
from netra_trio.broker.valkey.replies import code_of, text_of
from netra_trio.broker.valkey.scripts import SCRIPTS, Script
from netra_trio.errors import BrokerUnavailable

NO_SCRIPT = "NOSCRIPT"


def checked(value: Any) -> Any:
    """Return a reply.

    Raises:
        BrokerUnavailable: If it is an error.
    """
    if isinstance(value, hiredis.ReplyError):
        raise BrokerUnavailable(text_of(value))
    return value


def milliseconds(seconds: float) -> int:
    """Return a duration as the server takes it."""
    return math.ceil(seconds * 1000)


def evaluation(
    script: Script, keys: Sequence[str], arguments: Sequence[bytes | str | int]
) -> Command:
    """Return the command that runs a script."""
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


@define(eq=False)
class Calls:
    """Calls on the lasting connection for commands.

    All raise `BrokerUnavailable` if the server does not answer in time, or answers with an error.
    """

    lasting: LastingConnection
    _loading: Reply | None = None

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[bytes | str | int] = (),
        *,
        is_bulk: bool = False,
    ) -> Any:
        """Run a script."""
        command = evaluation(script, keys, arguments)
        return (await self.run_all([command], is_bulk=is_bulk))[0]

    async def run_all(self, commands: Sequence[Command], *, is_bulk: bool = False) -> list[Any]:
        """Run commands and scripts; after SCRIPT FLUSH, those that have not run, once more.

        Args:
            commands: The commands.
            is_bulk: Whether they may be large, and leave the reserve for small ones alone.
        """
        values = await self.lasting.submit(commands, is_bulk=is_bulk)
        left = [at for at, value in enumerate(values) if is_missing_script(value)]
        if left:
            repeated = [commands[at] for at in left]
            for at, value in zip(
                left, await self.lasting.submit(repeated, is_bulk=is_bulk), strict=True
            ):
                values[at] = value
        return [checked(value) for value in values]

    def reload(self, code: str) -> None:
        """Load the scripts again if an error reply with this code says that they are gone."""
        if code == NO_SCRIPT and (self._loading is None or not self._loading.is_pending):
            loads = [("SCRIPT", "LOAD", script.text) for script in SCRIPTS]
            self._loading = self.lasting.submit(loads)


def is_missing_script(value: Any) -> bool:
    """Whether a reply says that the server does not have the script."""
    return isinstance(value, hiredis.ReplyError) and code_of(value) == NO_SCRIPT
