"""Agents from `--agent`: one line with file, line and what to do for one that cannot work."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from netra_trio.cli import agent_faults
from netra_trio.cli.agent_import import (
    AgentFault,
    AgentSpec,
    as_agent,
    import_agents,
    import_permissions,
    load_agent,
)

AGENTS = """
from functools import partial

A_NUMBER = 5
NOTHING = None


async def shout(run):
    return run.upper()


async def whisper(run, tone="low"):
    return tone


async def needs_more(run, history):
    return history


async def needs_none():
    return None


def not_async(run):
    return run


async def stream(run):
    yield run


class Shop:
    async def __call__(self, run):
        return "shop"


class Sync:
    def __call__(self, run):
        return "sync"


shop = Shop()
sync = Sync()
bound = partial(needs_more, history=[])
unbound = partial(shout)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working directory, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(sys.modules)
    (tmp_path / "my_agents.py").write_text(AGENTS)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def fault(text: str) -> str:
    with pytest.raises(AgentFault) as raised:
        import_agents([text])
    shown = str(raised.value)
    assert "\n" not in shown
    return shown


@pytest.mark.parametrize(
    ("attribute", "result"),
    [("shout", "HI"), ("whisper", "low"), ("bound", []), ("unbound", "HI"), ("shop", "shop")],
)
def test_what_is_an_agent(attribute: str, result: object) -> None:
    agents = import_agents([f"my_agents:{attribute}", f"other=my_agents:{attribute}"])
    assert list(agents) == [attribute, "other"]

    async def call() -> object:
        answer: object = await agents["other"]("hi")  # type: ignore[arg-type]
        return answer

    assert trio.run(call) == result


@pytest.mark.parametrize("text", ["my_agents", ":shout", "my_agents:", "name=", "name=my_agents"])
def test_another_form(text: str) -> None:
    assert fault(text) == f"--agent: expected [NAME=]module:function, got {text!r}"


def test_a_name_twice() -> None:
    with pytest.raises(AgentFault, match="'shout' is given twice"):
        import_agents(["my_agents:shout", "shout=my_agents:whisper"])


ASYNC = "expected an async function of a Run: "
ONE = "cannot be called with one argument, a Run: "
FIX = "; give other parameters defaults, or bind them with functools.partial"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not_async", f'{ASYNC}PLACE: write "async def not_async"'),
        ("stream", f'{ASYNC}PLACE: it has "yield"; send text with "await run.emit(...)"'),
        ("Shop", f"{ASYNC}PLACE: it is a class; name a function, or an object with async __call__"),
        ("A_NUMBER", f"{ASYNC}it is of type int"),
        ("NOTHING", f"{ASYNC}it is of type NoneType"),
        ("sync", f"{ASYNC}it is of type Sync"),
        (
            "needs_more",
            f"PLACE: needs_more(run, history) {ONE}missing a required argument: 'history'{FIX}",
        ),
        ("needs_none", f"PLACE: needs_none() {ONE}too many positional arguments{FIX}"),
    ],
)
def test_what_is_no_agent(text: str, expected: str) -> None:
    starts = (f"async def {text}(", f"def {text}(", f"class {text}:")
    line = next((n for n, row in enumerate(AGENTS.splitlines(), 1) if row.startswith(starts)), 0)
    shown = expected.replace("PLACE", f"my_agents.py:{line}")
    assert fault(f"my_agents:{text}") == f"--agent my_agents:{text}: {shown}"


def test_a_function_of_a_library_without_source() -> None:
    assert fault("builtins:len").endswith('Run: write "async def len"')
    assert fault("builtins:int").endswith("name a function, or an object with async __call__")


def test_an_object_that_does_not_exist() -> None:
    assert fault("my_agents:shuot") == (
        "--agent my_agents:shuot: my_agents has no shuot (my_agents.py); did you mean 'shout'?"
    )
    assert fault("my_agents:zzz").endswith("; it has shout, whisper, needs_more, needs_none")
    assert "builtins has no zzz; it has no async function" in fault("builtins:zzz")


def test_a_module_with_many_functions(folder: Path) -> None:
    names = [f"agent_{letter}" for letter in "abcdefghi"]
    (folder / "many.py").write_text("".join(f"async def {name}(run): ...\n" for name in names))
    assert fault("many:zzz").endswith(f"it has {', '.join(names[:8])}, …")
    (folder / "eight.py").write_text("".join(f"async def {n}(run): ...\n" for n in names[:8]))
    assert fault("eight:zzz").endswith(f"it has {', '.join(names[:8])}")


def test_a_module_that_does_not_exist(folder: Path) -> None:
    assert fault("my_agent:shout") == (
        f"--agent my_agent:shout: there is no module 'my_agent' in {folder}, and none is "
        "installed; did you mean 'my_agents'?"
    )
    assert fault("xyz:shout").endswith("and none is installed")
    assert "there is no module 'xyz.agents'" in fault("xyz.agents:shout")


def test_a_file_is_no_module(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "shop.py").write_text("")
    assert fault("my_agents.py:shout").endswith(
        "my_agents.py is a file: give its module, my_agents"
    )
    text = "package/shop is a file: give its module, package.shop"
    assert fault("package/shop:shout").endswith(text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import json\nimport no_such_library\n",
            "broken.py:2: No module named 'no_such_library': install it, or correct the import",
        ),
        (
            "from json import no_such_name\n",
            "broken.py:1: cannot import name 'no_such_name' from 'json' (",
        ),
        ("\n\nx = undefined\n", "broken.py:3: NameError: name 'undefined' is not defined"),
        ("raise ValueError\n", "broken.py:1: ValueError"),
        ("raise ValueError('one\\ntwo')\n", "broken.py:1: ValueError: one"),
        ("import json\njson.loads('{')\n", "broken.py:2: JSONDecodeError: "),
        (
            "import sys\nsys.exit(3)\n",
            "broken.py:2: the module exits while it is imported; exit below `if __name__ == ",
        ),
        ("def f(:\n    pass\n", "broken.py:1: invalid syntax: def f(:"),
        ("x = 1\n  y = 2\n", "broken.py:2: unexpected indent: y = 2"),
        ("import broken_too\n", "broken_too.py:1: KeyError: 'x'"),
    ],
)
def test_a_module_that_cannot_be_imported(folder: Path, source: str, expected: str) -> None:
    (folder / "broken.py").write_text(source)
    (folder / "broken_too.py").write_text("{}['x']\n")
    assert fault("broken:agent").startswith(f"--agent broken:agent: {expected}")


def test_a_long_text_of_an_exception_is_cut(folder: Path) -> None:
    limit = agent_faults.SHOWN_CHARACTERS
    (folder / "long.py").write_text(f"raise ValueError('x' * {limit})\n")
    assert fault("long:agent").endswith("x" * limit)
    (folder / "longer.py").write_text(f"raise ValueError('x' * {limit + 1})\n")
    assert fault("longer:agent").endswith("x" * limit + "…")


def test_a_fault_in_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_faults, "_LIBRARIES", (str(folder),))
    (folder / "installed.py").write_text("import json\nimport no_such_library\n")
    assert "installed.py:2: No module named 'no_such_library'" in fault("installed:agent")


def test_syntax_errors_without_a_place() -> None:
    assert agent_faults.import_fault("m", SyntaxError("bad encoding")) == "bad encoding"


def test_a_class_without_source(folder: Path) -> None:
    made: object = type("Made", (), {"__module__": "no_such_module"})
    assert agent_faults.place_of(made) == ""
    assert agent_faults.place_of(5) == ""


def test_the_two_steps() -> None:
    sys.path.insert(0, "")
    spec = AgentSpec.parse("name=my_agents:shout")
    assert (spec.name, spec.module, spec.attribute) == ("name", "my_agents", "shout")
    found = load_agent(spec)
    assert as_agent(found, spec) is found


ROOMS = """
async def may(user, room, action):
    return (user, room, action) == ("alice", "news", "join")


async def too_few(user, room):
    return True


def not_async(user, room, action):
    return True
"""


EXPECTED = "expected an async function of a user, a room and an action"
CANNOT = "cannot be called with a user, a room and an action"


def test_the_function_for_rooms(folder: Path) -> None:
    (folder / "my_rooms.py").write_text(ROOMS)
    may = import_permissions("my_rooms:may")
    assert trio.run(may, "alice", "news", "join") is True
    assert trio.run(may, "alice", "news", "publish") is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my_rooms", "--rooms: expected module:function, got 'my_rooms'"),
        ("my_rooms:", "--rooms: expected module:function, got 'my_rooms:'"),
        (
            "my_rooms:not_async",
            f"--rooms my_rooms:not_async: {EXPECTED}, got function",
        ),
        (
            "my_rooms:too_few",
            f"--rooms my_rooms:too_few: {CANNOT}: too many positional arguments",
        ),
    ],
)
def test_a_function_that_is_not_for_rooms(folder: Path, text: str, expected: str) -> None:
    (folder / "my_rooms.py").write_text(ROOMS)
    with pytest.raises(AgentFault) as raised:
        import_permissions(text)
    assert str(raised.value) == expected


def test_the_module_of_the_function_for_rooms_is_missing() -> None:
    with pytest.raises(AgentFault, match=r"^--rooms my_roms:may: "):
        import_permissions("my_roms:may")
