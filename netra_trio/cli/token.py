"""The command `token`: prints a signed token."""

import os
import re
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from netra_trio.auth.identity import USER_ID_CHARACTERS, is_user_id
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.cli.arguments import Text, Texts
from netra_trio.cli.errors import CommandError
from netra_trio.config.loading import load

_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def token(
    *,
    user: Text,
    expires: Text = "1h",
    permission: Annotated[Texts, Parameter(name="--permission", negative=())] = (),
) -> None:
    """Print a token (JWT) signed with the configured secret.

    Parameters
    ----------
    user
        The user's id: the token's subject.
    expires
        How long it is valid: a number and s, m, h or d.
    permission
        A permission to grant, such as netra:admin; may be given more than once.
    """
    duration = _DURATION.fullmatch(expires)
    if duration is None:
        raise CommandError(f"--expires: expected something like 30m, 1h or 7d, got {expires!r}")
    if not is_user_id(user):
        expected = f"a printable text of 1 to {USER_ID_CHARACTERS} characters"
        raise CommandError(f"--user: expected {expected}, got {user!r}")
    seconds = int(duration[1]) * _SECONDS[duration[2]]
    verifier = TokenVerifier.of(load(os.environ, directory=Path.cwd()).settings)
    signed = verifier.sign(user, expires_at=time.time() + seconds, permissions=permission)
    print(signed)  # noqa: T201 - a command's own output
