"""Keys and photos stay in the process: it leaves no dump, and no other process of its user reads its memory."""

import contextlib
import ctypes
import resource
import subprocess
import sys

from loguru import logger

from app.photo.sandbox import describe_sandbox

_PR_SET_DUMPABLE = 4


def forbid_dumps() -> bool:
    """Make this process, and those that it forks, undumpable; return whether it also keeps tracers out (on Linux).

    A process of another program starts dumpable again. Root may read everything still.
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # https://man7.org/linux/man-pages/man2/pr_set_dumpable.2const.html
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def harden() -> None:
    """Forbid dumps, and log in a line what holds of that and of the decoder's confinement; takes 0.1 s."""
    own = "this process cannot be dumped or traced" if forbid_dumps() else "this process can be traced by its own user"
    try:
        logger.info("{}; {}", own, describe_sandbox())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("{}; what the process that decodes photos may do is not known ({})", own, type(error).__name__)
