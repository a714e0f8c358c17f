r"""Names of files: as they are kept, and in the header of an answer.

>>> safe_name("../../etc/passwd")
'passwd'
>>> print(disposition("na\u00efve.txt"))
attachment; filename="na_ve.txt"; filename*=UTF-8''na%C3%AFve.txt
"""

import re
import unicodedata
from urllib.parse import quote

NAME_BYTES = 255  # of UTF-8: the longest name of a file in most file systems

_SEPARATORS = re.compile(r"[/\\]")
_SPACES = re.compile(r"\s+")
# Control characters, lone surrogates and unassigned ones; of the format characters (Cf), some
# change the order of what is shown, so that `exe.png` reads as `gnp.exe`.
_REMOVED = frozenset({"Cc", "Cf", "Cs", "Cn", "Co"})
_UNQUOTED = "!#$&+-.^_`|~"  # beside letters and digits (RFC 8187, 3.2.1)
_KEPT_ENDING = re.compile(r"\.[A-Za-z0-9]{1,16}")


def safe_name(name: str) -> str:
    """Return the last part of a path, without characters that a name cannot have; may be empty."""
    last = _SEPARATORS.split(name)[-1]
    spaced = _SPACES.sub(" ", last)
    kept = "".join(each for each in spaced if unicodedata.category(each) not in _REMOVED)
    # What was removed may have been between spaces, or between characters that are composed.
    kept = unicodedata.normalize("NFC", _SPACES.sub(" ", kept)).strip(" ")
    short = _shortened(kept)
    return short if short.strip(". ") else ""


def ending(name: str) -> str:
    """Return the ending of a name in lower case, such as `.md`; empty if there is none."""
    stem, dot, last = name.rpartition(".")
    return f".{last.lower()}" if stem and dot else ""


def disposition(name: str) -> str:
    """Return the value of Content-Disposition with which a browser saves content.

    Args:
        name: A name as `safe_name` returns it.
    """
    if not name:
        return "attachment"
    plain = "".join(each if " " <= each <= "~" and each not in '"\\%' else "_" for each in name)
    value = f'attachment; filename="{plain}"'
    return value if plain == name else f"{value}; filename*=UTF-8''{quote(name, safe=_UNQUOTED)}"


def _shortened(name: str) -> str:
    """Return a name of at most `NAME_BYTES`, with its ending."""
    if len(name.encode()) <= NAME_BYTES:
        return name
    end = ending(name)
    end = name[-len(end) :] if _KEPT_ENDING.fullmatch(end) else ""
    room = NAME_BYTES - len(end.encode())
    start = name[: len(name) - len(end)].encode()[:room].decode(errors="ignore")
    return start.rstrip(" ") + end
