"""What a site of several instances is made of: nginx, instances of the service, and an HAProxy beside each."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from app.config.settings import PROJECT_ROOT
from tests.servers.galera import PASSWORD, USER, GaleraCluster, Node
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.servers.programs import get_program
from tests.support.running import COMMANDS

OUTPUT_SHOWN = 6000

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
worker_processes 1;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    upstream instances {{ {servers} keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 20m;
        location / {{
            proxy_pass http://instances;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 120s;
        }}
    }}
}}
"""


class Site:
    """Two instances on one database of the cluster; `url` is nginx."""

    def __init__(self, cluster: GaleraCluster, database: str, environment: dict[str, str], directory: Path) -> None:
        self.cluster = cluster
        self.database = database
        self.url = ""
        self.instances: list[RunningProcess] = []
        self.proxies: list[RunningProcess] = []
        self._environment = environment
        self._directory = directory
        self._stack = ExitStack()

    def start(self, addresses: Sequence[int]) -> None:
        """Start an instance for each port of `addresses`, where it finds the database, and nginx before them."""
        ports = [self._start_instance(number, address) for number, address in enumerate(addresses)]
        port = free_port()
        (self._directory / "nginx").mkdir()
        configuration = self._directory / "nginx.conf"
        configuration.write_text(
            NGINX.format(
                directory=self._directory / "nginx",
                user="user root;" if os.geteuid() == 0 else "",
                servers=" ".join(f"server 127.0.0.1:{each};" for each in ports),
                port=port,
            )
        )
        self._stack.enter_context(
            start_process(
                [get_program("nginx", "nginx-light"), "-c", configuration, "-p", self._directory],
                ready=lambda: answers_http(port, "/api/v1/health/live"),
            )
        )
        self.url = f"http://127.0.0.1:{port}"

    def start_proxy(self) -> int:
        """Start an HAProxy with our configuration, and return the port on which it leads to the cluster."""
        port = free_port()
        nodes = {f"DB_NODE_{number}": f"127.0.0.1:{node.port}" for number, node in enumerate(self.cluster.nodes, 1)}
        process = self._stack.enter_context(
            start_process(
                [get_program("haproxy", "haproxy"), "-db", "-f", PROJECT_ROOT / "deploy" / "haproxy.cfg"],
                ready=lambda: Node(Path(), port, 0, 0, 0).is_synced(),
                env={"DB_LISTEN": f"127.0.0.1:{port}", **nodes},
            )
        )
        self.proxies.append(process)
        return port

    def close(self) -> None:
        self._stack.close()

    def _start_instance(self, number: int, database_port: int) -> int:
        port = free_port()
        folder = self._directory / f"instance{number}"
        folder.mkdir()
        environment = {
            **self._environment,
            "DATABASE_URL": f"mysql://{USER}:{PASSWORD}@127.0.0.1:{database_port}/{self.database}",
            "APP_PORT": str(port),
            "DATA_DIR": str(folder),
            "LOG_DIR": "",
            "WEB_CONCURRENCY": "1",
            "SECRET_KEY": "k" * 32,
        }
        process = self._stack.enter_context(
            start_process(
                COMMANDS["gunicorn"],
                ready=lambda: answers_http(port, "/api/v1/health"),
                env=environment,
                cwd=PROJECT_ROOT,
                ready_within_seconds=90,
            )
        )
        self.instances.append(process)
        return port


@asynccontextmanager
async def site_on(
    cluster: GaleraCluster, database: str, environment: dict[str, str], directory: Path
) -> AsyncIterator[Site]:
    (directory / "tmp").mkdir()
    site = Site(cluster, database, environment, directory)
    try:
        yield site
    except BaseException:
        for process in [*site.instances, *site.proxies]:
            print(process.output()[-OUTPUT_SHOWN:])
        raise
    finally:
        await asyncio.to_thread(site.close)
