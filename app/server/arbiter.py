"""gunicorn's master, taught to replace workers one at a time, each after its successor serves.

gunicorn's own reload starts all new workers, ends all old ones before those serve, and ends itself if one of the new
does not start. Here there is one worker more than usual at the most: the memory is counted for the usual number
(app/runtime/capacity.py).

Master and worker speak by the permissions of the file that gunicorn has for the worker's heartbeat. It has no name, so
they permit nothing, and to change them takes no memory and leaves the time of the heartbeat alone.
"""

import importlib
import os
import signal
import stat
import sys
import time
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.pidfile import Pidfile

# Said by the worker: it accepts connections; it has answered its number of requests and wants to be replaced.
SERVES = stat.S_IXUSR
WORN_OUT = stat.S_IXGRP
# Said by the master: another worker serves in its place.
REPLACED = stat.S_IXOTH

# How often the master looks what the workers say while it waits for one.
POLL_SECONDS = 0.1
# Between a worker that did not start and the next try, while others serve.
RETRY_SECONDS = 5.0
# What gunicorn's own `setup` takes from its settings.
SET_UP = ("cfg", "worker_class", "address", "num_workers", "timeout", "proc_name")
# They hold what belongs to this process, not to a release: the name of the folder that its workers share.
KEPT_MODULES = frozenset({"app.observability.metrics_multiprocess"})


def say(worker: Any, sign: int) -> None:
    """Say something about a worker, which is never taken back; by itself or by the master."""
    os.fchmod(worker.tmp.fileno(), stat.S_IMODE(os.fstat(worker.tmp.fileno()).st_mode) | sign)


def is_said(worker: Any, sign: int) -> bool:
    """Whether it was said."""
    return bool(os.fstat(worker.tmp.fileno()).st_mode & sign)


class RollingArbiter(Arbiter):  # type: ignore[misc]  # it comes without types
    """gunicorn's master, which `gunicorn_config.py` makes of the usual one.

    A worker is *leaving* once it was told to end, and *outdated* if it is as old as those of before the last reload.
    """

    pidfile: Pidfile | None
    _outdated_age = 0
    # Workers that were told to end, by process id: when they are killed, in seconds of the monotonic clock.
    _killed_at: Mapping[int, float] = {}
    _spawns_at = 0.0
    # What the last reload has replaced, until a worker serves with the new.
    _before: tuple[dict[str, Any], dict[str, ModuleType]] | None = None

    def wait_for_signals(self, timeout: float = 1.0) -> Any:
        """Wait for signals; not for long while a worker is replaced."""
        is_waiting = self._killed_at or any(not is_said(each, SERVES) for each in self.WORKERS.values())
        return super().wait_for_signals(POLL_SECONDS if is_waiting or self._to_replace() else timeout)

    def reload(self) -> None:
        """Read the settings and our modules again, and replace all workers, one after the other.

        If that cannot be read, or no worker can serve with it, all stays as it was, and the log says so.
        """
        self._stats["reloads"] += 1
        before = {name: getattr(self, name) for name in SET_UP}, _forget_modules()
        refused = "reload refused, the workers stay as they are"
        try:
            _take_back_environment(self.cfg)
            self.app.reload()
            if self.app.cfg.address != self.address:
                raise ValueError("the address has changed, which takes a restart")
            self.setup(self.app)
        except SystemExit as error:
            # Its text is for people; where it is a number, gunicorn has said why.
            self.log.error("%s: %s", refused, error)  # noqa: TRY400
            self._restore(*before)
            return
        except Exception:
            self.log.exception(refused)
            self._restore(*before)
            return
        self._before = before
        self.log.reopen_files()
        self.cfg.on_reload(self)
        self._write_pidfile()
        util._setproctitle(f"master [{self.proc_name}]")  # noqa: SLF001 - gunicorn's own
        self._outdated_age = self.worker_age
        self._spawns_at = 0.0
        self.manage_workers()

    def manage_workers(self) -> None:
        """Start the workers that are missing, and replace one that has to be."""
        self._see_whether_the_new_serve()
        self._let_go()
        self._kill_who_stays()
        staying = self._staying()
        wanted = self.num_workers - len(staying)
        if wanted <= 0:
            wanted = 1 if self._to_replace() and all(is_said(each, SERVES) for each in staying) else 0
        room = self.num_workers + 1 - len(self.WORKERS)
        if time.monotonic() < self._spawns_at:
            return
        for _ in range(min(wanted, room)):
            self.spawn_worker()

    def reap_workers(self) -> None:
        """Note which workers have ended. One that does not start ends the service only if no other serves."""
        starting = {pid: each for pid, each in self.WORKERS.items() if not is_said(each, SERVES)}
        while True:
            try:
                super().reap_workers()
            except HaltServer:
                if not any(is_said(each, SERVES) for each in self.WORKERS.values()):
                    raise
                # gunicorn had forgotten it already, but not cleared up.
                for pid, worker in starting.items():
                    if pid not in self.WORKERS and not worker.tmp._tmp.closed:  # noqa: SLF001 - it has no other way
                        worker.tmp.close()
                        self.cfg.child_exit(self, worker)
            else:
                break
        if failed := [pid for pid in starting if pid not in self.WORKERS and pid not in self._killed_at]:
            self._note_failure(failed, has_new=any(starting[pid].age > self._outdated_age for pid in failed))
        self._killed_at = {pid: at for pid, at in self._killed_at.items() if pid in self.WORKERS}

    def _note_failure(self, pids: Collection[int], *, has_new: bool) -> None:
        text = f"worker {', '.join(map(str, pids))} did not start (its own lines above say why)"
        self._spawns_at = time.monotonic() + RETRY_SECONDS
        if self._before is None or not has_new:
            self.log.error("%s; the next try is in %.0f s", text, RETRY_SECONDS)
            return
        self.log.error("reload given up, the old workers go on serving: %s", text)
        self._restore(*self._before)
        self._before = None
        self._outdated_age = 0

    def _see_whether_the_new_serve(self) -> None:
        if self._before is not None and any(
            worker.age > self._outdated_age and is_said(worker, SERVES) for worker in self.WORKERS.values()
        ):
            self._before = None

    def _staying(self) -> list[Any]:
        """Return the workers that were not told to end, the oldest first."""
        staying = (worker for pid, worker in self.WORKERS.items() if pid not in self._killed_at)
        return sorted(staying, key=lambda worker: worker.age)

    def _to_replace(self) -> list[Any]:
        """Return the workers for which others have to come, the oldest first."""
        return [each for each in self._staying() if each.age <= self._outdated_age or is_said(each, WORN_OUT)]

    def _let_go(self) -> None:
        """Tell those workers to end that the others can do without."""
        staying = self._staying()
        serving = [each for each in staying if is_said(each, SERVES)]
        spare = len(serving) - self.num_workers
        to_replace = self._to_replace()
        for worker in [*to_replace, *(each for each in staying if each not in to_replace)]:
            # One that has not begun to serve, with a release that is replaced already, is of no use.
            if serving and worker not in serving and worker.age <= self._outdated_age:
                self._tell_to_end(worker)
            elif worker in serving and spare > 0:
                spare -= 1
                self._tell_to_end(worker)

    def _tell_to_end(self, worker: Any) -> None:
        seconds = self.cfg.graceful_timeout
        if worker.age > self._outdated_age and is_said(worker, WORN_OUT):
            # It leaves at its leisure (app/server/draining.py).
            seconds += self.cfg.keepalive
            say(worker, REPLACED)
        else:
            self.kill_worker(worker.pid, signal.SIGTERM)
        self._killed_at = {**self._killed_at, worker.pid: time.monotonic() + seconds}

    def _kill_who_stays(self) -> None:
        for pid, at in self._killed_at.items():
            if time.monotonic() > at:
                self.kill_worker(pid, signal.SIGKILL)

    def _write_pidfile(self) -> None:
        if self.pidfile is not None:
            self.pidfile.unlink()
        if self.cfg.pidfile is not None:
            self.pidfile = Pidfile(self.cfg.pidfile)
            self.pidfile.create(self.pid)

    def _restore(self, attributes: Mapping[str, Any], modules: Mapping[str, ModuleType]) -> None:
        """Go back to what was there before a reload. Nothing is read anew: it may not be readable."""
        _forget_modules()
        sys.modules.update(modules)
        _take_back_environment(self.cfg)
        for name, value in attributes.items():
            setattr(self, name, value)
        self.app.cfg = self.cfg
        os.environ.update(self.cfg.env)


def _take_back_environment(cfg: Any) -> None:
    """Take back the variables that gunicorn's settings have set (`raw_env`)."""
    for name in cfg.env:
        if name in cfg.env_orig:
            os.environ[name] = cfg.env_orig[name]
        else:
            os.environ.pop(name, None)


def _forget_modules() -> dict[str, ModuleType]:
    """Have the next import of our modules read their files again; return those that were loaded."""
    importlib.invalidate_caches()
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "app"}
    for name in ours.keys() - KEPT_MODULES:
        del sys.modules[name]
    return ours
