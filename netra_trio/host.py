"""Hypercorn made ready to hold the application, by `serve` and by its own command alike."""

from hypercorn.config import Config

from netra_trio.observe.logs import host_logger
from netra_trio.protocol.codec import HARD_SIZE_FACTOR
from netra_trio.settings import Settings
from netra_trio.transports.hypercorn import install


def use_our_log() -> None:
    """Let Hypercorn's command write its lines where ours go, once, and redacted like ours."""
    Config.errorlog = host_logger()


def prepare_host(settings: Settings) -> None:
    """Put this project's connection handling into Hypercorn, with the limits of the settings.

    Raises:
        RuntimeError: If the installed Hypercorn is not one that is known.
    """
    install(
        send_timeout=settings.send_timeout_ms / 1000,
        max_message_bytes=settings.max_message_size * HARD_SIZE_FACTOR,
        drain_timeout=settings.drain_timeout_ms / 1000,
    )
