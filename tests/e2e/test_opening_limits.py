"""The rate of openings from outside: one user opens too many connections, another one does not."""

import time
from pathlib import Path

import pytest
from support.server import ask, bearer, serving, sign, upgrade_request

pytestmark = pytest.mark.unmeasured

BURST = 20  # of a rate of one a second


def test_a_user_beyond_the_rate_is_rejected_and_others_are_not(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_OPENING_RATE="1") as server:

        def opened(user: str) -> int:
            head = upgrade_request(server.address, "/ws", [bearer(sign(user))])
            return ask(server.address, head).status

        start, accepted = time.monotonic(), 0
        head = upgrade_request(server.address, "/ws", [bearer(sign("mallory"))])
        while (answer := ask(server.address, head)).status == 101:
            accepted += 1
            # A busy machine takes seconds for the burst, and each second permits one more.
            assert accepted <= BURST + time.monotonic() - start + 1
        assert accepted >= BURST
        answer.refuses(429, "RATE_LIMIT_EXCEEDED")
        assert int(answer.headers["retry-after"]) >= 1
        assert opened("alice") == 101
        # A rejected opening with a wrong token is not the user's.
        assert ask(server.address, upgrade_request(server.address)).status == 401
