"""REDIS_URL: what is accepted, what is shown, and that nothing secret is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.settings import KEY, STRICT, faults, loaded

from netra_trio.config.loading import describe, load
from netra_trio.config.redis_url import MAX_DATABASE, RedisAddress, RedisUrl, parse

LOCAL = ("127.0.0.1", 6379)
SENTINELS = (("a", 26379), ("b", 5000), ("::1", 26379))
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1", RedisAddress((LOCAL,))),
        ("redis://127.0.0.1/", RedisAddress((LOCAL,))),
        ("REDIS://127.0.0.1:6380/0", RedisAddress((("127.0.0.1", 6380),))),
        ("redis://h/15", RedisAddress((("h", 6379),), database=15)),
        (f"redis://h/{MAX_DATABASE}", RedisAddress((("h", 6379),), database=MAX_DATABASE)),
        ("redis://[::1]:7/2", RedisAddress((("::1", 7),), database=2)),
        ("redis://:p%40w@h", RedisAddress((("h", 6379),), password="p@w")),
        ("redis://u%3A@h", RedisAddress((("h", 6379),), user="u:")),
        ("redis://u:p:w@h", RedisAddress((("h", 6379),), user="u", password="p:w")),
        ("redis://u:p@w@h", RedisAddress((("h", 6379),), user="u", password="p@w")),
        ("rediss://h:1", RedisAddress((("h", 1),), is_tls=True)),
        (
            "rediss://h?ssl_ca_certs=/a%20b.pem&ssl_certfile=c&ssl_keyfile=k",
            RedisAddress(
                (("h", 6379),), is_tls=True, ca_file="/a b.pem", cert_file="c", key_file="k"
            ),
        ),
        ("unix:///run/v%20k.sock", RedisAddress(path="/run/v k.sock")),
        ("unix://u:p@/s?db=3", RedisAddress(path="/s", user="u", password="p", database=3)),
        ("sentinel://a,b:5000,[::1]/main", RedisAddress(SENTINELS, service="main")),
        (
            "sentinels://u:p@a,b:5000,[::1]/my%2Fmain/4",
            RedisAddress(
                SENTINELS,
                is_tls=True,
                user="u",
                password="p",
                service="my/main",
                database=4,
            ),
        ),
    ],
)
def test_addresses(url: str, address: RedisAddress) -> None:
    assert parse(url) == address
    assert RedisUrl().read(f" {url} ") == url
    # What is shown is a URL of the same place.
    shown = parse(RedisUrl().show(url))
    assert (shown.hosts, shown.path, shown.service) == (
        address.hosts,
        address.path,
        address.service,
    )
    assert (shown.user, shown.database) == (address.user, address.database)
    assert shown.is_tls == address.is_tls
    assert shown.password == (None if address.password is None else "***")


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        (f"http://:{SECRET}@h", "use one of these"),
        (SECRET, "use one of these"),
        (f"redis:{SECRET}", "use one of these"),
        (f"valkey://:{SECRET}@h", "write it with redis://"),
        (f"redis+socket:///{SECRET}", "write it with unix://"),
        (f"rediss+cluster://:{SECRET}@h", "Redis Cluster is not supported"),
        (f"redis://:{SECRET} @h", "percent-encode blanks"),
        (f"redis://:{SECRET}é@h", "percent-encode blanks"),
        (f"redis://:{SECRET}%ff@h", "percent-encode in UTF-8"),
        (f"redis://:{SECRET}/x@h", "percent-encode characters"),
        (f"redis://:{SECRET}?x@h", "percent-encode characters"),
        (f"redis://:{SECRET}#x@h", "percent-encode characters"),
        (f"redis://:{SECRET}@[::1", "percent-encode characters"),
        (f"redis://:{SECRET}@h:0", "write each host as name:port"),
        (f"redis://:{SECRET}@h:65536", "write each host as name:port"),
        (f"redis://:{SECRET}@h:x", "write each host as name:port"),
        (f"redis://:{SECRET}@h:", "write each host as name:port"),
        (f"redis://:{SECRET}@", "write each host as name:port"),
        (f"redis://:{SECRET}@a,b", "several are for sentinel://"),
        (f"redis://:{SECRET}@h/x", "write the database as a number"),
        (f"redis://:{SECRET}@h/-1", "write the database as a number"),
        (f"redis://:{SECRET}@h/10000", "write the database as a number"),
        (f"redis://:{SECRET}@h/1/2", "write one number after the host"),
        (f"redis://:{SECRET}@h?db=1", "number of the database at the end"),
        (f"redis://:{SECRET}@h?ssl_ca_certs=x", "begin with rediss:// to use ssl_ca_certs"),
        (f"rediss://:{SECRET}@h?ssl_keyfile=x", "add ssl_certfile"),
        (f"rediss://:{SECRET}@h?{SECRET}=x", "after the ? write only db, ssl_ca_certs"),
        (f"rediss://:{SECRET}@h?ssl_ca_certs=", "after the ? write only"),
        (f"rediss://:{SECRET}@h?ssl_ca_certs=a&ssl_ca_certs=b", "each once"),
        (f"unix://{SECRET}/x", "write three slashes"),
        (f"unix://:{SECRET}@/", "write three slashes"),
        (f"unix:///{SECRET}?ssl_ca_certs=x", "leave out every option but db"),
        (f"unix:///{SECRET}?db=x", "write the database as a number"),
        (f"sentinel://:{SECRET}@a", "name the service"),
        (f"sentinel://:{SECRET}@a/", "name the service"),
        (f"sentinel://:{SECRET}@a//1", "name the service"),
        (f"sentinel://:{SECRET}@a/s/1/2", "name the service"),
        (f"sentinel://:{SECRET}@a/s/x", "write the database as a number"),
        (f"sentinel://:{SECRET}@a,/s", "write each host as name:port"),
    ],
)
def test_faults_say_how_to_fix_them(tmp_path: Path, url: str, fix: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "REDIS_URL": url})
    assert line.startswith(f"REDIS_URL: got {len(url.encode())} bytes (kept secret), expected ")
    assert fix in line
    assert SECRET not in line


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for url in (text, f"redis://{text}", f"sentinel://{text}", f"unix://{text}"):
        try:
            address = parse(url)
        except ValueError:
            continue
        assert parse(address.shown).hosts == address.hosts


def test_the_password_is_not_in_any_text() -> None:
    address = parse(f"redis://user:{SECRET}@h/2")
    for text in (
        repr(address),
        address.shown,
        address.place,
        RedisUrl().show(f"redis://:{SECRET}@h"),
    ):
        assert SECRET not in text
    assert address.shown == "redis://user:***@h:6379/2"
    assert address.place == "h:6379"
    assert parse("unix:///a%20b").place == "/a b"
    assert parse("sentinel://a,[::1]/main").place == "main of a:26379,[::1]:26379"


def test_a_url_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"redis://:{SECRET}@127.0.0.1/1\n")
    file.chmod(0o600)
    read = load({**KEY, "REDIS_URL_FILE": str(file)}, directory=tmp_path)
    assert read.settings.redis_url == f"redis://:{SECRET}@127.0.0.1/1"
    assert SECRET not in repr(read.settings)
    (shown,) = [row for row in describe(read) if row[0] == "REDIS_URL"]
    assert shown[1:3] == ("redis://:***@127.0.0.1:6379/1", f"file {str(file)!r}")


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("redis://cache.example.com", True),
        ("sentinel://127.0.0.1,10.0.0.1/main", True),
        ("rediss://cache.example.com", False),
        ("sentinels://10.0.0.1/main", False),
        ("redis://127.0.0.1", False),
        ("redis://[::1]:1", False),
        ("redis://localhost", False),
        ("unix:///run/valkey.sock", False),
    ],
)
def test_a_connection_that_others_can_read_is_warned_of(
    tmp_path: Path, environment: str, url: str, *, is_open: bool
) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment, "METRICS_PUBLIC": "true", "REDIS_URL": url}
    warned = [line for line in loaded(tmp_path, **environ).warnings if "REDIS_URL" in line]
    assert bool(warned) == (is_open and environment != "development")
