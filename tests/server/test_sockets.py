"""Listening sockets: several hosts, both families, and one port for all of them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.server import run, serving

from netra_trio.endpoints.request import peer_address
from netra_trio.server import sockets
from netra_trio.server.sockets import CannotListen, address_of, listen, listen_for_workers

IPV4, IPV6 = "127.0.0.1", "::1"


def reaches(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.settimeout(5)
        return sock.connect_ex((host, port)) == 0


def has_ipv6() -> bool:
    try:
        with socket.create_server((IPV6, 0), family=socket.AF_INET6):
            return socket.has_dualstack_ipv6()
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextmanager
def listening(*hosts: str, port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        socks = listen(hosts, port)
        for sock in socks:
            stack.enter_context(sock)
        yield socks


@needs_ipv6
@pytest.mark.parametrize(
    ("hosts", "count", "reached"),
    [
        ([IPV4], 1, {IPV4}),
        ([IPV6], 1, {IPV6}),
        (["::"], 1, {IPV4, IPV6}),
        (["0.0.0.0"], 1, {IPV4}),  # noqa: S104 - a test of it
        (["::", "0.0.0.0"], 2, {IPV4, IPV6}),  # noqa: S104 - a test of it
        (["0.0.0.0", "::"], 2, {IPV4, IPV6}),  # noqa: S104 - a test of it
        ([IPV4, IPV6], 2, {IPV4, IPV6}),
        ([IPV4, IPV4], 1, {IPV4}),
        (["::", IPV4, IPV6], 1, {IPV4, IPV6}),
        ([IPV6, "0.0.0.0", IPV4], 2, {IPV4, IPV6}),  # noqa: S104 - a test of it
    ],
)
def test_hosts(hosts: list[str], count: int, reached: set[str]) -> None:
    with listening(*hosts) as socks:
        assert len(socks) == count
        ports = {sock.getsockname()[1] for sock in socks}
        assert len(ports) == 1
        port = ports.pop()
        assert {host for host in (IPV4, IPV6) if reaches(host, port)} == reached


def test_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [IPV4, "127.0.0.2", IPV4]

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "both.example"
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with listening("both.example") as socks:
        assert [sock.getsockname()[0] for sock in socks] == [IPV4, "127.0.0.2"]


def test_an_address_of_a_name_that_is_not_usable_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [IPV4, "198.51.100.1"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (a, 0)) for a in found]
    )
    with listening("some.example") as socks:
        assert len(socks) == 1
    found.remove(IPV4)
    found.append("198.51.100.2")
    with pytest.raises(CannotListen, match=r"cannot listen on some\.example port 0: "):
        listen("some.example", 0)


def test_a_taken_port_names_its_host_and_closes_the_other_sockets() -> None:
    with listening("127.0.0.2") as [taken]:
        port = taken.getsockname()[1]
        with pytest.raises(
            CannotListen, match=f"cannot listen on 127.0.0.2 port {port}: "
        ) as caught:
            listen([IPV4, "127.0.0.2"], port)
        assert caught.value.is_taken
        assert not reaches(IPV4, port)


def test_a_free_port_is_free_on_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    bind, tries = socket.socket.bind, [0]

    def taken_at_first(sock: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "127.0.0.2":
            tries[0] += 1
            if tries[0] < sockets.PORT_TRIES:
                raise OSError(98, "taken")
        bind(sock, address)

    monkeypatch.setattr(socket.socket, "bind", taken_at_first)
    with listening(IPV4, "127.0.0.2") as socks:
        assert len(socks) == 2
    tries[0] = -1
    with pytest.raises(CannotListen):
        listen([IPV4, "127.0.0.2"], 0)
    assert tries[0] == sockets.PORT_TRIES - 1


@contextmanager
def of_workers(count: int, *hosts: str, port: int = 0) -> Iterator[list[list[socket.socket]]]:
    with ExitStack() as stack:
        found = listen_for_workers(hosts, port, count)
        for sock in {sock for socks in found for sock in socks}:
            stack.enter_context(sock)
        yield found


def accepted(sock: socket.socket) -> int:
    sock.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            count += 1
    return count


def test_connections_are_spread_over_the_sockets_of_the_workers() -> None:
    with of_workers(3, IPV4, "127.0.0.2") as found, ExitStack() as stack:
        ports = {sock.getsockname()[1] for socks in found for sock in socks}
        assert ([len(socks) for socks in found], len(ports)) == ([2, 2, 2], 1)
        (port,) = ports
        for _ in range(120):
            stack.enter_context(socket.create_connection((IPV4, port)))
        counts = [accepted(own) for own, _ in found]
        assert sum(counts) == 120
        assert min(counts) > 10


def test_the_port_of_workers_is_not_shared_with_another_server() -> None:
    with of_workers(2, IPV4) as found:
        port = found[0][0].getsockname()[1]
        for listen_too in (listen, partial(listen_for_workers, workers=2)):
            with pytest.raises(CannotListen) as caught:
                listen_too(IPV4, port)
            assert caught.value.is_taken
    with listening(IPV4) as [taken], pytest.raises(CannotListen):
        listen_for_workers(IPV4, taken.getsockname()[1], 2)


def test_workers_share_a_socket_where_the_system_does_not_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "IS_BALANCING", False)
    with of_workers(3, IPV4) as found:
        assert len({sock for (sock,) in found}) == 1


def test_the_address_of_a_socket() -> None:
    with listening(IPV4) as [sock]:
        assert address_of(sock) == f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_a_peer_over_ipv4_has_an_ipv4_address(address: str, expected: str) -> None:
    assert peer_address(address) == expected


@needs_ipv6
def test_serve_on_every_address(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "::") as server, httpx2.Client(trust_env=False) as client:
        assert server.address == f"[::]:{server.port}"
        for host in (IPV4, f"[{IPV6}]"):
            answer = client.post(f"http://{host}:{server.port}/ws/dev-token", json={"user": "a"})
            assert answer.status_code == 200
        client.get(f"http://{IPV4}:{server.port}/ws/stats")
        assert [line["peer"] for line in server.process.wait_log("opening_refused")] == [IPV4]


@needs_ipv6
def test_serve_on_two_hosts(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", IPV4, "--host", IPV6) as server:
        assert server.address == f"{IPV4}:{server.port}"
        assert f"Also on http://[::1]:{server.port}" in server.process.out.lines
        for host in (IPV4, f"[{IPV6}]"):
            url = f"http://{host}:{server.port}/ws/health"
            assert httpx2.get(url, trust_env=False).status_code == 200


def test_one_host_of_two_that_is_not_ours(tmp_path: Path) -> None:
    command = ["-m", "netra_trio", "serve", "--port", "0", "--host", IPV4, "--host", "192.0.2.1"]
    code, out, err = run(command, directory=tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("cannot listen on 192.0.2.1 port 0: ")
