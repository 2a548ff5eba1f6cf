"""How many files and connections a process may have open. Linux says 1024 until the process asks for what it may have.

A process that has used them up accepts no connection any more, so what stays open long may take a part of them only.
"""

import contextlib
import resource

# More would be of no use: so many idle WebSockets take 3 GB.
MAX_OPEN_FILES = 65_536


def raise_open_files_limit() -> int:
    """Raise this process' limit as far as it may, up to MAX_OPEN_FILES; return the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has a further limit that cannot be asked for.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
