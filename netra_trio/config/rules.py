"""Rules between settings: which combinations stop the start, and which are warned of.

>>> anonymous = Settings(environment="production", require_auth=False)
>>> [line.partition(":")[0] for line in combined_faults(anonymous, invalid=set())][-1]
'WEBSOCKET_REQUIRE_AUTH'
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from netra_trio.config.origins import DEVELOPMENT, PRODUCTION
from netra_trio.config.redis_url import parse
from netra_trio.config.settings import (
    KEY_BYTES,
    KEY_SERVER_ALGORITHMS,
    SECRET_BYTES,
    TABLE,
    Settings,
)
from netra_trio.config.value_kinds import fault_line, is_loopback

_MAKE_A_KEY = (
    "set it, for instance to the output of "
    '`python -c "import secrets; print(secrets.token_urlsafe(48))"`'
)


def combined_faults(settings: Settings, invalid: AbstractSet[str]) -> Iterator[str]:
    """Return a line for each setting that is wrong in combination with the others.

    Args:
        settings: The values; an invalid one is replaced by its default.
        invalid: The variables that are reported already.
    """
    try:
        _ = settings.origins
    except ValueError as error:
        for line in str(error).splitlines():
            yield f"{TABLE['allowed_origins'].env}: {line}"
    yield from _key_faults(settings, invalid)
    yield from _provider_faults(settings, invalid)
    yield from _webhook_faults(settings, invalid)
    if settings.environment == DEVELOPMENT:
        return
    for name, row in TABLE.items():
        if row.required and row.env not in invalid and not getattr(settings, name):
            expected = f"{row.kind.expected} in {settings.environment}"
            yield fault_line(row.env, "nothing", expected, row.required)
    for name in ("jwt_secret_key", "notify_webhook_secret"):
        row, key = TABLE[name], getattr(settings, name)
        if key is not None and len(key.encode()) < SECRET_BYTES:
            expected = f"{row.kind.expected} in {settings.environment}"
            yield fault_line(
                row.env, f"{len(key.encode())} bytes (kept secret)", expected, "use a longer one"
            )
    if not settings.require_auth:
        expected = f"true in {settings.environment}"
        fix = "unset it: anonymous users are for development only"
        yield fault_line(TABLE["require_auth"].env, "false", expected, fix)


def _key_faults(settings: Settings, invalid: AbstractSet[str]) -> Iterator[str]:
    """Check that each algorithm has a key, and each key an algorithm."""
    secret, server, provider, algorithms = (
        TABLE[name] for name in ("jwt_secret_key", "jwt_jwks_url", "oidc_issuer", "jwt_algorithms")
    )
    if {secret.env, server.env, provider.env, algorithms.env} & invalid:
        return
    url, environment = settings.jwt_jwks_url, settings.environment
    generates_secret = environment == DEVELOPMENT
    if not (settings.jwt_secret_key or settings.has_public_keys or generates_secret):
        expected = f"{secret.kind.expected}, or {server.env} or {provider.env}, in {environment}"
        fix = (
            f"{_MAKE_A_KEY}, or set {server.env} to where your login publishes its keys, or "
            f"{provider.env} to your OpenID Connect provider"
        )
        yield fault_line(secret.env, "nothing", expected, fix)
        return
    if url and not (generates_secret or url.lower().startswith("https:") or is_loopback(url)):
        expected = f"https:// in {environment}, or a loopback address"
        fix = "use https: over http anyone on the way can replace the keys"
        yield fault_line(server.env, "http://", expected, fix)
    listed = settings.jwt_algorithms or ()
    shared = [name for name in listed if name in KEY_BYTES]
    public = [name for name in listed if name in KEY_SERVER_ALGORITHMS]
    has_key = "algorithms that there is a key for"
    if shared and not (settings.jwt_secret_key or generates_secret):
        fix = f"set {secret.env}, or remove {', '.join(shared)}"
        yield fault_line(algorithms.env, ", ".join(shared), has_key, fix)
    if public and not settings.has_public_keys:
        fix = f"set {server.env} or {provider.env}, or remove {', '.join(public)}"
        yield fault_line(algorithms.env, ", ".join(public), has_key, fix)
    if settings.has_public_keys and listed and not public:
        expected = f"one of {', '.join(KEY_SERVER_ALGORITHMS)} too, for the key server"
        source = server.env if url else provider.env
        fix = f"add the algorithm of your login service, or unset {source}"
        yield fault_line(algorithms.env, ", ".join(listed), expected, fix)


def _provider_faults(settings: Settings, invalid: AbstractSet[str]) -> Iterator[str]:
    """Check that the pages have a client id, and that the keys of tokens come over TLS."""
    provider, client = TABLE["oidc_issuer"], TABLE["oidc_client_id"]
    issuer = settings.oidc_issuer
    if issuer is None or {provider.env, client.env} & invalid:
        return
    if settings.oidc_client_id is None:
        expected = f"{client.kind.expected}, because {provider.env} is set"
        fix = "set it to the id that the provider has given to the page"
        yield fault_line(client.env, "nothing", expected, fix)
    is_local = settings.environment == DEVELOPMENT and is_loopback(issuer)
    if not (issuer.lower().startswith("https:") or is_local):
        or_local = ", or a loopback address" if settings.environment == DEVELOPMENT else ""
        expected = f"https:// in {settings.environment}{or_local}"
        fix = "use https: over http an attacker in the network can sign in as any user"
        yield fault_line(provider.env, "http://", expected, fix)


def _webhook_faults(settings: Settings, invalid: AbstractSet[str]) -> Iterator[str]:
    """Check that requests to the webhook are signed, and encrypted outside development."""
    webhook, secret = TABLE["notify_webhook"], TABLE["notify_webhook_secret"]
    url = settings.notify_webhook
    if url is None or {webhook.env, secret.env} & invalid:
        return
    if settings.notify_webhook_secret is None:
        expected = f"{secret.kind.expected}, because {webhook.env} is set"
        yield fault_line(secret.env, "nothing", expected, _MAKE_A_KEY)
    if settings.environment != DEVELOPMENT and not url.lower().startswith("https:"):
        expected = f"https:// in {settings.environment}"
        fix = "use https: http is not encrypted"
        yield fault_line(webhook.env, "http://", expected, fix)


def combined_warnings(settings: Settings) -> Iterator[str]:
    """Return a line for each valid combination that is probably not intended."""
    key = settings.jwt_secret_key
    shared = [name for name in settings.jwt_algorithms or () if name in KEY_BYTES]
    wanted = max((KEY_BYTES[name] for name in shared), default=0)
    if key is not None and len(key.encode()) < wanted:
        yield (
            f"{TABLE['jwt_secret_key'].env}: {len(key.encode())} bytes are fewer than the {wanted} "
            f"that {', '.join(shared)} can use; {_MAKE_A_KEY}"
        )
    if settings.environment != DEVELOPMENT and (settings.database_url or "").startswith("sqlite:"):
        yield (
            f"{TABLE['database_url'].env}: SQLite serves one process on one machine; for more use "
            "postgresql://"
        )
    if settings.environment != DEVELOPMENT and settings.redis_url is not None:
        address = parse(settings.redis_url)
        if not (address.is_tls or address.is_local):
            yield (
                f"{TABLE['redis_url'].env}: without TLS anyone on the way to the server can read "
                "and change sessions; use rediss:// (or sentinels://), or a private network"
            )
    if settings.notify_webhook_secret is not None and settings.notify_webhook is None:
        secret, webhook = TABLE["notify_webhook_secret"].env, TABLE["notify_webhook"].env
        yield f"{secret}: without {webhook} it has no effect"
    if settings.oidc_client_id is not None and settings.oidc_issuer is None:
        client, provider = TABLE["oidc_client_id"].env, TABLE["oidc_issuer"].env
        yield f"{client}: without {provider} it has no effect"
    if settings.environment == PRODUCTION and settings.metrics_token is None:
        token, public = TABLE["metrics_token"].env, TABLE["metrics_public"].env
        if settings.metrics_public:
            yield f"{public}: anyone who reaches the port can read /metrics; else set {token}"
        else:
            yield f"{token}: not set, so /metrics answers 404; set it, or {public}=true"
