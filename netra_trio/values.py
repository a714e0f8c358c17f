"""Value classes: the fields of an object are not changed after it is made.

    @frozen
    class Point:
        x: int
        y: int

For the type checker this is `attrs.frozen`, so mypy reports assignments to fields. At run time it
is a plain class with slots: creating an object of a frozen class takes three times as long, and one
message creates about fifteen values. Classes that are not created for each message use
`attrs.frozen`.

>>> Point = frozen(type("Point", (), {"__annotations__": {"x": int, "y": int}}))
>>> Point(1, 2) == Point(1, 2), hash(Point(1, 2)) == hash(Point(1, 2))
(True, True)
"""

from functools import partial
from typing import TYPE_CHECKING

from attrs import define

__all__ = ["frozen"]

if TYPE_CHECKING:
    from attrs import frozen
else:
    frozen = partial(define, unsafe_hash=True)
