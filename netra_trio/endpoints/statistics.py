"""`GET /ws/stats` and `GET /metrics`: the metrics, for an administrator and for Prometheus."""

import trio

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_administrator, check_metrics_token
from netra_trio.endpoints.overview import Overview
from netra_trio.endpoints.paths import no_such_path
from netra_trio.telemetry.prometheus import CONTENT_TYPE, Exposition
from netra_trio.telemetry.stats import document


async def stats(overview: Overview, call: Call) -> Answer:
    """Return the metrics as JSON to an administrator.

    Args:
        overview: Reports on the server.
        call: The request.
    """
    await check_administrator(call.request, call.services, now=trio.current_time())
    return Answer(200, document(await overview.metrics()))


async def metrics(overview: Overview, exposition: Exposition, call: Call) -> Answer:
    """Return the metrics in the text format of Prometheus.

    Args:
        overview: Reports on the server.
        exposition: Renders the metrics.
        call: The request.

    Raises:
        Refused: AUTH_REQUIRED or INVALID_TOKEN; with status 404 if the metrics are not offered.
    """
    settings = call.services.settings
    if settings.metrics_token is not None:
        check_metrics_token(call.request, settings.metrics_token)
    elif not settings.has_open_metrics:
        raise no_such_path()
    content = exposition.text(await overview.metrics())
    return Answer(200, headers={"content-type": CONTENT_TYPE}, content=content)
