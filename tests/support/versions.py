"""Versions of libraries: the tests run with the oldest and the newest ones that are allowed."""

from importlib.metadata import version


def is_before(library: str, *bound: int) -> bool:
    """Return whether the installed version of a library is older than this one."""
    numbers = [int(part) for part in version(library).split(".") if part.isdigit()]
    return tuple(numbers) < bound
