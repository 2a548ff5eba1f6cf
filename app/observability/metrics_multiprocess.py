"""The files in which gunicorn's workers count for `/metrics`, and what becomes of those of a worker that has ended.

prometheus-client has a file per process and kind of metric. The counts of a process that has ended still count, so its
files would have to stay, and a busy service replaces its workers every few minutes. So the master adds them up
in one file; a lock keeps a scrape from seeing a count in both places or in neither.
"""

import atexit
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
FOLDER_PREFIX = "image-classifier-metrics-"
LOCK_NAME = "lock"
# Locked as long as the folder's master or one of its workers lives.
OWNER_NAME = "owner"
# In place of a process id; prometheus-client takes any.
ENDED = "ended"
_SUMMED_FILE = re.compile(r"(counter|histogram)_(\d+)\.db")

_folder: str | None = None


def provide_folder(parent: str | None) -> None:
    """Make a folder for the files of this process' workers and name it to them; it is removed with this process.

    Call it before prometheus-client is imported. A second call, such as at a reload, changes nothing.

    Args:
        parent: where; None: the system's folder of temporary files.
    """
    global _folder  # noqa: PLW0603 - one per process, also when gunicorn reads its settings again
    if _folder is None:
        _folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent)
        _remove_abandoned(Path(_folder).parent)
        _own(_folder)
        atexit.register(_remove_folder, _folder, os.getpid())
    os.environ[VARIABLE] = _folder


def shared_folder() -> Path | None:
    """Return the folder that the processes of an instance share; None in a process that has no master."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def gauges_of_instance(labels: Mapping[str, str]) -> dict[str, float] | None:
    """Return by name what the gauges with these labels say, over all processes that share a folder; None without one.

    Args:
        labels: all that the gauges have.
    """
    folder = shared_folder()
    if folder is None:
        return None
    from prometheus_client.multiprocess import MultiProcessCollector

    with locked_folder(str(folder)):
        families = MultiProcessCollector.merge([str(file) for file in folder.glob("gauge_*.db")], accumulate=True)
    samples = (sample for family in families for sample in family.samples)
    return {sample.name: sample.value for sample in samples if sample.labels == labels}


def add_up_ended(living: Collection[int]) -> None:
    """Add the files of processes that have ended to one; `living` are the ids of those that may still write.

    It does not wait: while a scrape reads the files, they stay for the next time.
    """
    from prometheus_client.mmap_dict import MmapedDict
    from prometheus_client.multiprocess import mark_process_dead

    if _folder is None:
        return
    for file in Path(_folder).glob("*.db"):
        process_id = file.stem.rpartition("_")[2]
        if process_id.isdigit() and int(process_id) not in living:
            mark_process_dead(int(process_id), _folder)
    try:
        with locked_folder(_folder, exclusive=True):
            for file in Path(_folder).iterdir():
                match = _SUMMED_FILE.fullmatch(file.name)
                if match is None or int(match[2]) in living:
                    continue
                total = MmapedDict(str(file.with_name(f"{match[1]}_{ENDED}.db")))
                for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):
                    total.write_value(key, total.read_value(key)[0] + value, timestamp)
                total.close()
                file.unlink()
    except BlockingIOError:
        return


@contextmanager
def locked_folder(folder: str, *, exclusive: bool = False) -> Iterator[None]:
    """Keep the files in their places for the length of the block.

    Raises:
        BlockingIOError: `exclusive` is asked for, and another process has the lock.
    """
    with (Path(folder) / LOCK_NAME).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        yield


def _own(folder: str) -> None:
    file = Path(folder) / f"{OWNER_NAME}.new"
    owner = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    # Never closed: forks have it too, and the kernel lets go of it when the last of them ends, however it ends.
    fcntl.flock(owner, fcntl.LOCK_EX)
    # Its name only now: another master that starts at this moment must not take it for that of a dead one.
    file.rename(Path(folder) / OWNER_NAME)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of masters that were killed."""
    for file in parent.glob(f"{FOLDER_PREFIX}*/{OWNER_NAME}"):
        # Another user's file cannot be opened, and one that is in use cannot be locked. What a stranger puts there can
        # neither keep us waiting nor lead us elsewhere.
        with suppress(OSError):
            owner = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent)
            finally:
                os.close(owner)


def _remove_folder(folder: str, owner: int) -> None:
    # Workers are forks, and end as the master does.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
