"""The kernel's control groups, by which containers and systemd's units bound what a process may use."""

from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# https://docs.kernel.org/admin-guide/cgroup-v2.html#processes: version 2 has one line, which begins so.
_VERSION_2 = "0::/"


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
