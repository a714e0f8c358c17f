"""The pages: their files, which are read once at the start, and the endpoint that serves them.

>>> page = read_page(Path("/no/such/folder"))
>>> page["/"].status, page["/admin"].status, page["/"].media_type
(503, 503, 'text/html; charset=utf-8')
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from attrs import field, frozen

from netra_trio.auth.provider import discovery_url
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.paths import ADMIN_PAGE
from netra_trio.endpoints.request import Request
from netra_trio.services import Services

FOLDER = Path(__file__).parent.parent / "page"
"""The output of the build of `frontend/pages`."""

INDEX = "index.html"
ADMIN = "admin.html"  # the live page, at `/admin`
PERMANENT_SECONDS = 365 * 24 * 3600  # a year: the longest max-age that caches honour

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""The media types by file suffix; other files are not served."""

_HASHED = re.compile(r"assets/.+-[A-Za-z0-9_-]{8}\.[a-z0-9]+")  # files that never change
_SCRIPT = re.compile(r'<script[^>]*\bsrc="/(assets/[^"]+\.js)"')  # with those it imports
_STYLE = re.compile(r'<link[^>]*\bhref="/(assets/[^"]+\.css)"')
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")

_NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>netra_trio: the page is not built</title>
<h1>The page is not built</h1>
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
        is_permanent: Whether its name changes with its content, so that caches may keep it.
        status: The HTTP status to send it with.
        etag: The ETag of its content.
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
        """The Cache-Control header."""
        if self.status != 200:  # noqa: PLR2004 - HTTP's own number
            return "no-store"
        if self.is_permanent:
            return f"public, max-age={PERMANENT_SECONDS}, immutable"
        return "no-cache"


_MISSING = Asset(_NOT_BUILT.encode(), MEDIA_TYPES[".html"], status=503)


def read_page(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """Return the files of the pages by path; for one that was not built, a page that explains that.

    `/chat.js` and `/chat.css` import the script and the style sheet: other pages that load them
    cannot know the hashed names.
    """
    if not (folder / INDEX).is_file():
        return {"/": _MISSING, ADMIN_PAGE: _MISSING}
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
    html = index.content.decode()
    entries = {
        f"/chat{suffix}": Asset(imports.encode(), MEDIA_TYPES[suffix])
        for suffix, pattern, form in ((".js", _SCRIPT, "import"), (".css", _STYLE, "@import"))
        # Relative to the server's origin, and not to that of the page which loads them.
        if (imports := "".join(f'{form} "./{path}";\n' for path in pattern.findall(html)))
    }
    admin = assets.pop(f"/{ADMIN}", _MISSING)
    return {"/": index, ADMIN_PAGE: admin, **assets, **entries}


async def page_file(files: Mapping[str, Asset], call: Call) -> Answer:
    """Return the file of the call's path, or 304 where the browser has this version.

    Args:
        files: The files of the page, by path.
        call: The request; its path is one of `files`.
    """
    asset = files[call.path]
    hosts = call.request.headers.get("host", [])
    headers = {
        "cache-control": asset.cache_control,
        "content-security-policy": content_security_policy(
            hosts[0] if len(hosts) == 1 else None, sign_in_urls(call.services)
        ),
        "cross-origin-opener-policy": "same-origin",
        "etag": asset.etag,
        "referrer-policy": "no-referrer",
    }
    if asset.status == 200 and _has_etag(call.request, asset.etag):  # noqa: PLR2004 - HTTP's own
        return Answer(304, headers=headers)
    return Answer(
        asset.status,
        headers={**headers, "content-type": asset.media_type},
        content=asset.content,
    )


def _has_etag(request: Request, etag: str) -> bool:
    known = ",".join(request.headers.get("if-none-match", []))
    # A proxy that compresses turns the ETag into a weak one; If-None-Match compares weakly.
    return any(part.strip().removeprefix("W/") in {etag, "*"} for part in known.split(","))


def sign_in_urls(services: Services) -> tuple[str, ...]:
    """Return the URLs at the OpenID Connect provider that the page needs to sign in.

    While this server does not know the provider's document, this is the whole origin of the issuer:
    the token endpoint is there at most providers.
    """
    issuer, provider = services.settings.oidc_issuer, services.verifier.provider
    if issuer is None:
        return ()
    if provider is None or provider.document is None:
        parts = urlsplit(issuer)
        return (f"{parts.scheme}://{parts.netloc}",)
    return (discovery_url(issuer), provider.document.token_endpoint)


def content_security_policy(host: str | None, urls: Iterable[str] = ()) -> str:
    """Return the page's policy: its own scripts and styles, and connections to its own server.

    Args:
        host: The Host header. It is listed because `'self'` does not include WebSockets in every
            browser; an invalid one is left out.
        urls: Other URLs that the page may connect to.
    """
    sockets = (
        [f"ws://{host}", f"wss://{host}"] if host is not None and _HOST.fullmatch(host) else []
    )
    others = [source for url in urls if (source := _source_of(url)) is not None]
    connections = " ".join(dict.fromkeys(["'self'", *sockets, *others]))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
            "media-src blob:",
            "font-src 'self'",
            f"connect-src {connections}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _source_of(url: str) -> str | None:
    """Return the source expression that allows one URL; None if there is none."""
    parts = urlsplit(url)
    if not _HOST.fullmatch(parts.netloc):
        return None
    # A query is not part of a source expression, and these two characters would end it.
    path = parts.path.replace(";", "%3B").replace(",", "%2C")
    return f"{parts.scheme}://{parts.netloc}{path}"
