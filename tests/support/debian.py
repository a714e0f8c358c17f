"""Programs of Debian packages, which are unpacked without installation.

    files = unpacked("pgbouncer", missing)     # with the libraries that this machine lacks
    files / "usr/sbin/pgbouncer"

They are kept in `.nox` and downloaded once.
"""

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

KEPT_IN = Path(__file__).parents[2] / ".nox"
FETCH_SECONDS = 300.0
INSTALLED = "/var/lib/dpkg/status"


@cache
def unpacked(
    package: str, missing: Callable[[str], NoReturn], *, with_dependencies: bool = True
) -> Path:
    """Return the folder with the files of a package.

    Args:
        package: The name of the package.
        missing: Called with what is missing if the package cannot be had.
        with_dependencies: Whether the packages that it depends on, and that are not installed here,
            are unpacked too.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        missing(f"{package}, or apt-get to fetch it with")
    KEPT_IN.mkdir(exist_ok=True)
    folder = KEPT_IN / f"debian-{package}"
    # One process downloads it, and concurrent ones wait.
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            try:
                _fetch(package, folder, with_dependencies=with_dependencies)
            except (subprocess.SubprocessError, OSError) as error:
                missing(f"Debian's package {package}: {_text_of(error)}")
    return folder


def libraries(folder: Path) -> list[str]:
    """Return the folders of unpacked libraries, for LD_LIBRARY_PATH."""
    return sorted({str(file.parent) for file in folder.rglob("*.so.*")})


def _fetch(package: str, folder: Path, *, with_dependencies: bool) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f"{package}-draft-", dir=KEPT_IN))
    try:
        draft.chmod(0o755)
        # Separate package lists: those of the machine may be missing or old, and need root.
        for part in ("state/lists/partial", "cache/archives/partial"):
            (draft / part).mkdir(parents=True)
        options = {
            "Dir::State": f"{draft}/state",
            "Dir::State::status": INSTALLED,  # which dependencies are here already
            "Dir::Cache": f"{draft}/cache",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",  # the folder belongs to this user
            "Debug::NoLocking": "true",  # the lock of installations needs root
        }
        own = ["-qq", *(f"-o{name}={value}" for name, value in options.items())]
        _run(["apt-get", *own, "update"], draft)
        if with_dependencies:
            _run(["apt-get", *own, "--yes", "--download-only", "install", package], draft)
        else:
            _run(["apt-get", *own, "download", package], draft / "cache" / "archives")
        for archive in draft.glob("cache/archives/*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(draft)], draft)
        shutil.rmtree(draft / "state")
        shutil.rmtree(draft / "cache")
        draft.rename(folder)  # atomic
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(  # noqa: S603 - a test's own command line
        command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=True
    )


def _text_of(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr)[-500:]
    return str(error)
