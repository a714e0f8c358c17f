"""The configuration of Sphinx for `nox -s site`, which stages the pages (see `make_site.py`)."""

import ast
from importlib.metadata import version as version_of
from textwrap import dedent

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

project = "netra_trio"
version = release = version_of("netra-trio")
author = "the authors of netra_trio"
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"netra_trio {release}"
html_static_path = ["_static"]
html_js_files = ["mermaid.min.js", "drawings.js"]
html_show_sourcelink = False
html_show_copyright = False
myst_heading_anchors = 6
myst_fence_as_directive = ["mermaid"]
default_role = "code"  # of text in single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # no targets: a field that is named as a type would be one for the type
suppress_warnings = ["misc.highlighting_failure"]  # consoles and blocks with an ellipsis


class Mermaid(Directive):
    """A diagram as text: a script on the page renders it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the text in the element that the script renders."""
        text = nodes.Text("\n".join(self.content)).astext()
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        return [nodes.raw("", f'<pre class="mermaid">{escaped}</pre>', format="html")]


def mark_code(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Turn each paragraph of a docstring that is code into a code block."""
    paragraphs = "\n".join(lines).split("\n\n")
    marked = [_as_block(text) if is_code(text) else text for text in paragraphs]
    lines[:] = "\n\n".join(marked).splitlines()


def is_code(text: str) -> bool:
    """Whether a paragraph is an example: it has code characters, and it is valid Python."""
    if text.lstrip().startswith(">>>") or not any(mark in text for mark in "(=["):
        return False
    try:
        code = compile(
            dedent(text).replace("…", "..."),
            "",
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST,
        )
    except SyntaxError:
        return False
    return bool(code)


def _as_block(text: str) -> str:
    return "::\n\n" + "\n".join(f"    {line}" for line in dedent(text).splitlines())


def setup(app: Sphinx) -> None:
    """Register the directive and the hook."""
    app.add_directive("mermaid", Mermaid)
    app.connect("autodoc-process-docstring", mark_code)
