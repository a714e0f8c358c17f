"""The project under the stock Hypercorn command, with the agents of the benchmark.

hypercorn --worker-class trio bench.peers.netra_stock:app
"""

from bench.peers.netra import echo, paced, stream
from netra_trio import create_app
from netra_trio.server.hypercorn.install import use_our_log
from netra_trio.telemetry.logs import configure

configure()
app = create_app(agents={"echo": echo, "stream": stream, "paced": paced})
use_our_log()
