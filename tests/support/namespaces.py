"""Network namespaces: a node in one of its own, with a link to the broker that can be cut.

    with Namespace(1) as namespace:
        namespace.cut("broker")     # packets are dropped, and no end is told
        namespace.heal("broker")

Each namespace has two links, one for its clients and one for the broker. It needs Linux, `ip`, and
the permission to administer the network.
"""

import subprocess
from typing import Self

from attrs import define

LINKS = ("client", "broker")


@define
class Namespace:
    """A network namespace with two links to this one.

    Attributes:
        number: From 1; decides the addresses.
    """

    number: int

    @property
    def name(self) -> str:
        """The name of the namespace."""
        return f"netra{self.number}"

    def address(self, link: str) -> str:
        """Return the address of the namespace on a link."""
        return f"10.213.{self._net(link)}.2"

    def outside(self, link: str) -> str:
        """Return the address of the other end of a link."""
        return f"10.213.{self._net(link)}.1"

    @property
    def command(self) -> tuple[str, ...]:
        """The command that runs a program in the namespace."""
        return ("ip", "netns", "exec", self.name)

    def cut(self, link: str) -> None:
        """Drop everything on a link."""
        _ip("link", "set", self._end(link), "down")

    def heal(self, link: str) -> None:
        """Undo `cut`."""
        _ip("link", "set", self._end(link), "up")

    def __enter__(self) -> Self:
        self.__exit__()
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        for link in LINKS:
            _ip("link", "add", self._end(link), "type", "veth", "peer", link, "netns", self.name)
            _ip("address", "add", f"{self.outside(link)}/30", "dev", self._end(link))
            _ip("link", "set", self._end(link), "up")
            _ip("-n", self.name, "address", "add", f"{self.address(link)}/30", "dev", link)
            _ip("-n", self.name, "link", "set", link, "up")
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "delete", self.name, check=False)
        for link in LINKS:
            _ip("link", "delete", self._end(link), check=False)

    def _net(self, link: str) -> int:
        return 2 * self.number + LINKS.index(link)

    def _end(self, link: str) -> str:
        return f"netra{self.number}{link[0]}"


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)  # noqa: S603, S607 - ours
