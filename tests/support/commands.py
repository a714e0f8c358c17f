"""The commands of the package, run in the process of the tests."""

from typing import Protocol


class Typed(Protocol):
    """Runs a command in this process, which saves the time of importing the package again."""

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Return the exit code, the output and the error output."""
        ...
