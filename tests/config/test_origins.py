"""Which origins enter: every rule at its edge, and a property that no trick gets around."""

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netra_trio.config.origins import ENVIRONMENTS, MAX_ORIGIN, MAX_SHOWN, Flaw, OriginPolicy, shown


def policy(*patterns: str, environment: str = "production") -> OriginPolicy:
    return OriginPolicy.parse(environment, patterns)


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
def test_what_is_configured_enters(pattern: str, origin: str) -> None:
    assert policy(pattern).allows(origin)
    assert policy(pattern).refusal(origin) is None


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
def test_what_only_looks_like_it_does_not(pattern: str, origin: str) -> None:
    assert not policy(pattern).allows(origin)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("origin", "flaw"),
    [
        ("null", Flaw.NULL),
        ("NULL", Flaw.NULL),
        ("", Flaw.SCHEME),
        ("localhost", Flaw.SCHEME),
        ("//localhost", Flaw.SCHEME),
        ("http:/localhost", Flaw.SCHEME),
        ("file://", Flaw.SCHEME),
        ("ws://localhost", Flaw.SCHEME),
        ("chrome-extension://abcdef", Flaw.SCHEME),
        ("javascript://localhost", Flaw.SCHEME),
        ("http://user@localhost", Flaw.USER_INFO),
        ("http://user:pass@localhost", Flaw.USER_INFO),
        ("http://@localhost", Flaw.USER_INFO),
        ("http://localhost/", Flaw.PATH),
        ("http://localhost/path", Flaw.PATH),
        ("http://localhost\\", Flaw.PATH),
        ("http://localhost?", Flaw.QUERY),
        ("http://localhost?q", Flaw.QUERY),
        ("http://localhost#", Flaw.QUERY),
        ("http://localhost#f", Flaw.QUERY),
        ("http://localhost ", Flaw.CHARACTERS),
        (" http://localhost", Flaw.CHARACTERS),
        ("http://local\thost", Flaw.CHARACTERS),
        ("http://localhost\r\n", Flaw.CHARACTERS),
        ("http://localhost\x00", Flaw.CHARACTERS),
        ("http://localhost\x7f", Flaw.CHARACTERS),
        ("http://l\u00f6calhost", Flaw.CHARACTERS),
        ("http://localhost:\u0663", Flaw.CHARACTERS),
        ("http://localhost.", Flaw.TRAILING_DOT),
        ("http://localhost:", Flaw.PORT),
        ("http://localhost:0", Flaw.PORT),
        ("http://localhost:65536", Flaw.PORT),
        ("http://localhost:080", Flaw.PORT),
        ("http://localhost:+80", Flaw.PORT),
        ("http://localhost:80:80", Flaw.PORT),
        ("http://localhost:http", Flaw.PORT),
        ("http://[::1]:", Flaw.PORT),
        ("http://", Flaw.HOST),
        ("http://:80", Flaw.HOST),
        ("http://::1", Flaw.HOST),
        ("http://[::1", Flaw.HOST),
        ("http://[::1]x", Flaw.HOST),
        ("http://[]", Flaw.HOST),
        ("http://[localhost]", Flaw.HOST),
        ("http://[::1%lo]", Flaw.HOST),
        ("http://127.1", Flaw.HOST),
        ("http://127.0.0.01", Flaw.HOST),
        ("http://2130706433", Flaw.HOST),
        ("http://0x7f000001", Flaw.HOST),
        ("http://0x7F.1", Flaw.HOST),
        ("http://local%68ost", Flaw.HOST),
        ("http://a..b", Flaw.HOST),
    ],
)
def test_flawed_origins_stay_out_whatever_is_configured(
    environment: str, origin: str, flaw: Flaw
) -> None:
    some = policy("https://localhost", "https://*.example.com", environment=environment)
    refusal = some.refusal(origin)
    assert refusal is not None
    assert refusal.endswith(flaw.what)


@pytest.mark.parametrize("length", [63, 64])
def test_the_longest_label(length: int) -> None:
    origin = f"https://{'a' * length}.example.com"
    assert policy("https://*.example.com").allows(origin) is (length == 63)


def test_the_longest_origin_enters_and_one_character_more_does_not() -> None:
    fits, beyond = long_origin(MAX_ORIGIN), long_origin(MAX_ORIGIN + 1)
    assert (len(fits), len(beyond)) == (253, 254)
    some = policy("https://*.example.com")
    assert some.allows(fits)
    refusal = some.refusal(beyond)
    assert refusal is not None
    assert refusal.endswith(Flaw.TOO_LONG.what)
    assert policy(fits).allows(fits)
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
def test_pages_on_this_machine_enter_outside_production(origin: str) -> None:
    assert policy(environment="development").allows(origin)
    assert policy(environment="staging").allows(origin)
    assert not policy(environment="production").allows(origin)


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
def test_nothing_else_enters_unasked(origin: str, environment: str) -> None:
    assert not policy(environment=environment).allows(origin)


@pytest.mark.parametrize("environment", ["development", "staging"])
def test_http_may_be_configured_outside_production_only(environment: str) -> None:
    assert policy("http://intra.example:8080", environment=environment).allows(
        "http://intra.example:8080"
    )
    with pytest.raises(ValueError, match="production takes https only; write it with https://"):
        policy("http://intra.example:8080")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("pattern", "flaw"),
    [
        ("*", Flaw.STAR_ALONE),
        ("https://*", Flaw.STAR_ALONE),
        ("https://*.com", Flaw.STAR_TOO_WIDE),
        ("https://*.localhost", Flaw.STAR_TOO_WIDE),
        ("https://*.1.0.0.127", Flaw.STAR_TOO_WIDE),
        ("https://*.[2001:db8::1]", Flaw.STAR_TOO_WIDE),
        ("*.example.com", Flaw.STAR),
        ("https://*.*.example.com", Flaw.STAR),
        ("https://a.*.example.com", Flaw.STAR),
        ("https://a*.example.com", Flaw.STAR),
        ("https://*a.example.com", Flaw.STAR),
        ("https://example.*", Flaw.STAR),
        ("https://example.com:*", Flaw.STAR),
        ("https://*.example.com:*", Flaw.STAR),
        ("*://example.com", Flaw.STAR),
        ("*://*.example.com", Flaw.STAR),
        ("https://*.example.com/", Flaw.PATH),
        ("https://*.user@example.com", Flaw.USER_INFO),
        ("https://*..example.com", Flaw.HOST),
        ("https://*.", Flaw.HOST),
        ("null", Flaw.NULL),
        ("", Flaw.SCHEME),
        ("example.com", Flaw.SCHEME),
        ("wss://example.com", Flaw.SCHEME),
        ("https://example.com/", Flaw.PATH),
        ("https://b\u00fccher.example", Flaw.CHARACTERS),
        ("https://a.example https://b.example", Flaw.CHARACTERS),
    ],
)
def test_wrong_patterns_stop_with_a_mend(environment: str, pattern: str, flaw: Flaw) -> None:
    with pytest.raises(ValueError, match=r"^the pattern ") as caught:
        policy(pattern, environment=environment)
    assert str(caught.value).endswith(f"{flaw.what}; {flaw.mend}")
    assert str(caught.value).isascii()


def test_every_wrong_pattern_is_listed_once() -> None:
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
def test_what_is_shown_is_safe(text: str, safe: str) -> None:
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
def test_nothing_enters_whose_host_is_not_configured(origin: str) -> None:
    some = policy("https://*.example.com", "https://app.other.org:8443")
    if some.allows(origin):
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
def test_development_adds_this_machine_and_nothing_else(origin: str) -> None:
    patterns = ("https://*.example.com", "https://app.other.org:8443")
    if policy(*patterns, environment="development").allows(origin):
        parts = urlsplit(origin)
        here = parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}
        assert here or policy(*patterns).allows(origin)


@given(st.text())
def test_a_refusal_is_short_and_printable(origin: str) -> None:
    refusal = policy().refusal(origin)
    assert refusal is not None
    assert refusal.isascii()
    assert refusal.isprintable()
    assert len(refusal) < 200
