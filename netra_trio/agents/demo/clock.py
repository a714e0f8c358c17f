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

MAX_CHARACTERS = 64  # of a name: the longest zone has 32; bounds the search for similar ones
SUGGESTIONS = 3  # similar names in an error: as many as one reads
SIMILARITY = 0.7  # of 1: finds Tokyo for Tokio, and not Tomsk
_NO_ZONE = {"Factory", "localtime"}  # a placeholder; the machine's own, which is not asked for


def time_in(zone: str, now: float) -> str:
    """Return the time at `now` (Unix seconds) in a zone, to the minute, with its offset from UTC.

    The zone is an IANA name or the last part of one, whatever its case and accents, with spaces or
    underscores: "Europe/Berlin", "berlin", "New York", "São Paulo".

    Raises:
        ToolError: If no zone has that name, or several with different times have it. Its text names
            the zones that may be meant, for the user.
    """
    if len(zone) > MAX_CHARACTERS:
        raise ToolError(
            f"expected a city or time zone of at most {MAX_CHARACTERS} characters, got {len(zone)}"
        )
    names = find_zones(zone)
    if not names:
        raise ToolError(f"expected a city or time zone, got {zone!r}; {_hint(zone)}")
    # Most names that several zones share are two names of one place: no reason to ask back.
    times = {datetime.fromtimestamp(now, ZoneInfo(n)).isoformat(" ", "minutes") for n in names}
    if len(times) > 1:
        raise ToolError(f"expected one time zone, got {zone!r}: {' or '.join(names)}?")
    time = times.pop()
    return f"{time[:16]}, {names[0]} (UTC{time[16:]})"


def find_zones(zone: str) -> Sequence[str]:
    """Return the IANA names that a name may stand for; most often one, or none.

    The first call of the process reads which zones there are: some 40 ms of file access, too rare
    to be worth a thread.
    """
    return _zones().get(_plain(zone), ())


@cache
def _zones() -> Mapping[str, Sequence[str]]:
    """Return the zones by their name and its last part, in plain letters."""
    names = sorted(available_timezones() - _NO_ZONE)
    zones: dict[str, list[str]] = {}
    for name in names:
        zones.setdefault(_plain(name.rpartition("/")[2]), []).append(name)
    # A whole name means itself, whatever other name ends like it: "UTC" is not Etc/UTC.
    return {**zones, **{_plain(name): [name] for name in names}}


def _plain(name: str) -> str:
    """Return a name in plain letters, with one kind of space: "St. John's" is "st johns"."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    kept = (c for c in letters if not unicodedata.combining(c) and c not in ".'’")  # noqa: RUF001 - as people type it
    return " ".join("".join(kept).replace("_", " ").replace("-", " ").split())


def _hint(zone: str) -> str:
    zones = _zones()
    if not zones:
        return "this server has no time zone data"
    similar = get_close_matches(_plain(zone), zones, SUGGESTIONS, SIMILARITY)
    if not similar:
        return "try a large city such as Tokyo, or a name such as Europe/Berlin"
    meant = dict.fromkeys(zones[name][0] for name in similar)
    return f"did you mean {' or '.join(meant)}?"
