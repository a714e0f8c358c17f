"""The lists of tests for workers name existing tests; a kept port is not given away."""

import socket
from pathlib import Path

import pytest
from support.ports import HOST, kept_port
from support.workers import LAST, SEPARATE, is_last

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("module", SEPARATE)
def test_each_separate_module_exists_and_its_tests_share_no_server(module: str) -> None:
    assert 'scope="module"' not in (TESTS / module).read_text()


@pytest.mark.parametrize("name", LAST)
def test_each_test_that_runs_last_exists(name: str) -> None:
    module, _, function = name.partition("::")
    assert f"def {function}(" in (TESTS / module).read_text()
    assert is_last(f"tests/{name}")
    assert is_last(f"tests/{name}[a::b]")
    assert not is_last(f"tests/{name}_too")


def test_a_kept_port_can_be_bound_by_servers_only() -> None:
    with kept_port() as port:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, port))
            with pytest.raises(OSError, match="no free port"), kept_port([port]):
                pass
            with (
                socket.create_server((HOST, port)) as server,
                socket.create_connection((HOST, port)) as client,
            ):
                server.accept()[0].close()
                assert client.recv(1) == b""
