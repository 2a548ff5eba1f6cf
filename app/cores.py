"""How many cores there are for us."""

import math
import os
from pathlib import Path

from app.control_groups import control_groups


def available_cores() -> int:
    """Cores that this process may use, which in a container or a unit are fewer than the machine has: at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, *map(cgroup_quota, control_groups()))))


def cgroup_quota(folder: Path) -> float:
    """Return the cores that a control group leaves us, as by `docker run --cpus`; infinity where it sets no limit."""
    try:
        # https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files, and where version 1 has the same
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        # "max" in version 2, -1 in version 1: no limit.
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):
        return math.inf
