"""The errors of commands: their text is shown in one line, and the exit code is 1."""

from netra_trio.errors import NetraError


class CommandError(NetraError):
    """A command cannot do what was asked; the text says why and what to do."""
