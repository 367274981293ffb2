"""What a measurement ran on."""

import os
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from gpicl_jax.runs.folder import describe_run


def threads() -> int:
    """Processors that this process may use: XLA's pool has so many threads, and PyTorch is told to use as many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(command: list[str]) -> dict[str, Any]:
    """Versions, devices, threads, and how busy the machine was."""
    record = describe_run(command, "pmap")
    del record["parallel"]
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = None
    record["packages"]["torch"] = torch
    return {**record, "threads": threads(), "load_average": os.getloadavg()[0]}


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes.

    On Linux from `VmHWM`: `ru_maxrss` of a child process begins with its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
