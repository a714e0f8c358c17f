"""Why an agent cannot be imported or called: one line with file, line, and what to do.

try:
    importlib.import_module("my_agents")
except Exception as error:
    print(import_fault("my_agents", error))

my_agents.py:3: No module named 'openai': install it, or correct the import
"""

import difflib
import importlib
import inspect
import pkgutil
import sysconfig
import traceback
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

SHOWN_CHARACTERS = 300  # of the text of an exception
SHOWN_NAMES = 8  # of a module's functions

_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_IMPORTLIB, _OWN_FOLDER = str(Path(importlib.__file__).parent), str(Path(__file__).parent)


def import_fault(module: str, error: BaseException) -> str:
    """Return why a module cannot be imported; what failed may be an import of its own."""
    if isinstance(error, SyntaxError):
        where = f"{shown_path(error.filename)}:{error.lineno}: " if error.filename else ""
        source = (error.text or "").strip()
        return f"{where}{error.msg}" + (f": {source}" if source else "")
    place = _place_in_user_code(error.__traceback__)
    text = _first_line(error)
    if isinstance(error, ModuleNotFoundError):
        if not place and f"{module}.".startswith(f"{error.name}."):
            return _missing_module(module)
        return f"{place}{text}: install it, or correct the import"
    if isinstance(error, ImportError):
        return f"{place}{text}"
    if isinstance(error, SystemExit):
        return f"{place}the module exits while it is imported; exit below `if __name__ == ...` only"
    return f"{place}{type(error).__name__}" + (f": {text}" if text else "")


def missing_attribute(module: ModuleType, name: str) -> str:
    """Return that a module has no such object, and what it has."""
    file = getattr(module, "__file__", None)
    text = f"{module.__name__} has no {name}" + (f" ({shown_path(file)})" if file else "")
    public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    if near := _near(name, public):
        return f"{text}; did you mean {near!r}?"
    functions = [
        key
        for key, value in public.items()
        if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__
    ]
    more = ", …" if len(functions) > SHOWN_NAMES else ""
    names = ", ".join(functions[:SHOWN_NAMES]) + more
    return f"{text}; " + (f"it has {names}" if functions else "it has no async function")


def not_async(found: object) -> str:
    """Return what an object is, instead of an async function."""
    if inspect.isasyncgenfunction(found):
        return f'{place_of(found)}it has "yield"; send text with "await run.emit(...)"'
    if inspect.isclass(found):
        return f"{place_of(found)}it is a class; name a function, or an object with async __call__"
    if inspect.isroutine(found):
        return f'{place_of(found)}write "async def {found.__name__}"'
    return f"it is of type {type(found).__name__}"


def not_callable_with_a_run(function: Any) -> str | None:
    """Return why a function cannot be called with one argument; None if it can."""
    signature = inspect.signature(function)
    try:
        signature.bind(None)
    except TypeError as error:
        name = getattr(function, "__name__", "it")
        return (
            f"{place_of(function)}{name}{signature} cannot be called with one argument, a Run: "
            f"{error}; give other parameters defaults, or bind them with functools.partial"
        )
    return None


def place_of(found: object) -> str:
    """Return `file:line: ` of a function or a class; empty if it is unknown."""
    while isinstance(found, partial):
        found = found.func
    code = getattr(inspect.unwrap(found) if callable(found) else found, "__code__", None)
    if isinstance(code, CodeType):
        return f"{shown_path(code.co_filename)}:{code.co_firstlineno}: "
    if inspect.isclass(found):
        try:
            _, line = inspect.getsourcelines(found)
            return f"{shown_path(inspect.getfile(found))}:{line}: "
        except (OSError, TypeError):
            return ""
    return ""


def shown_path(file: str) -> str:
    """Return a path relative to the working directory, if it is below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _place_in_user_code(trace: TracebackType | None) -> str:
    """Return `file:line: ` of the last frame of the module, if it can, not of what it imports."""
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith(("<", _IMPORTLIB, _OWN_FOLDER))
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return "".join(
        f"{shown_path(frame.filename)}:{frame.lineno}: " for frame in (own or frames)[-1:]
    )


def _missing_module(module: str) -> str:
    path = Path(module if module.endswith(".py") else f"{module}.py")
    if path.is_file():
        name = ".".join(path.with_suffix("").parts)
        return f"{module} is a file: give its module, {name}"
    text = f"there is no module {module!r} in {Path.cwd()}, and none is installed"
    found = {each.name for each in pkgutil.iter_modules([str(Path.cwd())])}
    near = _near(module, found)
    return text + (f"; did you mean {near!r}?" if near else "")


def _near(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, 1)), None)


def _first_line(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
