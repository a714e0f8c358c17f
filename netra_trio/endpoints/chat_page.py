"""The chat page's files, read once at the start: what is not among them cannot be asked for.

>>> page = read_page(Path("/no/such/folder"))
>>> page["/"].status, page["/"].media_type
(503, 'text/html; charset=utf-8')
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, field, frozen

FOLDER = Path(__file__).parent.parent / "page"
"""Where the build of `frontend/chat` puts the page."""

INDEX = "index.html"
PERMANENT_SECONDS = 365 * 24 * 3600  # a year is what caches take for ever

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""What a page may be made of, by the end of the name; other files are not served."""

_HASHED = re.compile(r"assets/.+-[A-Za-z0-9_-]{8}\.[a-z0-9]+")  # as Vite names what never changes
_ENTRY = re.compile(r'"(/assets/[^"]+(\.js|\.css))"')  # in the page: its script, its style sheet
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")

_NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>netra_trio: the chat page is not built</title>
<h1>The chat page is not built</h1>
<p>This installation comes from a checkout, and was made without the page. The server works.
<p>To build the page, run this in the checkout, and start the server again:
<pre>pip install .</pre>
</html>
"""


@frozen
class Asset:
    """A file of the page.

    Attributes:
        content: Its bytes.
        media_type: Its Content-Type.
        is_permanent: Whether its name changes when it does, so that it may be kept for ever.
        status: The HTTP status to send it with.
        etag: Says which version it is.
    """

    content: bytes
    media_type: str
    is_permanent: bool = False
    status: int = 200
    etag: str = field(init=False)

    @etag.default
    def _etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    @property
    def cache_control(self) -> str:
        """How long it may be kept without asking."""
        if self.status != 200:  # noqa: PLR2004 - HTTP's own number
            return "no-store"
        if self.is_permanent:
            return f"public, max-age={PERMANENT_SECONDS}, immutable"
        return "no-cache"


def read_page(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """Return the files of the page by their path; where none was built, a page that says so.

    The script and the style sheet are also at `/chat.js` and `/chat.css`, for pages that are not
    this one and cannot know names that change.
    """
    if not (folder / INDEX).is_file():
        return {"/": Asset(_NOT_BUILT.encode(), MEDIA_TYPES[".html"], status=503)}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assets = {
        f"/{path.relative_to(folder).as_posix()}": Asset(
            path.read_bytes(),
            MEDIA_TYPES[path.suffix],
            is_permanent=_HASHED.fullmatch(path.relative_to(folder).as_posix()) is not None,
        )
        for path in files
        if path.suffix in MEDIA_TYPES
    }
    index = assets.pop(f"/{INDEX}")
    entries = {
        f"/chat{suffix}": evolve(assets[path], is_permanent=False)
        for path, suffix in _ENTRY.findall(index.content.decode())
        if path in assets
    }
    return {"/": index, **assets, **entries}


def content_security_policy(host: str | None) -> str:
    """Return what the page may do: its own scripts and styles, and talk to the server it came from.

    Args:
        host: What the browser calls this server. It is named because not every browser takes
            `'self'` to mean the WebSocket too; one that is no host name is left out.
    """
    sockets = f" ws://{host} wss://{host}" if host is not None and _HOST.fullmatch(host) else ""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "font-src 'self'",
            f"connect-src 'self'{sockets}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )
