"""Run the cases of the Autobahn test suite against both hosts; exit with 1 if one fails.

python tests/autobahn/run.py            # all of them
python tests/autobahn/run.py -i "7.*"   # arguments go to kosoku
python tests/autobahn/run.py -x "12.*" -x "13.*"   # without those of compression

Those of compression send a thousand messages each, and take most of the time.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVERS = Path(__file__).with_name("echo_servers.py")
HOST = "127.0.0.1"
STARTING = 60.0  # seconds
# Messages that the hosts answer without compression, because they have less than 1 KiB or would not
# become shorter: kosoku 0.1 passes such an answer to its cases as `str`, which they cannot hash.
GROUPS = (*(f"12.{number}" for number in range(1, 6)), *(f"13.{number}" for number in range(1, 8)))
PLAIN_ANSWERS = (
    *(f"{group}.{size}" for group in GROUPS for size in (1, 2, 3)),
    *("12.5.4", "12.5.5", "12.5.6", "12.5.11"),
)
WITHOUT = tuple(part for case in PLAIN_ANSWERS for part in ("-x", case))


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def is_listening(port: int) -> bool:
    """Return whether a server accepts connections."""
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) == 0


def run_cases(host: str, folder: str, arguments: list[str]) -> int:
    """Run the cases against one host; return kosoku's exit code."""
    port = free_port()
    kosoku = shutil.which("kosoku")
    if kosoku is None:
        raise SystemExit("kosoku is not installed: pip install kosoku==0.1.0")
    command = [sys.executable, str(SERVERS), host, str(port)]
    with subprocess.Popen(command) as server:  # noqa: S603 - our own program
        try:
            deadline = time.monotonic() + STARTING
            while not is_listening(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server of {host} does not listen")
                time.sleep(0.05)
            cases = [kosoku, "-m", "fuzzingclient", *WITHOUT, *arguments, "-o", f"{folder}/{host}"]
            return subprocess.run([*cases, f"{HOST}:{port}"], check=False).returncode  # noqa: S603
        finally:
            server.kill()


def main() -> None:
    """Run every case against every host."""
    with tempfile.TemporaryDirectory() as folder:
        codes = {}
        for host in ("own", "stock"):
            sys.stdout.write(f"Autobahn over the host {host!r}\n")
            sys.stdout.flush()
            codes[host] = run_cases(host, folder, sys.argv[1:])
    if any(codes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
