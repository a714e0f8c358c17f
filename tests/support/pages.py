"""A page of another origin, on a separate port.

with pages(b"<!doctype html><title>a page</title>") as port:
    … http://localhost:{port}/
"""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class _Page(http.server.BaseHTTPRequestHandler):
    """The same page for any path."""

    def __init__(self, html: bytes, *args: Any) -> None:
        self._html = html
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self._html)))
        self.end_headers()
        self.wfile.write(self._html)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


@contextmanager
def pages(html: bytes) -> Iterator[int]:
    """Serve a page and yield the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Page, html)) as host:
        thread = threading.Thread(target=host.serve_forever)
        thread.start()
        try:
            yield host.server_port
        finally:
            host.shutdown()
            thread.join()
