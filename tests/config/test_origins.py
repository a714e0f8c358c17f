"""The origin policy: each rule at its bound, and properties over generated origins."""

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netra_trio.config.origins import (
    ENVIRONMENTS,
    MAX_ORIGIN,
    MAX_SHOWN,
    OriginFault,
    OriginPolicy,
    shown,
)


def policy(*patterns: str, environment: str = "production") -> OriginPolicy:
    return OriginPolicy.parse(environment, patterns)


def allows(some: OriginPolicy, origin: str) -> bool:
    return some.refusal(origin) is None


def long_origin(length: int) -> str:
    """Return an origin of exactly `length` characters, below example.com."""
    head, tail = "https://" + 3 * f"{'a' * 63}.", ".example.com"
    return head + "b" * (length - len(head) - len(tail)) + tail


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com", "HTTPS://App.EXAMPLE.com"),
        ("HTTPS://APP.example.com", "https://app.example.com"),
        ("https://app.example.com", "https://app.example.com:443"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("https://app.example.com:65535", "https://app.example.com:65535"),
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b.c.example.com"),
        ("https://*.example.com", "https://A.EXAMPLE.COM:443"),
        ("https://*.example.com:8443", "https://a.example.com:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://*.example.com", "https://xn--bcher-kva.example.com"),
        ("https://my_page.example.com", "https://my_page.example.com"),
        ("https://[2001:db8::1]", "https://[2001:DB8:0::1]:443"),
        ("https://192.0.2.7:8443", "https://192.0.2.7:8443"),
        ("https://localhost", "https://localhost"),
    ],
)
def test_a_configured_origin_is_allowed(pattern: str, origin: str) -> None:
    assert allows(policy(pattern), origin)


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://app.example.com", "http://app.example.com"),
        ("https://app.example.com", "http://app.example.com:443"),
        ("https://app.example.com", "https://app.example.com:80"),
        ("https://app.example.com", "https://app.example.com:8443"),
        ("https://app.example.com:8443", "https://app.example.com"),
        ("https://app.example.com", "https://example.com"),
        ("https://app.example.com", "https://a.app.example.com"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://badexample.com"),
        ("https://*.example.com", "https://bad-example.com"),
        ("https://*.example.com", "https://a.example.com.evil.net"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://a..example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "https://evil.net/.example.com"),
        ("https://*.example.com", "https://evil.net\\.example.com"),
        ("https://*.example.com", "https://evil.net@a.example.com"),
        ("https://*.example.com", "https://evil.net:443.example.com"),
        ("https://*.example.com", "https://evil.net#.example.com"),
        ("https://*.example.com", "https://evil.net?.example.com"),
        ("https://*.example.com", "https://evil.net%00.example.com"),
        ("https://*.example.com", "https://[::1].example.com"),
        ("https://[2001:db8::1]", "https://[2001:db8::2]"),
        ("https://[::1]", "https://[::1%25eth0]"),
    ],
)
def test_an_origin_that_only_resembles_a_pattern_is_refused(pattern: str, origin: str) -> None:
    assert not allows(policy(pattern), origin)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("origin", "fault"),
    [
        ("null", OriginFault.NULL),
        ("NULL", OriginFault.NULL),
        ("", OriginFault.SCHEME),
        ("localhost", OriginFault.SCHEME),
        ("//localhost", OriginFault.SCHEME),
        ("http:/localhost", OriginFault.SCHEME),
        ("file://", OriginFault.SCHEME),
        ("ws://localhost", OriginFault.SCHEME),
        ("chrome-extension://abcdef", OriginFault.SCHEME),
        ("javascript://localhost", OriginFault.SCHEME),
        ("http://user@localhost", OriginFault.USER_INFO),
        ("http://user:pass@localhost", OriginFault.USER_INFO),
        ("http://@localhost", OriginFault.USER_INFO),
        ("http://localhost/", OriginFault.PATH),
        ("http://localhost/path", OriginFault.PATH),
        ("http://localhost\\", OriginFault.PATH),
        ("http://localhost?", OriginFault.QUERY),
        ("http://localhost?q", OriginFault.QUERY),
        ("http://localhost#", OriginFault.QUERY),
        ("http://localhost#f", OriginFault.QUERY),
        ("http://localhost ", OriginFault.CHARACTERS),
        (" http://localhost", OriginFault.CHARACTERS),
        ("http://local\thost", OriginFault.CHARACTERS),
        ("http://localhost\r\n", OriginFault.CHARACTERS),
        ("http://localhost\x00", OriginFault.CHARACTERS),
        ("http://localhost\x7f", OriginFault.CHARACTERS),
        ("http://l\u00f6calhost", OriginFault.CHARACTERS),
        ("http://localhost:\u0663", OriginFault.CHARACTERS),
        ("http://localhost.", OriginFault.TRAILING_DOT),
        ("http://localhost:", OriginFault.PORT),
        ("http://localhost:0", OriginFault.PORT),
        ("http://localhost:65536", OriginFault.PORT),
        ("http://localhost:080", OriginFault.PORT),
        ("http://localhost:+80", OriginFault.PORT),
        ("http://localhost:80:80", OriginFault.PORT),
        ("http://localhost:http", OriginFault.PORT),
        ("http://[::1]:", OriginFault.PORT),
        ("http://", OriginFault.HOST),
        ("http://:80", OriginFault.HOST),
        ("http://::1", OriginFault.HOST),
        ("http://[::1", OriginFault.HOST),
        ("http://[::1]x", OriginFault.HOST),
        ("http://[]", OriginFault.HOST),
        ("http://[localhost]", OriginFault.HOST),
        ("http://[::1%lo]", OriginFault.HOST),
        ("http://127.1", OriginFault.HOST),
        ("http://127.0.0.01", OriginFault.HOST),
        ("http://2130706433", OriginFault.HOST),
        ("http://0x7f000001", OriginFault.HOST),
        ("http://0x7F.1", OriginFault.HOST),
        ("http://local%68ost", OriginFault.HOST),
        ("http://a..b", OriginFault.HOST),
    ],
)
def test_an_invalid_origin_is_refused_with_any_configuration(
    environment: str, origin: str, fault: OriginFault
) -> None:
    some = policy("https://localhost", "https://*.example.com", environment=environment)
    refusal = some.refusal(origin)
    assert refusal is not None
    assert refusal.endswith(fault.description)


@pytest.mark.parametrize("length", [63, 64])
def test_the_longest_label(length: int) -> None:
    origin = f"https://{'a' * length}.example.com"
    assert allows(policy("https://*.example.com"), origin) is (length == 63)


def test_an_origin_of_the_greatest_length_is_allowed_and_a_longer_one_refused() -> None:
    fits, beyond = long_origin(MAX_ORIGIN), long_origin(MAX_ORIGIN + 1)
    assert (len(fits), len(beyond)) == (253, 254)
    some = policy("https://*.example.com")
    assert allows(some, fits)
    refusal = some.refusal(beyond)
    assert refusal is not None
    assert refusal.endswith(OriginFault.TOO_LONG.description)
    assert allows(policy(fits), fits)
    with pytest.raises(ValueError, match="more than 253"):
        policy(beyond)
    with pytest.raises(ValueError, match="more than 253"):
        policy(f"https://*.{beyond[10:]}")


LOOPBACK = [
    f"http://{host}{port}"
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]")
    for port in ("", ":1", ":80", ":3000", ":65535")
]


@pytest.mark.parametrize("origin", LOOPBACK)
def test_pages_on_this_machine_are_allowed_outside_production(origin: str) -> None:
    assert allows(policy(environment="development"), origin)
    assert allows(policy(environment="staging"), origin)
    assert not allows(policy(environment="production"), origin)


@pytest.mark.parametrize(
    "origin",
    [
        "https://localhost",
        "http://127.0.0.2",
        "http://0.0.0.0",
        "http://localhost.evil.net",
        "http://a.localhost",
        "http://[::ffff:127.0.0.1]",
        "http://[::2]",
        "https://example.com",
    ],
)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_other_origins_are_refused_without_configuration(origin: str, environment: str) -> None:
    assert not allows(policy(environment=environment), origin)


@pytest.mark.parametrize("environment", ["development", "staging"])
def test_http_origins_can_be_configured_outside_production_only(environment: str) -> None:
    origin = "http://intra.example:8080"
    assert allows(policy(origin, environment=environment), origin)
    with pytest.raises(ValueError, match="production requires https; write it with https://"):
        policy("http://intra.example:8080")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("*", OriginFault.STAR_ALONE),
        ("https://*", OriginFault.STAR_ALONE),
        ("https://*.com", OriginFault.STAR_TOO_WIDE),
        ("https://*.localhost", OriginFault.STAR_TOO_WIDE),
        ("https://*.1.0.0.127", OriginFault.STAR_TOO_WIDE),
        ("https://*.[2001:db8::1]", OriginFault.STAR_TOO_WIDE),
        ("*.example.com", OriginFault.STAR),
        ("https://*.*.example.com", OriginFault.STAR),
        ("https://a.*.example.com", OriginFault.STAR),
        ("https://a*.example.com", OriginFault.STAR),
        ("https://*a.example.com", OriginFault.STAR),
        ("https://example.*", OriginFault.STAR),
        ("https://example.com:*", OriginFault.STAR),
        ("https://*.example.com:*", OriginFault.STAR),
        ("*://example.com", OriginFault.STAR),
        ("*://*.example.com", OriginFault.STAR),
        ("https://*.example.com/", OriginFault.PATH),
        ("https://*.user@example.com", OriginFault.USER_INFO),
        ("https://*..example.com", OriginFault.HOST),
        ("https://*.", OriginFault.HOST),
        ("null", OriginFault.NULL),
        ("", OriginFault.SCHEME),
        ("example.com", OriginFault.SCHEME),
        ("wss://example.com", OriginFault.SCHEME),
        ("https://example.com/", OriginFault.PATH),
        ("https://b\u00fccher.example", OriginFault.CHARACTERS),
        ("https://a.example https://b.example", OriginFault.CHARACTERS),
    ],
)
def test_an_invalid_pattern_is_reported_with_its_fix(
    environment: str, pattern: str, fault: OriginFault
) -> None:
    with pytest.raises(ValueError, match=r"^the pattern ") as caught:
        policy(pattern, environment=environment)
    assert str(caught.value).endswith(f"{fault.description}; {fault.fix}")
    assert str(caught.value).isascii()


def test_each_invalid_pattern_is_listed_once() -> None:
    with pytest.raises(ValueError, match="the pattern") as caught:
        policy("*", "https://fine.example.com", "https://*.com", "http://a.example.com")
    lines = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in lines] == ["*", "https://*.com", "http://a.example.com"]


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of development, staging, production"):
        policy(environment="prod")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://a.example.com:8443", "https://a.example.com:8443"),
        ("https://user:hunter2@a.example.com", "https://a.example.com"),
        ("https://user:hun/te?r2@a.example.com", "https://a.example.com"),
        ("user:hunter2@a.example.com", "a.example.com"),
        ("https://a.example.com/p?token=hunter2", "https://a.example.com"),
        ("https://a\x1b[31m\n.example.com", "https://a?[31m?.example.com"),
        ("https://\u202e.example.com", "https://?.example.com"),
        ("a" * MAX_SHOWN, "a" * MAX_SHOWN),
        ("a" * (MAX_SHOWN + 1), "a" * (MAX_SHOWN - 3) + "..."),
    ],
)
def test_a_shown_origin_is_cleaned(text: str, safe: str) -> None:
    assert shown(text) == safe
    assert f"'{safe}'" in (policy().refusal(text) or "")


LABELS = st.text("abz09-_", min_size=1, max_size=8)
HOSTS = st.lists(
    LABELS | st.sampled_from(["example", "com", "app", "other", "org", "", "*"]),
    min_size=1,
    max_size=5,
).map(".".join)
JOINTS = st.sampled_from(["", ".", "@", "/", "\\", "?", "#", ":", ":443", ":8443", "%2e", "\t"])
NEAR_MISSES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["https://", "http://", "HTTPS://", "https:", "//", "ws://"]),
        HOSTS,
        JOINTS,
        st.sampled_from(
            ["", "example.com", "app.other.org", "a.example.com", "localhost", "[::1]"]
        ),
        JOINTS,
    ),
)


@given(NEAR_MISSES | st.text())
@example("https://a.example.com")
@example("https://app.other.org:8443")
def test_no_host_that_is_not_configured_is_allowed(origin: str) -> None:
    some = policy("https://*.example.com", "https://app.other.org:8443")
    if allows(some, origin):
        parts = urlsplit(origin)
        assert parts.scheme == "https"
        host = parts.hostname or ""
        if host == "app.other.org":
            assert parts.port == 8443
        else:
            assert host.endswith(".example.com")
            assert len(host) > len(".example.com")
            assert parts.port in {None, 443}
        assert parts.username is None
        assert parts.path + parts.query + parts.fragment == ""


@given(NEAR_MISSES | st.text())
def test_development_allows_only_this_machine_in_addition(origin: str) -> None:
    patterns = ("https://*.example.com", "https://app.other.org:8443")
    if allows(policy(*patterns, environment="development"), origin):
        parts = urlsplit(origin)
        here = parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}
        assert here or allows(policy(*patterns), origin)


@given(st.text())
def test_a_refusal_is_short_and_printable(origin: str) -> None:
    refusal = policy().refusal(origin)
    assert refusal is not None
    assert refusal.isascii()
    assert refusal.isprintable()
    assert len(refusal) < 200
