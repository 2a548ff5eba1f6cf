"""Running the scripts of deploy/backup/."""

import os
import subprocess
from pathlib import Path

from sqlalchemy.engine import make_url

from scripts.mysql_programs import search_path
from tests.servers.databases import Servers
from tests.servers.programs import get_mysql_clients, get_program
from tests.support.deploy_tools import DEPLOY

BACKUP, RESTORE = DEPLOY / "backup" / "backup.sh", DEPLOY / "backup" / "restore.sh"


def client_path(servers: Servers, kind: str) -> str:
    """A PATH on which the client programs are those of the server's maker."""
    if kind == "mysql" and servers.mysql_is_real:
        return f"{get_mysql_clients()}{os.pathsep}{search_path()}"
    get_program("mariadb-dump", "mariadb-client")
    return search_path()


def variables(folder: Path, server: str, database: str, path: str, *, password: str = "") -> dict[str, str]:
    """The environment of a script for one database; the option file is made in `folder`."""
    url = make_url(server)
    folder.mkdir(exist_ok=True)
    option_file = folder / f"{database}.cnf"
    option_file.touch(mode=0o600)
    secret = password or str(url.password or "")
    option_file.write_text(
        f"[client]\nhost={url.host}\nport={url.port}\nuser={url.username}\n"
        + (f"password={secret}\n" if secret else "")
    )
    return {"PATH": path, "MYSQL_OPTION_FILE": str(option_file), "MYSQL_DATABASE": database}


def run_script(
    script: Path, environment: dict[str, str], *arguments: str | Path, file_blocks: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script; it may write no file of more than `file_blocks` blocks of 1024 bytes."""
    limit = [] if file_blocks is None else ["bash", "-c", 'ulimit -f "$0" && exec "$@"', str(file_blocks)]
    return subprocess.run(  # noqa: S603 - our own script
        [*limit, script, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def backups_in(folder: Path) -> list[Path]:
    """Backups, finished or not."""
    return list(folder.glob("*.sql.gz*"))


def back_up(environment: dict[str, str], folder: Path) -> Path:
    done = run_script(BACKUP, {**environment, "BACKUP_DIR": str(folder)})
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def restore(environment: dict[str, str], backup: Path) -> str:
    done = run_script(RESTORE, environment, backup)
    assert done.returncode == 0, done.stderr
    return done.stdout
