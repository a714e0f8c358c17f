"""The application for a stock server: `hypercorn --worker-class trio netra_trio.asgi:app`."""

from netra_trio.errors import SettingsError
from netra_trio.server.application import create_app
from netra_trio.server.exit import flush_at_exit
from netra_trio.server.hypercorn.install import use_our_log
from netra_trio.telemetry.logs import configure

configure()
try:
    app = create_app()
except SettingsError as error:
    raise SystemExit(str(error)) from None
use_our_log()
flush_at_exit()
