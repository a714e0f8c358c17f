"""The machine and the software that figures were measured on.

machine()["cpu"]  # "AMD EPYC 7763 64-Core Processor"
"""

import os
import platform
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "netra-trio",
    "trio",
    "hypercorn",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "websockets",
    "pydantic",
    "python-socketio",
    "python-engineio",
    "orjson",
    "sqlalchemy",
)


def machine() -> dict[str, Any]:
    """Return the properties of the machine that figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python_build": {
            "compiler": platform.python_compiler(),
            "options": sysconfig.get_config_var("CONFIG_ARGS"),
        },
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
