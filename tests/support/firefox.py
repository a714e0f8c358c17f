"""Debian's Firefox, controlled by Playwright over WebDriver BiDi: for `nox -s firefox`.

    with firefox() as browser, visiting(browser, server.address) as visitor:
        …

The package is unpacked without installation, with the libraries that are missing here. It is the
Firefox that people have, not the one that Playwright builds. Playwright reports no WebSockets of
it, and cannot change its preferred colours.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Error, expect, sync_playwright

from support.debian import libraries, unpacked
from support.server import SOON

PACKAGE = "firefox-esr"


@contextmanager
def firefox() -> Iterator[Browser]:
    """Run a browser; a test fails if it cannot be had."""
    folder = unpacked(PACKAGE, pytest.fail)
    program = folder / "usr" / "lib" / PACKAGE / PACKAGE
    expect.set_options(timeout=SOON * 1000)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        paths = [str(program.parent), *libraries(folder)]
        try:
            browser = playwright.firefox.launch(
                channel="moz-firefox",
                executable_path=program,
                env={**os.environ, "HOME": home, "LD_LIBRARY_PATH": os.pathsep.join(paths)},
            )
        except Error as error:
            pytest.fail(f"Firefox does not start: {error.message[-500:]}")
        with browser:
            yield browser
