"""Error replies of a server: their codes, and texts without arguments of commands.

>>> code_of(Exception("-WRONGPASS invalid username-password pair"))
'WRONGPASS'
>>> text_of(Exception("ERR unknown command 'HELLO', with args beginning with: '3' 'secret'"))
"the server answered: ERR unknown command 'HELLO'"
"""

import re

SHOWN = 200  # characters of an error text

# A script passes on the error of a command; Redis 6.2 wraps it.
_CODE = re.compile(r"-?([A-Z][A-Z0-9]*)\b")
_IN_SCRIPT = re.compile(r"user_script:.* -([A-Z]+) ")
_NO_PERMISSION = re.compile("ACL failure in script|The user executing the script can't")
_ARGUMENTS = re.compile(r",? with args beginning with.*", re.DOTALL)


def code_of(error: Exception) -> str:
    """Return the first word of an error reply, such as READONLY; of a script, that of its error."""
    text = str(error)
    if _NO_PERMISSION.search(text):
        return "NOPERM"
    match = _IN_SCRIPT.search(text) or _CODE.match(text)
    return match[1] if match else "ERR"


def text_of(error: Exception) -> str:
    """Return an error reply for people; it contains no argument of the command."""
    return f"the server answered: {_ARGUMENTS.sub('', str(error))[:SHOWN]}"
