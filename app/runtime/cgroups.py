"""The processors and the memory that this process may use: the machine's, or less in a container or a systemd unit.

Containers and units are control groups (cgroups) of the kernel.
"""

import math
import os
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# https://docs.kernel.org/admin-guide/cgroup-v2.html#processes: version 2 has one line, which begins so.
_VERSION_2 = "0::/"
# https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and where version 1 has the same
LIMIT_FILES = ("memory.max", "memory/memory.limit_in_bytes")


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


def control_groups(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[Path]:
    """Return the folders of all groups that bind this process, from the root down; each may have limits of its own.

    In a container the root is usually its own group and the only one. Below the root, version 2 alone is understood.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    groups = [root]
    for name in PurePosixPath(
        next((line[len(_VERSION_2) :] for line in lines if line.startswith(_VERSION_2)), "")
    ).parts:
        if name == "..":
            # Outside of what this process can see.
            break
        groups.append(groups[-1] / name)
    return groups
