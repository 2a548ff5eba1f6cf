"""What a fault is: a block during which something is broken, how long it lasts, and what it needs of the site."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.faults.site import Site


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by its name.

    `happens` gives the block: entering it breaks something, leaving it mends that; both may take their time. What
    brings a part back has done so when the block is left: recovery is counted from there. `seconds` is how long the
    block lasts.

    `settings` are variables of the service, `gunicorn_options` further ones of its command line; `prepare_folder`
    mounts a disk below the site's folder, which needs root.
    """

    name: str
    happens: Callable[[Site], AbstractContextManager[None]]
    seconds: float = 6.0
    settings: Mapping[str, str] = field(default_factory=dict)
    gunicorn_options: Sequence[str] = ()
    with_proxy: bool = False
    with_redis: bool = False
    prepare_folder: Callable[[Path], AbstractContextManager[None]] | None = None

    @property
    def needs_root(self) -> bool:
        """Whether only root can have it happen."""
        return self.prepare_folder is not None
