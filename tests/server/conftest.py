"""Fixtures of the server's tests."""

import hypercorn.protocol
import hypercorn.protocol.h11
import hypercorn.trio.run
import pytest


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the patches of Hypercorn."""
    for module, name in (
        (hypercorn.trio.run, "TCPServer"),
        (hypercorn.protocol, "H11Protocol"),
        (hypercorn.protocol, "H2Protocol"),
        (hypercorn.protocol.h11, "WSStream"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
