r"""Search for a text in any case, the same in each store.

>>> Matcher("ÄRGER%").matches("der ärger% hier")
True
>>> pattern_of("aÄ.") == r"[aA][Ää]\."
True

The pattern has both cases of each character. So it does not depend on the case rules of a database,
which depend on a locale or cover only ASCII. It is a valid regular expression in Python and in
PostgreSQL.
"""

import re


class Matcher:
    """A text to search for.

    Args:
        query: The text; no character has a special meaning.
    """

    def __init__(self, query: str) -> None:
        self._search = re.compile(pattern_of(query)).search

    def matches(self, text: str) -> bool:
        """Whether a text contains the query."""
        return self._search(text) is not None


def pattern_of(query: str) -> str:
    """Return the regular expression of a text in any case."""
    return "".join(map(_character, query))


def _character(character: str) -> str:
    """Return the pattern of a character: itself, and its other cases."""
    other = (character.lower(), character.upper(), character.title(), character.casefold())
    # Another case with several characters, as of "ß", is left out.
    cases = dict.fromkeys(each for each in (character, *other) if len(each) == 1)
    if len(cases) > 1:
        return f"[{''.join(cases)}]"
    return f"\\{character}" if character in _SPECIAL else character


_SPECIAL = frozenset(".^$*+?()[]{}|\\")
