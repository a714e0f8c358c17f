"""The key of a model's server: from the environment or a secret file, and never shown.

>>> key_from({"OPENAI_API_KEY": "sk-12345"}), Key("sk-12345").hide("got sk-12345")
(Key(...), 'got [key]')
"""

from collections.abc import Mapping
from pathlib import Path

from netra_trio.config.secret_file import SecretFileUnusable, read_secret
from netra_trio.errors import SettingsError

KEY = "OPENAI_API_KEY"
KEY_FILE = f"{KEY}_FILE"

_HIDDEN = "[key]"
_SHOWN_CHARACTERS = 8  # a shorter key is a placeholder: hiding it would spoil words of a text


class Key:
    """A key that has no readable representation.

    Raises:
        SettingsError: It has characters that an HTTP header cannot have.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not (text.isascii() and text.isprintable() and text == text.strip()):
            raise SettingsError(
                "the key of the model's server: got a text with blanks at an end, control or "
                "non-ASCII characters; expected printable ASCII; copy the key again"
            )
        self._text = text

    def __repr__(self) -> str:
        return "Key(...)"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request with this key."""
        return {"authorization": f"Bearer {self._text}"}

    def hide(self, text: str) -> str:
        """Return a text of the server without the key in it."""
        return text.replace(self._text, _HIDDEN) if len(self._text) >= _SHOWN_CHARACTERS else text


def key_from(environ: Mapping[str, str], directory: Path | None = None) -> Key | None:
    """Return the key of `OPENAI_API_KEY`, or of the file that `OPENAI_API_KEY_FILE` names.

    Args:
        environ: The environment variables; a blank one counts as unset.
        directory: Where relative paths begin; the working directory by default.

    Raises:
        SettingsError: Both are set, or the file contains no key.
    """
    text, path = (environ.get(name, "") for name in (KEY, KEY_FILE))
    if text.strip() and path.strip():
        raise SettingsError(
            f"{KEY_FILE}: got a file beside {KEY}; expected one; unset {KEY} or {KEY_FILE}"
        )
    if text.strip():
        return Key(text.strip())
    if not path.strip():
        return None
    try:
        secret = read_secret((directory or Path.cwd()) / path)
    except SecretFileUnusable as error:
        raise SettingsError(
            f"{KEY_FILE}: got {error.got}; expected the path of a file with a key; {error.fix}"
        ) from None
    return Key(secret.text)
