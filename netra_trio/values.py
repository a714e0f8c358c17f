"""Values: classes whose fields nobody sets again.

    @frozen
    class Point:
        x: int
        y: int

To the type checker this is `attrs.frozen`, and that is who holds it. At run time it is a plain
class with slots: a frozen one writes each field past its own lock, which takes three times as long,
and a message becomes fifteen values on its way. What is not made for each message stays
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
