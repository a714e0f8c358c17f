"""The time in a city or time zone, for names as people type them.

>>> time_in("tokyo", now=0)
'1970-01-01 09:00, Asia/Tokyo (UTC+09:00)'
>>> time_in("Tokio", now=0)
Traceback (most recent call last):
netra_trio.errors.ToolError: expected a city or time zone, got 'Tokio'; did you mean Asia/Tokyo?
"""

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from netra_trio.errors import ToolError

MAX_CHARACTERS = 64  # of a name: bounds the search for similar names; the longest zone has 32
SUGGESTIONS = 3  # similar names in an error
SIMILARITY = 0.7  # of 1: for Tokio it finds Tokyo, and not Tomsk
_NO_ZONE = {"Factory", "localtime"}  # a placeholder, and the zone of the machine


def time_in(zone: str, now: float) -> str:
    """Return the time at `now` (Unix seconds) in a zone, to the minute, with its offset from UTC.

    The zone is an IANA name or the last part of one, whatever its case and accents, with spaces or
    underscores: "Europe/Berlin", "berlin", "New York", "São Paulo".

    Raises:
        ToolError: If no zone has that name, or several zones with different times have it. The
            text suggests zones to the user.
    """
    if len(zone) > MAX_CHARACTERS:
        raise ToolError(
            f"expected a city or time zone of at most {MAX_CHARACTERS} characters, got {len(zone)}"
        )
    names = find_zones(zone)
    if not names:
        raise ToolError(f"expected a city or time zone, got {zone!r}; {_hint(zone)}")
    # If several zones have the name, they are mostly names of one place, with the same time.
    times = {datetime.fromtimestamp(now, ZoneInfo(n)).isoformat(" ", "minutes") for n in names}
    if len(times) > 1:
        raise ToolError(f"expected one time zone, got {zone!r}: {' or '.join(names)}?")
    time = times.pop()
    return f"{time[:16]}, {names[0]} (UTC{time[16:]})"


def find_zones(zone: str) -> Sequence[str]:
    """Return the IANA names of the zones with this name; mostly one, or none.

    The first call of the process reads the list of zones: about 40 ms of file access, which happens
    too rarely to need a thread.
    """
    return _zones().get(_normalized(zone), ())


@cache
def _zones() -> Mapping[str, Sequence[str]]:
    """Return the zones by their normalized name, and by the last part of it."""
    names = sorted(available_timezones() - _NO_ZONE)
    zones: dict[str, list[str]] = {}
    for name in names:
        zones.setdefault(_normalized(name.rpartition("/")[2]), []).append(name)
    # A whole name has precedence over the last part of another name: "UTC" is not Etc/UTC.
    return {**zones, **{_normalized(name): [name] for name in names}}


def _normalized(name: str) -> str:
    """Normalize case, accents, punctuation and spaces of a name: "St. John's" is "st johns"."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    kept = (c for c in letters if not unicodedata.combining(c) and c not in ".'’")  # noqa: RUF001 - as people type it
    return " ".join("".join(kept).replace("_", " ").replace("-", " ").split())


def _hint(zone: str) -> str:
    zones = _zones()
    if not zones:
        return "this server has no time zone data"
    similar = get_close_matches(_normalized(zone), zones, SUGGESTIONS, SIMILARITY)
    if not similar:
        return "try a large city such as Tokyo, or a name such as Europe/Berlin"
    meant = dict.fromkeys(zones[name][0] for name in similar)
    return f"did you mean {' or '.join(meant)}?"
