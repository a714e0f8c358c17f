"""The capabilities that clients discover in `/ws/config` and in the first frame of a connection.

>>> from netra_trio.config.settings import Settings
>>> connection_limits(Settings())["max_message_size"]
10240
"""

from typing import Any

from netra_trio.config.settings import Settings
from netra_trio.protocol.doors import DOOR_PATHS

VERSION = "1.0"  # of the structure of this document
ENDPOINTS = {
    "websocket": "/ws",
    "service_discovery": "/ws/config",
    "ticket": "/ws/ticket",
    "health": "/ws/health",
    "files": "/ws/files",
}


def features(settings: Settings) -> dict[str, Any]:
    """Return the features that this server has."""
    return {
        "json_first": True,
        "auth_required": settings.require_auth,
        "heartbeat_supported": True,
        "reconnection_supported": True,
        "rate_limiting": True,
        "message_queuing": True,
        "resume": settings.resume_window_ms > 0,
        "tickets": True,
    }


def connection_limits(settings: Settings) -> dict[str, Any]:
    """Return the limits for clients: counts, messages per minute, bytes and milliseconds."""
    return {
        "max_connections_per_user": settings.max_connections_per_user,
        "max_message_rate": settings.max_message_rate,
        "heartbeat_interval": settings.heartbeat_interval_ms,
        "max_message_size": settings.max_message_size,
        "resume_window": settings.resume_window_ms,
        "max_file_size": settings.files_max_bytes,
    }


def auth_methods(settings: Settings) -> list[str]:
    """Return the ways in which an upgrade may carry its credential."""
    return ["header", "subprotocol", "ticket", *(["query"] if settings.query_token else [])]


def sign_in(settings: Settings) -> dict[str, str] | None:
    """Return how the pages sign users in with OpenID Connect; None without a provider.

    `token` is the token that the server accepts: an access token is only a JWT for an audience of
    its own where the provider is configured so, but the `aud` of an ID token is the client id.
    """
    issuer, client_id = settings.oidc_issuer, settings.oidc_client_id
    if issuer is None or client_id is None:
        return None
    return {
        "issuer": issuer,
        "client_id": client_id,
        "scope": settings.oidc_scope,
        "token": "id_token" if settings.jwt_audience == client_id else "access_token",
    }


def document(settings: Settings, server_time: float) -> dict[str, Any]:
    """Return the document of `/ws/config`; `server_time` is Unix seconds."""
    provider = sign_in(settings)
    doors = {name: dict(DOOR_PATHS[name]) for name in settings.doors}
    auth: dict[str, Any] = {"methods": auth_methods(settings)}
    if provider is not None:
        auth["oidc"] = provider
    return {
        "websocket_config": {
            "version": VERSION,
            "features": features(settings),
            "endpoints": ENDPOINTS,
            "connection_limits": connection_limits(settings),
            "auth": auth,
            **({"doors": doors} if doors else {}),
            "server_time": server_time,
        }
    }
