"""What ran: for reports that somebody else will read."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def processor() -> str:
    """Return the name of the processor, and what of it decides the speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    name = said.get("model name", "").strip() or platform.machine()
    flags = said.get("flags", "").split()
    found = [flag for flag in ("avx2", "avx512f", "avx512_vnni") if flag in flags]
    return ", ".join([name, f"{os.cpu_count()} logical", *found])


def numerics() -> str:
    """Return what decides the last digits of a result, beside its inputs."""
    packages = (f"{name} {version(name)}" for name in ("fqonnx", "torch", "numpy"))
    return ", ".join([processor(), *packages])
