"""Types of arguments."""

from typing import Annotated

from cyclopts import Parameter


def _check_text(_: object, value: str | tuple[str, ...] | None) -> None:
    """Reject bytes that are not valid in the encoding of the terminal.

    Python passes them on as lone surrogates, which can be neither sent nor shown.
    """
    texts = value if isinstance(value, tuple) else (value or "",)
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("It is not valid text in the terminal's encoding.") from None


TEXT = Parameter(validator=_check_text)
"""The argument is text, not arbitrary bytes."""

Text = Annotated[str, TEXT]
OptionalText = Annotated[str | None, TEXT]
Texts = Annotated[tuple[str, ...], TEXT]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
