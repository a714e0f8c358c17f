"""The framework that is tested, a server with its agents, and a provider of its tools."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from frameworks.provider import Provider, running_provider
from structlog.testing import capture_logs
from support.server import Server, serving

TESTS = Path(__file__).parents[1]
MODULES = {
    "pydantic-ai": "frameworks.hello_pydantic_ai",
    "langgraph": "frameworks.hello_langgraph",
    "openai-agents": "frameworks.hello_openai_agents",
    "google-adk": "frameworks.hello_adk",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses the framework; the session `frameworks` of nox gives it."""
    parser.addoption("--framework", required=True, choices=sorted(MODULES))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep tracebacks with the values of a framework out of the output: printing takes seconds."""
    with capture_logs():
        yield


@pytest.fixture(scope="session")
def framework(pytestconfig: pytest.Config) -> str:
    """Return the name of the framework, which is that of its extra."""
    return str(pytestconfig.getoption("--framework"))


@pytest.fixture(scope="session")
def agents(framework: str) -> ModuleType:
    """Return the module of the agents."""
    return import_module(MODULES[framework])


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """Return an HTTP server whose answers never end."""
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file into which the tools write what happened."""
    path = tmp_path_factory.mktemp("notes") / "notes.txt"
    path.touch()
    return path


@pytest.fixture(scope="session")
def server(
    agents: ModuleType,
    provider: Provider,
    notes: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Return a server with all agents of the module, and a native one."""
    names = ["hello", "slow", "blocking", "stubborn", "failing", "approving", "asking"]
    found = [name for name in names if hasattr(agents, name)]
    options = [part for name in found for part in ("--agent", f"{agents.__name__}:{name}")]
    native = ("--agent", "echo=netra_trio.agents.demo.echo:echo")
    environ = {"PYTHONPATH": str(TESTS), "PROVIDER": provider.url, "NOTES": str(notes)}
    directory = tmp_path_factory.mktemp("server")
    with serving(directory, *options, *native, **environ) as server:
        yield server


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of the adapters of other frameworks, which are not installed."""
    name = collection_path.stem
    if not name.startswith("test_adapter_"):
        return None
    own = MODULES[str(config.getoption("--framework"))].removeprefix("frameworks.hello_")
    return name != f"test_adapter_{own}"
