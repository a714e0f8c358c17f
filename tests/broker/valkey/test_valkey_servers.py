"""Which servers are accepted, and how a connection finds them: login, TLS, Sentinel, DNS."""

import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
import trio
import trustme
from attrs import evolve, frozen
from support.markdown import DOCS
from support.ports import HOST, kept_port
from support.valkey import PATIENCE, Server, server
from support.valkey_nodes import everything_works, opened, until, until_true
from support.worlds import batch, session_of

from netra_trio.broker.base import Appended
from netra_trio.broker.valkey import dialing
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.broker.valkey.choice import backend_of
from netra_trio.broker.valkey.connection import packed
from netra_trio.errors import BrokerUnavailable, BrokerUnusable
from netra_trio.ids import new_node_id

STORED, STALE = Appended.STORED, Appended.STALE
PASSWORD = "s3cr3t /:@%"
ENCODED = quote(PASSWORD, safe="")


async def refusal(url: str) -> str:
    """Return why a server can never be used."""
    with structlog.testing.capture_logs() as logs, pytest.raises(BrokerUnusable) as caught:
        async with ValkeyBackend(new_node_id(), url).open():
            pass
    text = str(caught.value)
    for shown in (text, repr(caught.value), str(logs), repr(caught.value.__context__)):
        assert PASSWORD not in shown
        assert ENCODED not in shown
    return text


async def fault(url: str) -> str:
    """Return why a server cannot be used now."""
    backend = ValkeyBackend(new_node_id(), url)
    async with backend.open():
        try:
            await backend.check()
        except BrokerUnavailable as error:
            text = str(error)
            assert PASSWORD not in text
            assert ENCODED not in text
            return text
    return "none"


async def test_without_a_url_there_is_no_backend() -> None:
    node = new_node_id()
    assert backend_of(None, node) is None
    backend = backend_of(f"redis://:{ENCODED}@localhost", node)
    assert isinstance(backend, ValkeyBackend)
    assert backend.directory.node == node
    assert ENCODED not in repr(backend)
    assert PASSWORD not in repr(backend)


def test_nothing_is_loaded_without_a_url() -> None:
    """A fresh interpreter: this one has loaded all."""
    code = "import sys, netra_trio.cli.check; sys.exit('hiredis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - this interpreter


# --- login


async def test_passwords(own_server: Server, nursery: trio.Nursery) -> None:
    own_server.command("CONFIG", "SET", "requirepass", PASSWORD)
    assert "the server requires a password" in await refusal(own_server.url)
    path = own_server.socket
    for login in (":wrong", "someone:wrong", f"someone:{ENCODED}"):
        assert "refuses user and password" in await refusal(f"unix://{login}@{path}")
    one, two = [
        await opened(f"unix://{login}:{ENCODED}@{path}", nursery) for login in ("", "default")
    ]
    await everything_works(one, two)


async def test_the_user_of_the_documentation(own_server: Server, nursery: trio.Nursery) -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"ACL SETUSER .*", text)
    words = line.replace(">password", f">{PASSWORD.replace(' ', '_')}").split()
    assert own_server.command(*words) == b"OK"
    url = f"unix://netra:{quote(PASSWORD.replace(' ', '_'), safe='')}@{own_server.socket}"
    one, two = [await opened(url, nursery) for _ in range(2)]
    await everything_works(one, two)
    await one.check()
    told, nodes = await ValkeyBackend(new_node_id(), url).try_out()
    assert (told.policy, nodes) == ("noeviction", 2)


@pytest.mark.parametrize(
    "rules",
    [
        "~other:* &* +@all",
        "~* &other:* +@all",
        "~* &* +@all -script",
        "~* &* +@all -evalsha",
        "~* &* +@all -xadd",
    ],
)
async def test_a_user_who_may_too_little(own_server: Server, rules: str) -> None:
    own_server.command("ACL", "SETUSER", "little", "on", ">pw", *rules.split())
    text = await refusal(f"unix://little:pw@{own_server.socket}")
    assert "may not do what is needed" in text


async def test_a_user_who_may_not_ask_for_the_policy(
    own_server: Server, nursery: trio.Nursery
) -> None:
    own_server.command("ACL", "SETUSER", "most", "on", ">pw", "~*", "&*", "+@all", "-info")
    with structlog.testing.capture_logs() as logs:
        one = await opened(f"unix://most:pw@{own_server.socket}", nursery)
    assert "broker_policy_unknown" in [each["event"] for each in logs]
    await one.check()


# --- servers that cannot be used


async def test_a_server_that_evicts_keys(own_server: Server, nursery: trio.Nursery) -> None:
    one = await opened(own_server.url, nursery)
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy allkeys-lru" in await refusal(own_server.url)
    # A server that is changed later is noticed at the next connection.
    connection = one._lasting[0].connection
    assert connection is not None
    connection.close("cut")
    await until_true(lambda: one._lasting[0].unusable)
    with pytest.raises(BrokerUnavailable, match="maxmemory-policy allkeys-lru"):
        await one.check()
    own_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await until(one.check)


async def test_a_server_that_becomes_a_replica(nursery: trio.Nursery) -> None:
    with kept_port() as port, server("redis", port=port) as primary, server("redis") as other:
        one = await opened(other.url, nursery)
        other.command("REPLICAOF", HOST, port)
        with pytest.raises(BrokerUnavailable, match=r"READONLY|is a replica"):
            await one.directory.renew()
        await until_true(lambda: one._lasting[0].unusable)
        with pytest.raises(BrokerUnavailable, match="the server is a replica and takes no writes"):
            await one.check()
        assert "is a replica" in await refusal(other.url)
        other.command("REPLICAOF", "NO", "ONE")
        await everything_works(one, await opened(other.url, nursery))
        assert primary.command("PING") == b"PONG"
        nursery.cancel_scope.cancel()


async def test_a_cluster(nursery: trio.Nursery) -> None:
    with server("redis", {"cluster-enabled": "yes"}) as cluster:
        assert "Redis Cluster is not supported" in await refusal(cluster.url)


async def test_another_database(own_server: Server) -> None:
    assert "has no database 16" in await refusal(f"{own_server.url}?db=16")
    assert await fault(f"{own_server.url}?db=15") == "none"


HELLO = (
    "%7\r\n+server\r\n+redis\r\n+version\r\n+{version}\r\n+proto\r\n:3\r\n+id\r\n:1\r\n"
    "+mode\r\n+{mode}\r\n+role\r\n+{role}\r\n+modules\r\n*0\r\n"
)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            HELLO.format(version="6.1.9", mode="standalone", role="master"),
            "version 6.1.9: use",
        ),
        (HELLO.format(version="", mode="standalone", role="master"), "version unknown: use Valkey"),
        (
            HELLO.format(version="7.2", mode="sentinel", role="sentinel"),
            "REDIS_URL like sent",
        ),
        (HELLO.format(version="7.2", mode="standalone", role="replica"), "is a replica"),
        (f"-ERR unknown command `HELLO`, with args beginning with: `{PASSWORD}`\r\n", "RESP3"),
        ("-NOPROTO unsupported protocol version\r\n", "RESP3"),
        ("-DENIED Redis is running in protected mode\r\n", "protected mode"),
        (
            "-ERR AUTH <password> called without any password configured for the default user\r\n",
            "remove that in REDIS_URL",
        ),
        ("-NOPERM this user has no permissions\r\n", "may not do what is needed"),
        ("+what\r\n", "version unknown"),
    ],
)
async def test_handshakes_that_are_refused(answer: str, why: str, nursery: trio.Nursery) -> None:
    port = await answering(answer.encode(), nursery)
    assert why in await refusal(f"redis://:{ENCODED}@{HOST}:{port}")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("-LOADING Redis is loading the dataset\r\n", r"refuses the connection \(LOADING\)"),
        (f"-ERR max number {PASSWORD}\r\n", r"refuses the connection \(ERR\)"),
        ("", "has closed the connection"),
        ("HTTP/1.1 400 Bad Request\r\n", "does not speak RESP3"),
    ],
)
async def test_handshakes_that_fail_now(answer: str, why: str, nursery: trio.Nursery) -> None:
    port = await answering(answer.encode(), nursery)
    assert re.search(why, await fault(f"redis://:{ENCODED}@{HOST}:{port}"))


async def answering(answer: bytes, nursery: trio.Nursery) -> int:
    """Start a server that answers each connection once, and hangs up; return its port."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    start = partial(trio.serve_tcp, serve, 0, host=HOST)
    listeners: list[trio.SocketListener] = await nursery.start(start)
    return int(listeners[0].socket.getsockname()[1])


async def test_nothing_listens() -> None:
    with kept_port() as port:
        assert "cannot be reached" in await fault(f"redis://:{ENCODED}@{HOST}:{port}")
    text = await fault(f"redis://:{ENCODED}@no-such-host.invalid")
    assert text.startswith("no-such-host.invalid:6379 cannot be reached: ")


# --- TLS


@frozen
class Certificates:
    """Files of an authority, and of certificates that it has issued."""

    authority: Path
    server: Path
    client: Path
    other_authority: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    files = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "client", "other")))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files.authority))
    trustme.CA().cert_pem.write_to_path(str(files.other_authority))
    for file, name in ((files.server, "localhost"), (files.client, "client.example.com")):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(file))
    return files


@contextmanager
def tls_server(certificates: Certificates, auth_clients: str) -> Iterator[tuple[Server, int]]:
    with kept_port() as port:
        tls: dict[str, str | int] = {
            "tls-port": port,
            "tls-cert-file": str(certificates.server),
            "tls-key-file": str(certificates.server),
            "tls-ca-cert-file": str(certificates.authority),
            "tls-auth-clients": auth_clients,
        }
        with server("redis", tls) as running:
            yield running, port


async def test_tls(certificates: Certificates, nursery: trio.Nursery) -> None:
    files = certificates
    with tls_server(files, "no") as (running, port):
        place = f"localhost:{port}"
        url = f"rediss://{place}?ssl_ca_certs={files.authority}"
        one, two = [await opened(url, nursery) for _ in range(2)]
        await everything_works(one, two)
        # The reply is greater than a TLS record and than the buffers.
        record = session_of(one.directory)
        parts = [batch(record, at or None, at + 1, bytes(100_000)) for at in range(20)]
        assert await one.directory.append(parts) == [STORED] * 20
        assert await two.directory.read(record.session_id) == [bytes(100_000)] * 20
        running.kill()
        running.start()
        await everything_works(one, two)

        assert "name the file of its authority as ssl_ca_certs" in await refusal(
            f"rediss://{place}"
        )
        wrong = f"rediss://{place}?ssl_ca_certs={files.other_authority}"
        assert f"the certificate of {place} is not valid" in await refusal(wrong)
        wrong = f"rediss://{HOST}:{port}?ssl_ca_certs={files.authority}"
        assert "IP address mismatch" in await refusal(wrong)
        assert await fault(f"redis://{place}") == f"{place} hung up"
        nursery.cancel_scope.cancel()


async def test_a_certificate_of_the_client(certificates: Certificates) -> None:
    files = certificates
    with tls_server(files, "yes") as (_, port):
        url = f"rediss://localhost:{port}?ssl_ca_certs={files.authority}"
        assert await fault(url) != "none"
        assert await fault(f"{url}&ssl_certfile={files.client}") == "none"
        assert (
            await fault(f"{url}&ssl_certfile={files.client}&ssl_keyfile={files.client}") == "none"
        )


async def test_tls_with_a_server_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "DIAL_SECONDS", 0.2)
    with kept_port() as port, server("valkey", port=port):
        # It waits for the rest of what it takes for a command.
        assert await fault(f"rediss://{HOST}:{port}") == (
            f"{HOST}:{port} does not answer within 0.2 s"
        )


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_files_that_cannot_be_used(tmp_path: Path, option: str) -> None:
    text = tmp_path / "text"
    text.write_text("no certificate")
    for file in (tmp_path / "missing", text):
        with pytest.raises(BrokerUnusable, match="names a bad file"):
            ValkeyBackend(new_node_id(), f"rediss://localhost?{option}={file}")


# --- DNS


class Names(trio.abc.HostnameResolver):
    """Resolves one name to one port of this machine, which can change."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        assert host == b"cache.example.com"
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.address, port))]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_a_name_is_looked_up_again(nursery: trio.Nursery) -> None:
    with (
        kept_port() as port,
        server("valkey", port=port) as old,
        server("valkey", {"bind": "127.0.0.2"}, port=port) as new,
    ):
        names = Names("127.0.0.1")
        trio.socket.set_custom_hostname_resolver(names)
        url = f"redis://cache.example.com:{port}"
        one, two = [await opened(url, nursery) for _ in range(2)]
        await everything_works(one, two)
        assert new.clients() == []
        names.address = "127.0.0.2"
        old.kill()
        await everything_works(one, two)
        assert len(new.clients()) == 6
        nursery.cancel_scope.cancel()


# --- Sentinel


@contextmanager
def sentinel_of(port: int, **settings: str | int) -> Iterator[tuple[Server, int]]:
    """Run a Sentinel that watches a server by the name `main`."""
    watched: dict[str, str | int] = {
        "sentinel monitor main": f"{HOST} {port} 1",
        "sentinel down-after-milliseconds main": 200,
        "sentinel failover-timeout main": 2000,
    }
    with kept_port() as own:
        running = server("redis", {**watched, **settings}, port=own, arguments=("--sentinel",))
        with running as sentinel:
            yield sentinel, own


@contextmanager
def watched_by_sentinel(port: int, replica: Server) -> Iterator[tuple[Server, int]]:
    """Run a Sentinel that knows a server and its replica."""
    deadline = time.monotonic() + PATIENCE
    while b"master_link_status:up" not in replica.command("INFO", "REPLICATION"):
        assert time.monotonic() < deadline, replica.log
        time.sleep(0.01)
    with sentinel_of(port) as (sentinel, own):
        while not sentinel.command("SENTINEL", "REPLICAS", "main"):
            assert time.monotonic() < deadline, sentinel.log
            time.sleep(0.01)
        yield sentinel, own


async def test_a_fail_over_to_older_data(nursery: trio.Nursery) -> None:
    with (
        kept_port() as first_port,
        kept_port() as second_port,
        kept_port() as dead_port,
        server("redis", {"repl-diskless-sync-delay": 0}, port=first_port) as first,
        server("redis", {"replicaof": f"{HOST} {first_port}"}, port=second_port) as second,
        watched_by_sentinel(first_port, second) as (_, sentinel_port),
    ):
        url = f"sentinel://{HOST}:{dead_port},{HOST}:{sentinel_port}/main"
        one, two = [await opened(url, nursery) for _ in range(2)]
        await everything_works(one, two)
        stale, moved = [session_of(one.directory) for _ in range(2)]
        await one.directory.append([batch(stale, None, 1, b"1"), batch(moved, None, 1, b"1")])
        assert first.commands([("SET", "k", 1), ("WAIT", 1, 5000)])[1] == 1
        # From now on the replica receives nothing.
        first.command("ACL", "SETUSER", "default", "-psync", "-sync")
        first.command("CLIENT", "KILL", "TYPE", "replica")
        await one.directory.append([batch(stale, 1, 2, b"2")])
        assert await two.directory.take(moved.session_id, owner=one.node, epoch=1)
        await until_true(
            lambda: second.command("INFO", "REPLICATION").count(b"master_link_status:down")
        )
        first.kill()
        await until_true(lambda: b"role:master" in second.command("INFO", "REPLICATION"))
        await everything_works(one, two)
        # The log is replaced, and the later owner is adopted by its epoch.
        assert await one.directory.append([batch(stale, 2, 3)]) == [STALE]
        assert await one.directory.append([batch(stale, None, 3, b"3")]) == [STORED]
        found = (await one.directory.find(moved.session_id)).record
        assert found == moved
        later = evolve(moved, owner=two.node, epoch=2)
        assert await two.directory.append([batch(later, 1, 2)]) == [STALE]
        assert await two.directory.append([batch(later, None, 2)]) == [STORED]
        assert await one.directory.append([batch(moved, None, 2)]) == [Appended.FENCED]
        nursery.cancel_scope.cancel()


async def test_sentinels_that_know_no_server(nursery: trio.Nursery) -> None:
    with kept_port() as port, server("redis", port=port) as running:
        with sentinel_of(port) as (_, sentinel_port):
            known = f"sentinel://{HOST}:{sentinel_port}/main"
            assert await fault(known) == "none"
            assert "no Sentinel knows the service 'other'" in await refusal(
                f"sentinel://{HOST}:{sentinel_port}/other"
            )
            # The server has become a replica, and the Sentinel has not noticed.
            running.command("REPLICAOF", HOST, 1)
            assert "is a replica, until the Sentinels have agreed" in await fault(known)
        assert f"no Sentinel gives an address: {HOST}:{sentinel_port} cannot be" in await fault(
            known
        )


async def test_passwords_of_sentinels(nursery: trio.Nursery) -> None:
    with kept_port() as port, server("redis", port=port) as running:
        running.command("CONFIG", "SET", "requirepass", PASSWORD)
        with sentinel_of(port) as (_, sentinel_port):  # without a password
            assert await fault(f"sentinel://:{ENCODED}@{HOST}:{sentinel_port}/main") == "none"
        with sentinel_of(port, requirepass="other") as (_, sentinel_port):
            place = f"{HOST}:{sentinel_port}/main"
            assert "requires a password" in await refusal(f"sentinel://{place}")
            assert "refuses user and password" in await refusal(f"sentinel://:{ENCODED}@{place}")
        running.commands([("AUTH", PASSWORD), ("CONFIG", "SET", "requirepass", "other")])
        with sentinel_of(port, requirepass="other") as (_, sentinel_port):
            for login in ("", "default"):
                assert (
                    await fault(f"sentinel://{login}:other@{HOST}:{sentinel_port}/main") == "none"
                )


async def test_a_sentinel_by_tls(certificates: Certificates, nursery: trio.Nursery) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server)
    with tls_server(certificates, "no") as (_, port):
        found = b"*2\r\n$9\r\nlocalhost\r\n$%d\r\n%d\r\n" % (len(str(port)), port)
        questions: list[bytes] = []

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            questions.append(bytes(await stream.receive_some()))
            await stream.send_all(found)

        start = partial(trio.serve_ssl_over_tcp, serve, 0, context, host=HOST)
        listeners: list[Any] = await nursery.start(start)
        sentinel_port = listeners[0].transport_listener.socket.getsockname()[1]
        url = f"sentinels://localhost:{sentinel_port}/main?ssl_ca_certs={certificates.authority}"
        assert await fault(url) == "none"
        assert questions[0] == packed(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"))
        nursery.cancel_scope.cancel()
