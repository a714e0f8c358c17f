"""The build of the documentation site: pages are staged, and dead links are found."""

from pathlib import Path

import pytest

from docs import make_site


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    make_site.stage(folder)
    return folder


def test_every_page_is_staged_and_in_the_navigation(staged: Path) -> None:
    index = (staged / "index.md").read_text()
    trees = index[index.index("```{toctree}") :].splitlines()
    pages = {path.stem for path in staged.glob("*.md")} - {"index"}
    assert {page.stem for page in make_site.DOCS.glob("*.md")} <= pages | {"index"}
    assert {line for line in trees if line in pages or line == "api/index"} == pages | {"api/index"}


def test_every_page_of_a_section_is_there(staged: Path) -> None:
    for pages in make_site.SECTIONS.values():
        assert [page for page in pages if not (staged / f"{page}.md").exists()] == []


def test_links_out_of_the_folder_are_rewritten(staged: Path) -> None:
    assert "](../" not in (staged / "deployment.md").read_text()
    assert "](deploy/nginx.conf)" in (staged / "deployment.md").read_text()
    assert "](docs/" not in (staged / "readme.md").read_text()


def test_every_module_of_the_reference_is_importable(staged: Path) -> None:
    for name in make_site.MODULES:
        __import__(name)
        assert f".. automodule:: {name}" in (staged / "api" / f"{name}.rst").read_text()


def site(folder: Path, body: str) -> list[str]:
    (folder / "other.html").write_text('<h1 id="there">x</h1>')
    (folder / "file.txt").touch()
    (folder / "page.html").write_text(body)
    return list(make_site.dead_links(folder))


@pytest.mark.parametrize(
    "link",
    [
        "other.html",
        "other.html#there",
        "file.txt",
        "#here",
        "https://example.com/",
        "mailto:somebody@example.com",
    ],
)
def test_a_valid_link(tmp_path: Path, link: str) -> None:
    assert site(tmp_path, f'<p id="here"><a href="{link}">x</a>') == []


@pytest.mark.parametrize(
    "link", ["gone.html", "other.html#gone", "#gone", "htp://example.com/", "https:", "gone.png"]
)
def test_a_dead_link(tmp_path: Path, link: str) -> None:
    assert site(tmp_path, f'<img src="{link}">') == [f"page.html: {link}"]
