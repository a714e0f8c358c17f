"""The chat of `docs/doors-vercel.md`, bundled as a page for a browser.

with pages(vercel_page()) as port:
    … http://localhost:{port}/?api=…&id=…#token …
"""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from support.markdown import DOCS
from support.node import evaluate, installed
from support.react_page import printed_files

FILES = printed_files(DOCS / "doors-vercel.md")

_MAIN = """
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat.jsx";

const given = new URLSearchParams(location.search);
const [api, id] = [given.get("api"), given.get("id")];
const chat = <Chat api={api} id={id} token={location.hash.slice(1)} />;
createRoot(document.getElementById("root")).render(chat);
"""
_BUILD = """
import esbuild from "esbuild";
const built = await esbuild.build({
  entryPoints: [%s], bundle: true, write: false, jsx: "automatic", minify: true,
  define: { "process.env.NODE_ENV": '"production"' },
});
console.log(built.outputFiles[0].text);
"""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 42rem; color: #1f2328 }
article { padding: 0.25rem 1rem; margin: 1rem 0; border-radius: 12px; background: #f3f5f8 }
article.user { background: #dfeaff; margin-left: 30% }
i { color: #57606a } code { font-size: 0.85rem }
button, input { font: inherit; padding: 0.3rem 0.7rem }
"""


@cache
def vercel_page() -> bytes:
    """Return the page."""
    folder = Path(tempfile.mkdtemp(prefix="vercel-", dir=installed()))
    try:
        for name in ("Chat.jsx", "Part.jsx"):
            (folder / name).write_text(FILES[name], encoding="utf-8")
        main = folder / "main.jsx"
        main.write_text(_MAIN, encoding="utf-8")
        script = evaluate(_BUILD % json.dumps(str(main)))
    finally:
        shutil.rmtree(folder)
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Chat</title>'
    script = script.replace("</script", "<\\/script")
    style = f"<style>{_STYLE}</style></head>"
    body = f'<body><div id="root"></div><script>{script}</script></body></html>'
    return f"{head}{style}{body}".encode()
