"""How much memory there is for us."""

import math
import os
from pathlib import Path

from app.control_groups import control_groups

# https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and where version 1 has the same
LIMIT_FILES = ("memory.max", "memory/memory.limit_in_bytes")


def available_memory_bytes() -> float:
    """Bytes of memory that this machine has, or that our container or unit may use where that is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(installed, *map(cgroup_memory_limit, control_groups()))


def cgroup_memory_limit(folder: Path) -> float:
    """Return the bytes that a control group leaves us, as by `docker run --memory`; infinity where it sets no limit."""
    for name in LIMIT_FILES:
        try:
            limit = (folder / name).read_text().strip()
            # Without a limit version 2 says "max", and version 1 a number beyond every machine's memory.
            return math.inf if limit == "max" else float(limit)
        except (OSError, ValueError):
            continue
    return math.inf
