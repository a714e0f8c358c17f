"""Quotations of any text in Markdown."""

import re
import unicodedata

QUOTE_CHARACTERS = 120  # of a quotation; a longer one is shortened


def quoted(text: str, limit: int = QUOTE_CHARACTERS) -> str:
    """Return any text as a Markdown code span of one line, shortened if it is long.

    >>> quoted("a *bold*  `claim`")
    '`` a *bold* `claim` ``'
    """
    begin = text[: 2 * limit]
    words = "".join(" " if unicodedata.category(c) in {"Cc", "Cs"} else c for c in begin).split()
    line = " ".join(words)
    if len(line) > limit or len(begin) < len(text):
        line = line[:limit].rstrip() + "…"
    if not line:
        return "nothing"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"
