"""The services that the components of one application share.

services = Services(settings=settings, store=store, verifier=verifier, instruments=instruments)
"""

import time
from collections.abc import Callable

from attrs import field, frozen

from netra_trio.auth.tickets import LocalTickets, Tickets
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.threads import SharedAdmission
from netra_trio.config.settings import Settings
from netra_trio.stores.base import Store
from netra_trio.telemetry.instruments import Instruments


@frozen(kw_only=True)
class Services:
    """Objects that the endpoints, the node and its connections share.

    Attributes:
        settings: The limits.
        store: Holds users, threads, messages and runs.
        verifier: Verifies tokens.
        instruments: Receive the telemetry.
        tickets: The issued tickets that have not been used.
        wall_clock: Returns Unix seconds.
        admission: Admits messages over all nodes; None if there is only this one.
    """

    settings: Settings
    store: Store
    verifier: TokenVerifier
    instruments: Instruments
    tickets: Tickets = field(factory=LocalTickets)
    wall_clock: Callable[[], float] = time.time
    admission: SharedAdmission | None = None
