"""Where a figure was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from recsys.steps.training import code_commit


def describe_machine() -> dict[str, str | int]:
    """Processor, cores, memory (GiB), system and the commit of the code."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if "model name" in line]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(pages / 2**30),
        "system": platform.platform(),
        "commit": code_commit(),
    }
